"""Stitching, with engines whose answer is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from u2net3d.infer.engine import sliding_slices, torch_engine
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.patches.sample import mirrored
from u2net3d.spec import DomainSpec, Mirroring, Plan, ZScoreNormalisation

PATCH = (8, 8, 8)
SHAPES = [(8, 8, 8), (3, 5, 7), (1, 8, 20), (9, 17, 8), (40, 11, 26)]
LEFT_RIGHT = Mirroring(axes=(0, 2), swap_axis=2, swap=((1, 2),))


def spec(classes=2, channels=2, mirroring=None):
    plan = Plan(
        spacing_mm=(1, 1, 1),
        normalisation=(ZScoreNormalisation(),) * channels,
        patch_size=PATCH,
        batch_size=1,
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
    )
    return DomainSpec(
        name="liver",
        channels=tuple(f"channel {i}" for i in range(channels)),
        labels=tuple(f"label {i}" for i in range(classes)),
        mirroring=mirroring or Mirroring(),
        plan=plan,
    )


def image(shape, channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)


def sliding_logits(engine, image, spec, **options):
    """All of `sliding_slices` at once, (K, D, H, W)."""
    slices = sliding_slices(engine, image, spec, **options)
    return np.stack([plane.copy() for plane in slices], axis=1)


def itself(patch):
    return patch


def brightness_of_sides(patch):
    """Three classes: background 0, the low and the high half of W see their own brightness."""
    half = patch.shape[-1] // 2
    logits = np.zeros((1, 3, *patch.shape[2:]), np.float32)
    logits[:, 1, ..., :half] = patch[:, 0, ..., :half]
    logits[:, 2, ..., half:] = patch[:, 0, ..., half:]
    return logits


@pytest.mark.parametrize("overlap", [0, 0.5, 0.8])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_engine_returns_comes_back_at_its_own_voxel(shape, overlap):
    x = image(shape)
    logits = sliding_logits(itself, x, spec(), overlap=overlap)
    assert tuple(logits.shape) == (2, *shape)
    np.testing.assert_allclose(logits, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_constant_logits_stay_constant(shape):
    constant = np.array([-3.0, 0.5, 2.0], np.float32).reshape(1, 3, 1, 1, 1)
    logits = sliding_logits(
        lambda patch: np.broadcast_to(constant, (1, 3, *patch.shape[2:])),
        image(shape),
        spec(classes=3),
    )
    expected = np.broadcast_to(constant[0], (3, *shape))
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)


def test_the_engine_sees_whole_patches_alone():
    seen = []

    def remember(patch):
        seen.append(tuple(patch.shape))
        return patch

    sliding_logits(remember, image((5, 9, 20)), spec())
    assert set(seen) == {(1, 2, *PATCH)}
    assert len(seen) == 1 * 2 * 4


def test_borders_are_mirrored():
    # A volume of 4 in a patch of 8 is seen as 2 1 | 0 1 2 3 | 2 1: neither zeros nor edges.
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4) * np.ones((1, 8, 8, 1), np.float32)
    seen = []

    def remember(patch):
        seen.append(patch[0, 0, 3, 3].tolist())
        return patch.repeat(2, axis=1)

    logits = sliding_logits(remember, x, spec(channels=1))
    assert seen == [[2, 1, 0, 1, 2, 3, 2, 1]]
    np.testing.assert_allclose(logits[0], x[0], rtol=1e-6)


def test_a_voxel_counts_more_where_it_is_in_the_middle_of_a_tile():
    # Two tiles share voxels 4 to 7 along W; each answers with its own number.
    numbers = iter([0.0, 1.0])
    x = image((8, 8, 12))
    logits = sliding_logits(
        lambda _patch: np.full((1, 2, *PATCH), next(numbers), np.float32), x, spec()
    )
    row = logits[0, 4, 4]
    assert row[:4].tolist() == [0] * 4
    assert row[8:].tolist() == [1] * 4
    assert (np.diff(row[4:8]) > 0).all()
    assert row[4] + row[7] == pytest.approx(1)
    assert row[4] < 0.1


def test_averaging_reflections_changes_nothing_where_the_network_is_symmetric():
    x = image((9, 12, 10))
    logits = sliding_logits(itself, x, spec(), tta=True)
    np.testing.assert_allclose(logits, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 5, 8)])
def test_left_and_right_labels_are_swapped_back(shape):
    # The engine knows left from right by the place alone, as a perfect network would.
    domain = spec(classes=3, channels=1, mirroring=LEFT_RIGHT)
    x = np.abs(image(shape, channels=1))
    plain = sliding_logits(brightness_of_sides, x, domain)
    averaged = sliding_logits(brightness_of_sides, x, domain, tta=True)
    np.testing.assert_allclose(averaged, plain, rtol=1e-5, atol=1e-6)
    assert (plain[1, ..., :4] > 0).all()
    assert (plain[2, ..., :4] == 0).all()
    unswapped = spec(classes=3, channels=1, mirroring=Mirroring(axes=(0, 2)))
    assert not np.allclose(sliding_logits(brightness_of_sides, x, unswapped, tta=True), plain)


def test_only_reflections_that_keep_the_labels_true_are_averaged():
    calls = []

    def count(patch):
        calls.append(patch)
        return patch

    for axes, views in (((), 1), ((1,), 2), ((0, 2), 4), ((0, 1, 2), 8)):
        calls.clear()
        sliding_logits(count, image(PATCH), spec(mirroring=Mirroring(axes=axes)), tta=True)
        assert len(calls) == views


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_memory_decides_no_bit(shape, tta):
    domain, x = spec(), image(shape)
    kept = sliding_logits(itself, x, domain, tta=tta)
    slices = sliding_slices(itself, x, domain, tta=tta, limit_bytes=0)
    np.testing.assert_array_equal(np.stack([plane.copy() for plane in slices], axis=1), kept)


def test_tiles_without_contrast_are_computed_once_and_answer_as_any_other():
    """Of ten tiles, four hold one value per channel, two another one, and four have contrast."""
    x = image((40, 16, 8))
    x[:, :16], x[0, 16:24], x[1, 16:24] = -3, -3, 7
    seen = []

    def run(patch):
        seen.append(patch[0, :, 0, 0, 0])
        return np.cumsum(patch, axis=4)

    logits = sliding_logits(run, x, spec(), overlap=0)
    assert len(seen) == 1 + 1 + 4
    expected = np.cumsum(x, axis=3)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_slices_come_as_soon_as_no_later_tile_touches_them():
    # Tiles along D begin at 0, 4, ..., 16: behind each but the last, four slices are final.
    seen = []

    def remember(patch):
        seen.append(patch)
        return patch

    slices = sliding_slices(remember, image((24, 8, 8)), spec())
    assert [len(seen) for _ in slices] == [z // 4 + 1 for z in range(16)] + [5] * 8


def test_the_network_as_an_engine_answers_as_the_network():
    torch.manual_seed(0)
    domain, net = spec(), UniversalNet(base_channels=2, stages=2)
    net.add_bank("liver", BankShape.of(domain))
    x = image(PATCH)
    engine = torch_engine(net.eval(), "liver", torch.device("cpu"))
    with torch.no_grad():
        expected = net(torch.from_numpy(x)[None], "liver")[0][0]
    logits = sliding_logits(engine, x, domain)
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-5, atol=1e-5)


def with_margin(margin):
    found = spec()
    return found.model_copy(update={"plan": found.plan.model_copy(update={"margin": margin})})


@pytest.mark.parametrize("shape", SHAPES)
def test_with_a_margin_every_voxel_is_answered_with_what_is_around_it(shape):
    margin = (3, 0, 2)

    def corner(seen):  # at every voxel the one that is a margin before it in D and W
        assert seen.shape[2:] == (14, 8, 12)
        return seen[:, :, :8, :, :8]

    x = around = image(shape)
    for axis, (m, n) in enumerate(zip(margin, shape, strict=True), start=1):
        around = around.take(mirrored(-m, n, n), axis)
    found = sliding_logits(corner, x, with_margin(margin))
    np.testing.assert_allclose(found, around, rtol=1e-5, atol=1e-5)


def test_with_a_margin_answers_lie_side_by_side():
    asked = []

    def counted(seen):
        asked.append(seen.shape)
        return seen[:, :, 1:-1, 1:-1, 1:-1]

    sliding_logits(counted, image((16, 8, 24)), with_margin((1, 1, 1)), overlap=0.5)
    assert len(asked) == 2 * 1 * 3


def test_of_a_larger_answer_the_middle_is_the_patch():
    x = image((8, 8, 8))
    found = sliding_logits(itself, x, with_margin((2, 1, 0)))
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)
