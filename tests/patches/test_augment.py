import math

import numpy as np
import pytest
import torch

from u2net3d.patches.augment import Augmentation, augmented_patch, draw, thick_axis
from u2net3d.patches.intensity import Intensity
from u2net3d.patches.sample import read_patch
from u2net3d.patches.spatial import Spatial
from u2net3d.spec import Mirroring


def many(spec, n=2000):
    rng = np.random.default_rng(0)
    return [draw(rng, spec) for _ in range(n)]


def test_the_identity_leaves_a_patch_bit_for_bit(noisy_case, make_spec):
    case, spec = noisy_case((9, 9, 9), channels=2), make_spec(channels=2)
    image, label = augmented_patch(case, (0, -1, -2), spec, Augmentation())
    expected = read_patch(case, (0, -1, -2), spec.plan.patch_size)
    assert np.array_equal(image, expected[0])
    assert np.array_equal(label, expected[1])
    unchanged = Augmentation(intensity=(Intensity(), Intensity()))
    assert np.array_equal(augmented_patch(case, (0, -1, -2), spec, unchanged)[0], image)


def test_drawn_parameters_replay_and_never_write_to_the_case(noisy_case, make_spec):
    case, spec = noisy_case((12, 12, 12), channels=2), make_spec(channels=2)
    before = case.image.copy(), case.label.copy()
    for drawn in many(spec, 40):
        first = augmented_patch(case, (1, 1, 0), spec, drawn)
        second = augmented_patch(case, (1, 1, 0), spec, drawn)
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(first[1], second[1])
        assert np.isfinite(first[0]).all()
        assert set(np.unique(first[1]).tolist()) <= {-1, 0, 1, 2}
    assert np.array_equal(case.image, before[0])
    assert np.array_equal(case.label, before[1])


EVERYTHING = Augmentation(
    Spatial((0.4, 0.3, -0.5), 0.8, 0.4, 5),
    (0, 2),
    (Intensity(0.1, 4, (0.5, 0.7, 1.0), 1.2, 0.8, (0.6, 0.7, 0.8), 0.7, 1.5),),
)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_a_patch_has_the_same_bits_for_any_number_of_threads(noisy_case, make_spec, threads):
    case, spec = noisy_case((38, 60, 50)), make_spec(patch=(40, 56, 43))
    usual = torch.get_num_threads()
    patches = []
    for number in (1, threads):
        torch.set_num_threads(number)
        patches.append(augmented_patch(case, (-1, 0, 3), spec, EVERYTHING))
    torch.set_num_threads(usual)
    assert np.array_equal(patches[0][0], patches[1][0])
    assert np.array_equal(patches[0][1], patches[1][1])


def test_the_same_numbers_draw_the_same_augmentation(make_spec):
    assert many(make_spec(), 20) == many(make_spec(), 20)


def test_changes_are_drawn_about_as_often_as_promised(make_spec):
    drawn = many(make_spec(), 8000)
    share = {
        "turn": np.mean([any(a.spatial.turn_rad) for a in drawn]),
        "zoom": np.mean([a.spatial.zoom != 1 for a in drawn]),
        "bend": np.mean([a.spatial.bend > 0 for a in drawn]),
        "mirror": np.mean([1 in a.mirror for a in drawn]),
        "noise": np.mean([a.intensity[0].noise_std > 0 for a in drawn]),
        "blur": np.mean([any(a.intensity[0].blur_voxels) for a in drawn]),
        "gamma": np.mean([a.intensity[0].gamma != 1 for a in drawn]),
    }
    expected = {"turn": 0.2, "zoom": 0.2, "bend": 0.1, "mirror": 0.5}
    expected |= {"noise": 0.1, "blur": 0.1, "gamma": 0.3}
    assert share == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("spacing", "patch", "axis"),
    [
        ((1, 1, 1), (40, 56, 40), None),
        ((10, 1.5, 1.5), (10, 14, 16), 0),
        ((1.5, 1.5, 10), (16, 14, 10), 2),
        ((1, 1, 1), (16, 64, 48), 0),
        ((3, 1, 1), (32, 64, 64), None),
    ],
)
def test_an_axis_is_thick_by_spacing_or_by_patch(make_spec, spacing, patch, axis):
    assert thick_axis(make_spec(spacing=spacing, patch=patch).plan) == axis


def test_thick_slices_turn_only_in_their_plane_and_are_spared_otherwise(make_spec):
    drawn = many(make_spec(spacing=(10, 1.5, 1.5)), 400)
    turns = np.array([a.spatial.turn_rad for a in drawn])
    assert np.any(turns[:, 0])
    assert not np.any(turns[:, 1:])
    assert all(a.spatial.fixed_axis == 0 for a in drawn)
    assert all(a.intensity[0].detail[0] == 1 for a in drawn)
    assert all(a.intensity[0].blur_voxels[0] == 0 for a in drawn)


@pytest.mark.parametrize(
    ("spacing", "rules", "most"),
    [
        ((1, 1, 1), Mirroring(), 30),
        ((10, 1, 1), Mirroring(), 180),
        ((10, 1, 1), Mirroring(axes=(1,)), 30),
        ((10, 1, 1), Mirroring(swap_axis=2, swap=((1, 2),)), 30),
    ],
)
def test_a_patch_turns_freely_only_where_it_may_be_mirrored_both_ways(
    make_spec, spacing, rules, most
):
    drawn = many(make_spec(spacing=spacing, mirroring=rules))
    largest = math.degrees(max(max(map(abs, a.spatial.turn_rad)) for a in drawn))
    assert 0.9 * most < largest <= most


def test_only_allowed_axes_are_mirrored(make_spec):
    drawn = many(make_spec(mirroring=Mirroring(axes=(1,))), 200)
    assert {axis for a in drawn for axis in a.mirror} == {1}


def test_the_blank_outside_of_a_skull_stripped_brain_stays_zero(make_case, make_spec):
    image = np.zeros((1, 8, 10, 12))
    image[:, 2:6] = np.random.default_rng(0).standard_normal((1, 4, 10, 12))
    case = make_case(image, np.zeros((8, 10, 12)))
    noisy = Augmentation(Spatial(), (), (Intensity(noise_std=0.1),))
    stripped, _ = augmented_patch(case, (0, 0, 0), make_spec(nonzero=True), noisy)
    whole, _ = augmented_patch(case, (0, 0, 0), make_spec(), noisy)
    assert (stripped[:, :2] == 0).all()
    assert (whole[:, :2] != 0).all()
    assert np.array_equal(stripped[:, 2:6], whole[:, 2:6])
