"""The elastic deformation as published: its points, its cubics, its size."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from u2net3d.patches.augment import draw
from u2net3d.patches.bending import elastic_shift
from u2net3d.patches.loader import DomainLoader
from u2net3d.patches.spatial import Spatial, source_points


def points_of(shift):
    """The shifts (3, 3, 3, 3) at the ends and in the middle of a patch of odd sides."""
    return shift[(slice(None), *(slice(None, None, (n - 1) // 2) for n in shift.shape[1:]))]


def test_between_three_points_lies_the_natural_cubic_spline():
    shift = elastic_shift((21, 13, 9), 3, None)
    points, places = points_of(shift).astype(float), [np.linspace(0, 2, n) for n in (21, 13, 9)]
    for axis, place in enumerate(places, start=1):
        points = CubicSpline([0, 1, 2], points, axis=axis, bc_type="natural")(place)
    assert np.allclose(shift, points, atol=1e-4)
    assert np.abs(shift).max() > 0.5


@pytest.mark.parametrize(
    ("size", "std"),
    [((181, 181, 181), (10, 10, 10)), ((41, 65, 161), (20 / 8, 32 / 8, 10))],
)
def test_points_move_by_ten_voxels_or_an_eighth_of_a_cell(size, std):
    every = np.stack([points_of(elastic_shift(size, seed, None)) for seed in range(40)])
    assert every.std(axis=(0, 2, 3, 4)) == pytest.approx(std, rel=0.1)
    assert every.mean(axis=(0, 2, 3, 4)) == pytest.approx((0, 0, 0), abs=1.5)


def test_nothing_moves_along_the_fixed_axis():
    shift = elastic_shift((8, 9, 10), 0, 1)
    assert not shift[1].any()
    assert shift[0].any()
    assert shift[2].any()


def test_hardly_a_small_patch_folds():
    folded = 0
    for seed in range(50):
        points = source_points(
            (0, 0, 0), (20, 28, 20), (1, 1, 1), Spatial(elastic=True, bend_seed=seed)
        )
        jacobian = np.stack([np.stack(np.gradient(row)) for row in points])
        folded += np.linalg.det(np.moveaxis(jacobian, (0, 1), (3, 4))).min() <= 0
    assert folded <= 4


def test_every_patch_is_deformed_where_asked_and_none_otherwise(make_spec):
    rng = np.random.default_rng(0)
    asked = [draw(rng, make_spec(), elastic=True).spatial for _ in range(200)]
    assert all(change.elastic and change.bend == 0 for change in asked)
    assert len({change.bend_seed for change in asked}) == 200
    assert not any(draw(rng, make_spec()).spatial.elastic for _ in range(200))


def test_a_step_gives_the_same_deformed_batch_after_a_restart(noisy_case, make_spec):
    cases = [noisy_case((12, 14, 16), str(seed), seed=seed) for seed in range(3)]
    one, other = (DomainLoader(make_spec(), cases, 0, 1 / 3, elastic=True) for _ in range(2))
    one.batch(0)
    assert np.array_equal(one.batch(4).image, other.batch(4).image)
    assert np.array_equal(one.batch(4).label, other.batch(4).label)
    plain = DomainLoader(make_spec(), cases, 0, 1 / 3).batch(4)
    assert not np.array_equal(plain.image, one.batch(4).image)
