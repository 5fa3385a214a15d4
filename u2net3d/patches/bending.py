"""Smooth random shifts of a patch's voxels, in voxels (3, D, H, W).

Both are few numbers on a coarse grid and cubics between them, so their cost is that of adding up
whole planes. numpy's einsum rather than a matrix product: the same bits for any number of threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from u2net3d.volume import Array, Triple

BEND_CELLS = 4  # the gentle grid has this many cells along each axis of a patch
ELASTIC_POINTS = 3  # along each axis of a patch: both ends and the middle
ELASTIC_VOXELS = 10.0  # standard deviation of a point's shift along each axis
ELASTIC_SHARE = 1 / 8  # of a cell, which that may be at most


def gentle_shift(patch_size: Triple, bend: float, seed: int, fixed_axis: int | None) -> Array:
    """Uniform shifts of up to `bend` cells, smoothed by cubic B-splines.

    They are measured in cells, so the map does not fold however large or thick the voxels are.
    Along fixed_axis nothing moves.
    """
    rng = np.random.default_rng(seed)
    knots = BEND_CELLS + 3
    shift = rng.uniform(-bend, bend, (3, knots, knots, knots)).astype(np.float32)
    shift *= np.array(patch_size, np.float32)[:, None, None, None] / BEND_CELLS
    return _between(shift, [_b_spline(n) for n in patch_size], fixed_axis)


def elastic_shift(patch_size: Triple, seed: int, fixed_axis: int | None) -> Array:
    """Gaussian shifts of 3 x 3 x 3 points over the patch, natural cubic splines between them.

    Ronneberger et al., "U-Net", MICCAI 2015 (arXiv 1505.04597), section 3.1: "random displacement
    vectors on a coarse 3 by 3 grid", Gaussian of 10 pixels, bicubic; for tiles of some 570 pixels.
    Here 10 voxels, but never more than an eighth of the distance between two points, the proportion
    of its successor in 3-D (4 voxels on a grid of 32; Çiçek et al. 2016): 10 voxels would fold a
    patch of 40 somewhere every time, so two in a hundred do. Along fixed_axis nothing moves.
    """
    cells = [(n - 1) / (ELASTIC_POINTS - 1) for n in patch_size]
    std = np.minimum(ELASTIC_VOXELS, np.array(cells) * ELASTIC_SHARE)
    drawn = np.random.default_rng(seed).standard_normal((3, *(ELASTIC_POINTS,) * 3))
    shift = (drawn * std[:, None, None, None]).astype(np.float32)
    return _between(shift, [_natural_spline(n) for n in patch_size], fixed_axis)


def _between(shift: Array, weights: list[NDArray[np.float32]], fixed_axis: int | None) -> Array:
    """Shifts (3, k, k, k) of the points -> (3, D, H, W) of the voxels; weights: (n, k) an axis."""
    if fixed_axis is not None:
        shift[fixed_axis] = 0
    # D last: whole planes are added up then, which is where nearly all of the work is
    d, h, w = weights
    shift = np.einsum("aikl,wl->aikw", shift, w)
    shift = np.einsum("aikw,hk->aihw", shift, h)
    bent: NDArray[np.float32] = np.einsum("aihw,di->adhw", shift, d)
    return bent


def _b_spline(n: int) -> NDArray[np.float32]:
    """(n, BEND_CELLS + 3): what each knot of a uniform cubic B-spline gives to n even places."""
    place = np.linspace(0, BEND_CELLS, n)
    cell = np.minimum(place.astype(int), BEND_CELLS - 1)
    u = place - cell
    four = ((1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3)
    weights = np.zeros((n, BEND_CELLS + 3), np.float32)
    for k, part in enumerate(four):
        weights[np.arange(n), cell + k] = part / 6
    return weights


def _natural_spline(n: int) -> NDArray[np.float32]:
    """(n, 3): what each of three points gives to n even places, by the cubic through all three.

    The natural spline: its second derivative is 0 at both ends, and m in the middle, where the
    pieces meet; with points a, b, c at distance 1 smoothness asks for m = (a - 2 b + c) 3 / 2. On
    the first piece that is a (1 - u) + b u + m (u^3 - u) / 6; the second one mirrors it.
    """
    place = np.linspace(0, 2, n) if n > 1 else np.ones(1)
    u = np.minimum(place, 2 - place)  # from the nearer end
    curve = (u**3 - u) / 4
    near, middle, far = 1 - u + curve, u - 2 * curve, curve
    first = place <= 1
    weights = np.stack([np.where(first, near, far), middle, np.where(first, far, near)], 1)
    return weights.astype(np.float32)
