"""Linear interpolation, by hand and against torch."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from u2net3d.patches.interpolate import along_axis, at_points, flat_index, fold
from u2net3d.patches.sample import mirrored


def test_between_two_voxels_lies_their_mean():
    image = np.array([0.0, 4.0, 8.0, 2.0], np.float32).reshape(1, 1, 1, 4)
    points = np.zeros((3, 5), np.float32)
    points[2] = [0, 0.5, 1.25, 2.5, 3]
    assert at_points(image, points).tolist() == [[0, 2, 5, 5, 2]]
    assert along_axis(image[0, 0, 0], 0, points[2]).tolist() == [0, 2, 5, 5, 2]


def test_eight_corners_count_by_nearness():
    image = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)  # 4 d + 2 h + w
    points = np.array([[0.5], [0.25], [0.75]], np.float32)
    assert at_points(image, points).tolist() == [[4 * 0.5 + 2 * 0.25 + 0.75]]


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 6, 7), (5, 1, 2), (1, 1, 1)])
def test_any_point_is_what_torch_samples(shape):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, *shape))
    points = rng.random((3, 4, 3, 8)) * (np.array(shape) - 1)[:, None, None, None]
    points[:, 0, 0, 0] = np.array(shape) - 1  # the last voxel has none behind it
    half = (np.maximum(np.array(shape), 2)[:, None, None, None] - 1) / 2
    grid = torch.from_numpy(np.moveaxis((points / half - 1)[::-1].copy(), 0, -1))[None]
    want = F.grid_sample(
        torch.from_numpy(image)[None], grid, padding_mode="border", align_corners=True
    )
    assert np.allclose(at_points(image, points), want[0].numpy())


@pytest.mark.parametrize("n", [1, 2, 5])
def test_axis_after_axis_is_the_same_as_all_at_once(n):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, n, 4, 6))
    rows = [np.sort(rng.random(7)) * (size - 1) for size in image.shape[1:]]
    wide = image
    for axis, row in enumerate(rows):
        wide = along_axis(wide, axis + 1, row)
    assert np.allclose(wide, at_points(image, np.stack(np.meshgrid(*rows, indexing="ij"))))


def test_a_flat_index_finds_the_voxel():
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    places = [np.array([0, 1, 1]), np.array([2.0, 0.0, 2.0]), np.array([3, 1, 0])]
    found = volume.reshape(-1)[flat_index(places, volume.shape)]
    assert found.tolist() == [volume[0, 2, 3], volume[1, 0, 1], volume[1, 2, 0]]


@pytest.mark.parametrize("n", [1, 2, 3, 9])
@pytest.mark.parametrize("reach", [2, 16, 50])
def test_positions_fold_as_whole_voxels_are_mirrored(n, reach):
    places = np.arange(-reach, n + reach)
    assert fold(places.astype(np.float32), n).tolist() == mirrored(-reach, len(places), n).tolist()


def test_a_position_between_voxels_folds_about_the_last_voxel():
    assert fold(np.array([-0.25, 2.5, 4.5]), 3).tolist() == [0.25, 1.5, 0.5]
