import math

import numpy as np
import pytest

from u2net3d.patches.sample import read_patch
from u2net3d.patches.spatial import Spatial, mirror, resample_patch, source_points
from u2net3d.prep.cache import IGNORED
from u2net3d.spec import Mirroring

ISOTROPIC = (1.0, 1.0, 1.0)
QUARTER = math.pi / 2


def marked(make_case, at, shape=(9, 9, 9)):
    """A volume with a single voxel of 1, and that voxel as label 1."""
    label = np.zeros(shape)
    label[at] = 1
    return make_case(label[None], label)


def only_voxel(label):
    places = np.argwhere(label == 1).tolist()
    assert len(places) == 1
    return tuple(places[0])


@pytest.mark.parametrize(
    ("turn", "lands"),
    [
        # The marked voxel lies at (0, +3, +1) from the middle (4, 4, 4).
        ((QUARTER, 0, 0), (4, 3, 7)),  # about D, H to W: (0, +3, +1) -> (0, -1, +3)
        ((0, QUARTER, 0), (5, 7, 4)),  # about H, W to D: (0, +3, +1) -> (+1, +3, 0)
        ((0, 0, QUARTER), (1, 4, 5)),  # about W, D to H: (0, +3, +1) -> (-3, 0, +1)
    ],
)
def test_a_quarter_turn_takes_a_voxel_where_worked_out_by_hand(make_case, turn, lands):
    case = marked(make_case, (4, 7, 5))
    image, label = resample_patch(case, (0, 0, 0), (9, 9, 9), ISOTROPIC, Spatial(turn))
    assert only_voxel(label) == lands
    assert image[0][lands] == pytest.approx(1, abs=1e-5)
    assert image.sum() == pytest.approx(1, abs=1e-4)


def test_turns_happen_in_mm_so_thick_slices_are_not_sheared(make_case):
    case = marked(make_case, (4, 4, 4 + 4))  # 4 voxels of 1 mm towards W
    turn = Spatial((0, QUARTER, 0))  # W to D, where a voxel is 2 mm: 2 voxels
    _, label = resample_patch(case, (0, 0, 0), (9, 9, 9), (2, 1, 1), turn)
    assert label[4 + 2, 4, 4] == 1


def test_a_zoom_of_two_doubles_the_distance_from_the_middle(make_case):
    case = marked(make_case, (4, 5, 3))
    _, label = resample_patch(case, (0, 0, 0), (9, 9, 9), ISOTROPIC, Spatial(zoom=2))
    assert label[4, 6, 2] == 1
    assert label[4, 5, 3] == 0


def test_nothing_is_zoomed_along_the_fixed_axis(make_case):
    case = marked(make_case, (5, 5, 4))
    change = Spatial(zoom=2, fixed_axis=0)
    _, label = resample_patch(case, (0, 0, 0), (9, 9, 9), ISOTROPIC, change)
    assert label[5, 6, 4] == 1


NEARLY_NOTHING = [Spatial(), Spatial(bend=1e-7, bend_seed=3), Spatial((1e-8, 0, 0))]


@pytest.mark.parametrize("start", [(0, 0, 0), (2, -1, 3), (-4, -6, 1), (-12, 0, 0)])
@pytest.mark.parametrize("change", NEARLY_NOTHING)
def test_resampling_by_almost_nothing_agrees_with_reading(noisy_case, start, change):
    case, size = noisy_case((8, 9, 10), channels=2), (9, 10, 11)
    image, label = resample_patch(case, start, size, ISOTROPIC, change)
    expected_image, expected_label = read_patch(case, start, size)
    assert np.allclose(image, expected_image, atol=1e-4)
    assert np.array_equal(label, expected_label)


@pytest.mark.parametrize("zoom", [0.7, 1.4])
@pytest.mark.parametrize("fixed", [None, 1])
@pytest.mark.parametrize("start", [(0, 0, 0), (-6, 2, -13)])
def test_zooming_axis_by_axis_agrees_with_the_map_of_every_voxel(noisy_case, zoom, fixed, start):
    case, size, spacing = noisy_case((12, 9, 10), channels=2), (9, 10, 11), (2.0, 1.0, 1.5)
    alone = Spatial(zoom=zoom, fixed_axis=fixed)
    mapped = Spatial((1e-9, 0, 0), zoom=zoom, fixed_axis=fixed)
    one = resample_patch(case, start, size, spacing, alone)
    other = resample_patch(case, start, size, spacing, mapped)
    assert np.allclose(one[0], other[0], atol=1e-4)
    assert np.array_equal(one[1], other[1])


@pytest.mark.parametrize("at_once", [1, 200, 10**6])
def test_how_many_points_are_looked_up_together_changes_nothing(noisy_case, monkeypatch, at_once):
    case, change = noisy_case((12, 9, 10), channels=2), Spatial((0.3, 0.2, -0.5), 0.8, 0.4, 11)
    whole = resample_patch(case, (-2, 0, 1), (9, 10, 11), ISOTROPIC, change)
    monkeypatch.setattr("u2net3d.patches.spatial.AT_ONCE", at_once)
    parts = resample_patch(case, (-2, 0, 1), (9, 10, 11), ISOTROPIC, change)
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])


def test_resampling_never_writes_to_the_case(noisy_case):
    case = noisy_case((9, 9, 9))
    case.image.flags.writeable = case.label.flags.writeable = False
    before = case.image.copy(), case.label.copy()
    for change in (Spatial(zoom=1.2), Spatial((0.3, 0, 0)), Spatial(bend=0.2)):
        resample_patch(case, (-1, 0, 1), (8, 8, 8), ISOTROPIC, change)
    assert np.array_equal(case.image, before[0])
    assert np.array_equal(case.label, before[1])


def test_a_volume_of_one_voxel_can_be_turned(make_case):
    case = make_case(np.full((1, 1, 1, 1), 3), np.ones((1, 1, 1)))
    image, label = resample_patch(case, (-1, -1, -1), (3, 3, 3), ISOTROPIC, Spatial((0.3, 0, 0)))
    assert np.allclose(image, 3)
    assert label[1, 1, 1] == 1
    assert (label != IGNORED).sum() == 1


def test_a_turned_patch_has_real_content_in_its_corners(noisy_case):
    case = noisy_case((40, 40, 40))
    change = Spatial((0.5, 0.5, 0.5), zoom=0.7)
    _, label = resample_patch(case, (15, 15, 15), (10, 10, 10), ISOTROPIC, change)
    assert (label != IGNORED).all()


CHANGES = [
    Spatial((0.4, 0, 0)),
    Spatial((0, -0.5, 0)),
    Spatial((0.3, 0.2, -0.5)),
    Spatial(zoom=0.75),
    Spatial(zoom=1.4),
    Spatial(bend=0.4, bend_seed=5),
    Spatial((3.0, 0, 0), 1.2, 0.4, 9, fixed_axis=0),
    Spatial((0.3, 0.2, -0.5), 0.8, 0.4, 11),
    Spatial(elastic=True, bend_seed=2),
    Spatial((0.3, 0.2, -0.5), 0.8, 0.0, 3, elastic=True),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("spacing", [ISOTROPIC, (2.0, 1.0, 1.5)])
def test_image_and_label_stay_aligned(make_case, change, spacing):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (30, 32, 34)], indexing="ij"))
    middle = np.array([14.0, 18.0, 15.0])[:, None, None, None]
    blob = 8 - np.sqrt(((grid - middle) ** 2).sum(0))  # > 0 within 8 voxels of the middle
    case = make_case(blob[None], blob > 0)
    image, label = resample_patch(case, (3, 4, 5), (24, 24, 24), spacing, change)
    sure = (label != IGNORED) & (np.abs(image[0]) > 0.9)  # nearest is up to 0.87 voxels away
    assert (label == 1).sum() > 300
    assert np.array_equal((label == 1)[sure], (image[0] > 0)[sure])


@pytest.mark.parametrize("seed", range(5))
def test_bending_never_folds_space(seed):
    size = (20, 24, 10)
    change = Spatial(bend=0.4, bend_seed=seed)
    points = source_points((0, 0, 0), size, ISOTROPIC, change)
    jacobian = np.stack([np.stack(np.gradient(row)) for row in points])
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (3, 4)))
    assert determinant.min() > 0.1
    still = source_points((0, 0, 0), size, ISOTROPIC, Spatial())
    assert 0.3 < np.abs(points - still).max() < 4


def test_bending_leaves_the_fixed_axis_alone():
    change = Spatial(bend=0.4, fixed_axis=0)
    points = source_points((2, 0, 0), (5, 6, 7), ISOTROPIC, change)
    assert np.allclose(points[0], np.arange(2.0, 7.0)[:, None, None])
    assert not np.allclose(points[1, 0, :, 0], np.arange(6.0))


def test_mirroring_twice_is_the_identity():
    rng = np.random.default_rng(0)
    image, label = rng.standard_normal((2, 4, 5, 6)), rng.integers(-1, 3, (4, 5, 6))
    rules = Mirroring(axes=(0, 1, 2), swap_axis=2, swap=((1, 2),))
    for axes in [(), (0,), (1, 2), (0, 1, 2)]:
        once = mirror(image, label, axes, rules)
        twice = mirror(*once, axes, rules)
        assert np.array_equal(twice[0], image)
        assert np.array_equal(twice[1], label)


def test_mirroring_left_to_right_swaps_left_and_right_labels():
    label = np.array([[[1, 1, 0, -1, 3, 2]]], np.int16)
    rules = Mirroring(axes=(1, 2), swap_axis=2, swap=((1, 2),))
    image = label[None].astype(np.float32)
    turned_image, turned = mirror(image, label, (2,), rules)
    assert turned.tolist() == [[[1, 3, -1, 0, 2, 2]]]
    assert turned_image.tolist() == [[[[2, 3, -1, 0, 1, 1]]]]
    assert np.array_equal(mirror(image, label, (1,), rules)[1], label)  # one row: nothing moves
    assert label.tolist() == [[[1, 1, 0, -1, 3, 2]]]
