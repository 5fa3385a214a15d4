"""Tiles, weights and borders, worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from u2net3d.infer.window import gaussian_weight, padding, tile_starts

AXES = [(8, 8), (9, 8), (15, 8), (16, 8), (17, 8), (31, 8), (64, 8), (7, 5), (100, 33)]
OVERLAPS = [0, 0.25, 0.5, 0.7, 0.95]


def starts_along(n: int, size: int, overlap: float) -> list[int]:
    return [w for _, _, w in tile_starts((2, 2, n), (2, 2, size), overlap)]


def test_starts_worked_out_by_hand():
    # 10 voxels, tiles of 4 that share 2: from 0, 2, 4 and 6.
    assert starts_along(10, 4, 0.5) == [0, 2, 4, 6]
    # 11 voxels need one tile more, spread evenly: 7/4 apart.
    assert starts_along(11, 4, 0.5) == [0, 2, 4, 5, 7]
    assert starts_along(8, 4, 0) == [0, 4]
    assert starts_along(9, 4, 0) == [0, 2, 5]
    assert starts_along(4, 4, 0.5) == [0]


def test_tiles_of_three_axes_are_every_combination_of_their_starts():
    starts = tile_starts((4, 6, 5), (4, 4, 4), 0.5)
    assert starts == [(0, 0, 0), (0, 0, 1), (0, 2, 0), (0, 2, 1)]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(("n", "size"), AXES)
def test_every_voxel_is_covered_and_the_last_tile_ends_with_the_volume(n, size, overlap):
    starts = starts_along(n, size, overlap)
    covered = {voxel for start in starts for voxel in range(start, start + size)}
    assert covered == set(range(n))
    assert starts[0] == 0
    assert starts[-1] + size == n


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(("n", "size"), AXES)
def test_neighbours_share_at_least_the_overlap_and_no_tile_is_twice_there(n, size, overlap):
    for before, after in pairwise(starts_along(n, size, overlap)):
        assert before < after
        # At least one voxel forward a tile, however great the overlap asked for.
        assert before + size - after >= min(overlap * size, size - 1)


@pytest.mark.parametrize("patch", [(8, 8, 8), (5, 7, 9), (4, 16, 1), (96, 33, 2)])
def test_the_gaussian_is_1_in_the_middle_symmetric_and_never_0(patch):
    weight = gaussian_weight(patch)
    assert weight.shape == patch
    assert weight.dtype == np.float32
    assert weight[tuple(n // 2 for n in patch)] == 1 == weight.max()
    assert weight.min() > 0
    for axis in range(3):
        np.testing.assert_allclose(weight, np.flip(weight, axis), rtol=1e-6)


def test_the_gaussian_falls_by_its_formula():
    # 17 voxels, sigma 17/8: two voxels off the middle exp(-4 / (2 * 2.125^2)) = 0.6421...
    row = gaussian_weight((1, 1, 17))[0, 0]
    assert row[8] == 1
    assert row[6] == row[10] == pytest.approx(np.exp(-4 / (2 * 2.125**2)))
    assert (np.diff(row[:9]) >= 0).all()


def test_a_volume_is_padded_to_the_patch_on_both_sides():
    assert padding((8, 5, 20), (8, 8, 8)) == ((0, 0), (1, 2), (0, 0))
    assert padding((1, 6, 8), (8, 8, 8)) == ((3, 4), (1, 1), (0, 0))
