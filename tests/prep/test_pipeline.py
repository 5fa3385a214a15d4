import numpy as np
import pytest
import torch

from u2net3d.infer import restore as back
from u2net3d.prep.pipeline import nonzero_box, prepare, prepare_label
from u2net3d.spec import Plan, ZScoreNormalisation
from u2net3d.volume import Volume

ISO = (1.0, 1.0, 1.0)


def restore(logits, preparation):
    return back.restore((plane.numpy() for plane in logits.unbind(1)), preparation)


def restore_both(logits, preparation):
    slices = (plane.numpy() for plane in logits.unbind(1))
    found = back.restore_both(slices, preparation, len(logits))
    labels, shares = zip(*((label.copy(), share.copy()) for label, share in found), strict=True)
    return np.stack(labels), np.stack(shares, axis=1)


def plan(spacing, *, nonzero_only=False, channels=1):
    return Plan(
        spacing_mm=spacing,
        normalisation=(ZScoreNormalisation(nonzero_only=nonzero_only),) * channels,
        patch_size=(16, 16, 16),
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
    )


def volume(array, spacing=ISO):
    return Volume(array, np.diag([*spacing, 1.0]))


def blobs(shape, spacing):
    """Two touching smooth labels (1 and 2) and an image in which they show."""
    size = np.multiply(shape, spacing)
    axes = [(np.arange(n) + 0.5) * mm - n * mm / 2 for n, mm in zip(shape, spacing, strict=True)]
    d, h, w = np.meshgrid(*axes, indexing="ij")
    inside = d**2 + h**2 + w**2 < (0.38 * size.min()) ** 2
    tilted = d + h + w  # oblique: an edge on the grid would be a tie
    label = np.where(inside, np.where(tilted < 0, 1, 2), 0).astype(np.int16)
    return (label * 100.0 + 1)[None].astype(np.float32), label


def one_hot(label, classes=3):
    return torch.from_numpy(np.stack([label == k for k in range(classes)]).astype(np.float32))


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_the_box_holds_every_voxel_that_is_not_0_in_any_channel():
    image = np.zeros((2, 5, 6, 7), np.float32)
    image[0, 1, 2, 3] = 1
    image[1, 3, 2, 5] = -1
    assert nonzero_box(image) == ((1, 2, 3), (4, 3, 6))


@pytest.mark.parametrize("share", [0.0, 0.002, 0.02, 0.5])
def test_the_box_is_that_of_all_places_that_are_not_0(share):
    rng = np.random.default_rng(0)
    for _ in range(20):
        image = (rng.random((2, *rng.integers(1, 12, 3))) < share).astype(np.float32)
        places = np.argwhere(image.any(axis=0))
        found = (places.min(axis=0), places.max(axis=0) + 1) if len(places) else None
        expected = found or ((0, 0, 0), image.shape[1:])
        assert nonzero_box(image) == tuple(tuple(map(int, ends)) for ends in expected)


def test_without_a_change_of_spacing_restore_gives_the_label_back_bit_for_bit():
    image, label = blobs((12, 15, 18), ISO)
    image = np.where(label[None] > 0, image, 0)  # so that the crop takes something away
    prepared, preparation = prepare(volume(image), plan(ISO))
    assert prepared.shape[1:] == preparation.prepared_shape != (12, 15, 18)
    kept = prepare_label(volume(label[None]), preparation)
    result = restore(one_hot(kept), preparation)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, label)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 1.0, 1.0), (1.3, 1.7, 1.1)])
@pytest.mark.parametrize("target", [(1.5, 1.5, 1.5), (2.2, 1.1, 1.4)])
def test_with_a_change_of_spacing_smooth_labels_come_back(spacing, target):
    image, label = blobs((48, 52, 46), spacing)
    _, preparation = prepare(volume(image, spacing), plan(target))
    kept = prepare_label(volume(label[None], spacing), preparation)
    result = restore(one_hot(kept), preparation)
    assert result.shape == label.shape
    for value in (1, 2):
        assert dice(result == value, label == value) > 0.97


def test_thick_slices_come_back():
    spacing, target = (5.0, 1.0, 1.0), (4.0, 1.25, 1.25)
    image, label = blobs((20, 90, 90), spacing)
    _, preparation = prepare(volume(image, spacing), plan(target))
    assert preparation.prepared_shape == (25, 72, 72)
    kept = prepare_label(volume(label[None], spacing), preparation)
    result = restore(one_hot(kept), preparation)
    assert min(dice(result == value, label == value) for value in (1, 2)) > 0.97


def test_what_lies_outside_the_crop_is_background():
    image = np.zeros((1, 6, 6, 6), np.float32)
    image[0, 2:4, 2:4, 2:4] = np.arange(1, 9).reshape(2, 2, 2)
    _, preparation = prepare(volume(image), plan(ISO))
    result = restore(one_hot(np.ones((2, 2, 2)), 2), preparation)
    np.testing.assert_array_equal(result, image[0] > 0)


@pytest.mark.parametrize("nonzero_only", [False, True])
@pytest.mark.parametrize("target", [ISO, (2.0, 2.0, 2.0)])
def test_an_all_zero_image_is_prepared_and_restored(nonzero_only, target):
    image = volume(np.zeros((1, 4, 6, 8), np.float32))
    prepared, preparation = prepare(image, plan(target, nonzero_only=nonzero_only))
    np.testing.assert_array_equal(prepared, 0)
    result = restore(torch.zeros(2, *preparation.prepared_shape), preparation)
    np.testing.assert_array_equal(result, np.zeros((4, 6, 8)))


def test_ignored_voxels_reach_the_prepared_label():
    image, label = blobs((20, 20, 20), ISO)
    label[:10] = -1
    _, preparation = prepare(volume(image), plan((0.5, 0.5, 0.5)))
    kept = prepare_label(volume(label[None]), preparation)
    assert kept.dtype == np.int16
    assert (kept[:20] == -1).all()
    assert (kept[20:] >= 0).all()


def test_the_image_is_normalised_before_it_is_resampled():
    image, _ = blobs((16, 16, 16), ISO)
    plain, _ = prepare(volume(image), plan(ISO))
    fine, _ = prepare(volume(image), plan((0.5, 0.5, 0.5)))
    assert plain.std() == pytest.approx(1, abs=1e-5)
    assert fine.max() == pytest.approx(plain.max())  # scaled by the coarse voxels' statistics


def test_logits_of_another_shape_are_refused():
    image, _ = blobs((16, 16, 16), ISO)
    _, preparation = prepare(volume(image), plan(ISO))
    with pytest.raises(ValueError):
        restore(torch.zeros(2, 3, 3, 3), preparation)


def test_an_image_with_too_many_channels_is_refused():
    with pytest.raises(ValueError):
        prepare(volume(np.ones((2, 4, 4, 4), np.float32)), plan(ISO))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.7, 0.8, 1.3)])
def test_the_largest_probability_is_the_label_and_all_sum_to_one(spacing):
    image = np.zeros((1, 14, 12, 11), np.float32)
    image[:, 2:12, 3:11, 1:9] = np.random.default_rng(0).normal(50, 9, (1, 10, 8, 8))
    prepared, preparation = prepare(volume(image), plan(spacing))
    torch.manual_seed(0)
    logits = 3 * torch.randn(4, *prepared.shape[1:])
    label, shares = restore_both(logits, preparation)
    assert np.array_equal(label, restore(logits, preparation))
    assert (shares.dtype, shares.shape) == (np.uint16, (4, 14, 12, 11))
    assert np.abs(shares.astype(int).sum(0) - 65535).max() <= 2  # each is rounded
    ordered = np.sort(shares.astype(int), axis=0)
    clear = ordered[-1] - ordered[-2] > 1
    assert clear.mean() > 0.99
    assert np.array_equal(shares.argmax(0)[clear], label[clear])
    outside = np.ones(label.shape, bool)
    outside[2:12, 3:11, 1:9] = False
    assert (shares[0][outside] == 65535).all()
    if spacing == (1.0, 1.0, 1.0):
        expected = logits.softmax(0).numpy()
        found = shares[:, 2:12, 3:11, 1:9] / 65535
        np.testing.assert_allclose(found, expected, atol=0.51 / 65535)
