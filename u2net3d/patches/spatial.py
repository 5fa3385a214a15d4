"""Turning, zooming, bending and mirroring a patch: image and label through one and the same map.

Everything happens in mm about the middle of the patch, so a thick-sliced anatomy is turned, not
sheared. The voxels are read straight from the prepared case wherever the map points, so a turned
patch has real content in its corners; where it points outside the volume the rules of
`sample.read_patch` hold: image mirrored, label ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from u2net3d.prep.cache import IGNORED, PreparedCase
from u2net3d.spec import Mirroring
from u2net3d.volume import Triple, TripleF

BEND_CELLS = 4  # the elastic grid has this many cells along each axis of a patch


@dataclass(frozen=True)
class Spatial:
    """What is done to the shape of a patch; the default is nothing.

    turn_rad: content turns by this about D, then H, then W; about D it goes from H towards W, about
    H from W towards D, about W from D towards H. zoom: content becomes this many times larger.
    bend: largest elastic shift as a share of an elastic cell; bend_seed: its random numbers.
    fixed_axis: the thick axis, along which nothing is zoomed or bent.
    """

    turn_rad: TripleF = (0.0, 0.0, 0.0)
    zoom: float = 1.0
    bend: float = 0.0
    bend_seed: int = 0
    fixed_axis: int | None = None

    @property
    def is_identity(self) -> bool:
        """Whether the patch stays as it is."""
        return not any(self.turn_rad) and self.zoom == 1 and self.bend == 0


def resample_patch(
    case: PreparedCase, start: Triple, patch_size: Triple, spacing_mm: TripleF, change: Spatial
) -> tuple[Tensor, Tensor]:
    """Image (C, *patch_size) float32 (trilinear) and label patch_size int16 (nearest)."""
    points = source_points(start, patch_size, spacing_mm, change)
    outside = torch.zeros(patch_size, dtype=torch.bool)
    blocks = []
    for axis, n in enumerate(case.label.shape):
        x = points[axis]
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > n - 1:
            outside |= (x < -0.5) | (x > n - 0.5)
            x.copy_(_mirror_into(x, n))
            low, high = float(x.min()), float(x.max())
        a = min(int(low), max(0, n - 2))  # two voxels at least, to lie between
        blocks.append(slice(a, min(n, int(high) + 2)))
        x -= a
    image = torch.from_numpy(np.array(case.image[(slice(None), *blocks)]))
    label = torch.from_numpy(np.array(case.label[tuple(blocks)]))
    nearest = points.round().long()
    label = label[nearest[0], nearest[1], nearest[2]].masked_fill_(outside, IGNORED)
    for axis, n in enumerate(image.shape[1:]):  # voxel index -> the -1..1 of grid_sample
        points[axis].mul_(2 / max(1, n - 1)).sub_(1)
    grid = torch.stack((points[2], points[1], points[0]), dim=-1)[None]
    turned = F.grid_sample(image[None], grid, padding_mode="border", align_corners=True)
    return turned[0], label


def source_points(
    start: Triple, patch_size: Triple, spacing_mm: TripleF, change: Spatial
) -> Tensor:
    """(3, *patch_size): the voxel position (D, H, W) of the volume that each patch voxel shows."""
    matrix = _sampling_matrix(spacing_mm, change)
    offsets = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in patch_size]
    d, h, w = offsets[0][:, None, None], offsets[1][:, None], offsets[2]
    points = torch.empty((3, *patch_size))
    for axis, row in enumerate(matrix.tolist()):
        middle = start[axis] + (patch_size[axis] - 1) / 2
        torch.add(d * row[0] + h * row[1], w * row[2] + middle, out=points[axis])
    if change.bend:
        points += torch.from_numpy(_bending(patch_size, change))
    return points


def mirror(
    image: Tensor, label: Tensor, axes: tuple[int, ...], rules: Mirroring
) -> tuple[Tensor, Tensor]:
    """Reverses image (C, D, H, W) and label (D, H, W) along `axes`; twice is the identity.

    Along the rules' swap axis the paired label values (left and right) change places.
    """
    if not axes:
        return image, label
    image = image.flip([axis + 1 for axis in axes])
    label = label.flip(axes)
    if rules.swap_axis in axes:
        old = label.clone()
        for a, b in rules.swap:
            label[old == a] = b
            label[old == b] = a
    return image, label


def _sampling_matrix(spacing_mm: TripleF, change: Spatial) -> NDArray[np.float64]:
    """(3, 3): offset from the middle in voxels, of the patch -> of the volume: the way back."""
    turn = np.eye(3)
    for axis, angle in enumerate(change.turn_rad):
        one, other = (axis + 1) % 3, (axis + 2) % 3
        about = np.eye(3)
        about[one, one] = about[other, other] = np.cos(angle)
        about[other, one], about[one, other] = np.sin(angle), -np.sin(angle)
        turn = about @ turn
    zoom = np.full(3, change.zoom)
    if change.fixed_axis is not None:
        zoom[change.fixed_axis] = 1
    spacing = np.array(spacing_mm)
    back = turn.T / zoom  # content is turned, then zoomed: both in mm
    matrix: NDArray[np.float64] = back * spacing / spacing[:, None]
    return matrix


def _bending(patch_size: Triple, change: Spatial) -> NDArray[np.float32]:
    """(3, *patch_size) voxels: random shifts on a coarse grid, smoothed by cubic B-splines.

    The shift is measured in cells, so the map does not fold however large or thick the voxels are.
    numpy's einsum rather than a matrix product: the same bits for any number of threads.
    """
    rng = np.random.default_rng(change.bend_seed)
    knots = BEND_CELLS + 3
    shift = rng.uniform(-change.bend, change.bend, (3, knots, knots, knots)).astype(np.float32)
    shift *= np.array(patch_size, np.float32)[:, None, None, None] / BEND_CELLS
    if change.fixed_axis is not None:
        shift[change.fixed_axis] = 0
    for axis, n in enumerate(patch_size):
        along = ("aikl,di->adkl", "adjl,hj->adhl", "adhk,wk->adhw")[axis]
        shift = np.einsum(along, shift, _cubic_weights(n))
    return shift


def _cubic_weights(n: int) -> NDArray[np.float32]:
    """(n, BEND_CELLS + 3): what each knot of a uniform cubic B-spline gives to n even places."""
    place = np.linspace(0, BEND_CELLS, n)
    cell = np.minimum(place.astype(int), BEND_CELLS - 1)
    u = place - cell
    four = ((1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3)
    weights = np.zeros((n, BEND_CELLS + 3), np.float32)
    for k, part in enumerate(four):
        weights[np.arange(n), cell + k] = part / 6
    return weights


def _mirror_into(x: Tensor, n: int) -> Tensor:
    """Positions folded into 0..n-1, as `sample.mirrored` does with whole voxels."""
    if n == 1:
        return torch.zeros_like(x)
    period = 2 * (n - 1)
    x = x.remainder(period)
    return torch.minimum(x, period - x)
