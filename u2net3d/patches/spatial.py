"""Turning, zooming, bending and mirroring a patch: image and label through one and the same map.

Everything happens in mm about the middle of the patch, so a thick-sliced anatomy is turned, not
sheared. The voxels are read straight from the prepared case wherever the map points, so a turned
patch has real content in its corners; where it points outside the volume the rules of
`sample.read_patch` hold: image mirrored, label ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from u2net3d.patches.bending import elastic_shift, gentle_shift
from u2net3d.patches.interpolate import along_axis, at_points, flat_index, fold
from u2net3d.prep.cache import IGNORED, PreparedCase
from u2net3d.spec import Mirroring
from u2net3d.volume import Array, Triple, TripleF

AT_ONCE = 2**15  # points that are looked up together


@dataclass(frozen=True)
class Spatial:
    """What is done to the shape of a patch; the default is nothing.

    turn_rad: content turns by this about D, then H, then W; about D it goes from H towards W, about
    H from W towards D, about W from D towards H. zoom: content becomes this many times larger.
    bend: largest gentle shift as a share of its cell; elastic: deformed as published for U-Net;
    bend_seed: the random numbers of both. fixed_axis: the thick axis, along which nothing is zoomed
    or bent.
    """

    turn_rad: TripleF = (0.0, 0.0, 0.0)
    zoom: float = 1.0
    bend: float = 0.0
    bend_seed: int = 0
    fixed_axis: int | None = None
    elastic: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether the patch stays as it is."""
        return not (any(self.turn_rad) or self.zoom != 1 or self.is_bent)

    @property
    def is_bent(self) -> bool:
        """Whether straight lines do not stay straight."""
        return self.bend != 0 or self.elastic


def resample_patch(
    case: PreparedCase, start: Triple, patch_size: Triple, spacing_mm: TripleF, change: Spatial
) -> tuple[Array, Array]:
    """Image (C, *patch_size) float32 (trilinear) and label patch_size int16 (nearest)."""
    if any(change.turn_rad) or change.is_bent:
        return _mapped(case, source_points(start, patch_size, spacing_mm, change))
    scale = np.diag(_sampling_matrix(spacing_mm, change))  # the axes keep to themselves
    rows = [
        (_offsets(n) * step + first + (n - 1) / 2).astype(np.float32)
        for first, n, step in zip(start, patch_size, scale, strict=True)
    ]
    return _stretched(case, rows)


def source_points(start: Triple, patch_size: Triple, spacing_mm: TripleF, change: Spatial) -> Array:
    """(3, *patch_size): the voxel position (D, H, W) of the volume that each patch voxel shows."""
    matrix = _sampling_matrix(spacing_mm, change)
    d, h, w = (_offsets(n) for n in patch_size)
    points = np.empty((3, *patch_size), np.float32)
    for axis, row in enumerate(matrix):
        middle = start[axis] + (patch_size[axis] - 1) / 2
        plane = d[:, None] * row[0] + h * row[1] + middle
        np.add(plane[:, :, None].astype(np.float32), (w * row[2]).astype(np.float32), points[axis])
    if change.bend:
        points += gentle_shift(patch_size, change.bend, change.bend_seed, change.fixed_axis)
    if change.elastic:
        points += elastic_shift(patch_size, change.bend_seed, change.fixed_axis)
    return points


def _mapped(case: PreparedCase, points: Array) -> tuple[Array, Array]:
    """Image and label at any points (3, ...), which are written over."""
    outside, blocks = np.zeros(points.shape[1:], bool), []
    for axis, n in enumerate(case.label.shape):
        points[axis], block, beyond = _inside(points[axis], n)
        blocks.append(block)
        if beyond is not None:
            outside |= beyond
    image = np.ascontiguousarray(case.image[(slice(None), *blocks)])
    label = np.ascontiguousarray(case.label[tuple(blocks)])
    new_image = np.empty((len(image), *outside.shape), image.dtype)
    new_label = np.empty(outside.shape, label.dtype)
    thickness = max(1, AT_ONCE // outside[0].size)  # what is at work stays in the cache
    for d in range(0, len(outside), thickness):
        slab = slice(d, d + thickness)
        new_image[:, slab] = at_points(image, points[:, slab])
        nearest = flat_index([np.rint(x) for x in points[:, slab]], label.shape)
        new_label[slab] = label.reshape(-1).take(nearest)
    new_label[outside] = IGNORED
    return new_image, new_label


def _stretched(case: PreparedCase, rows: list[Array]) -> tuple[Array, Array]:
    """Image and label at the positions (n,) of each axis: one axis after the other."""
    places = [_inside(row, n) for row, n in zip(rows, case.label.shape, strict=True)]
    blocks = tuple(block for _, block, _ in places)
    image, label = case.image[(slice(None), *blocks)], case.label[blocks]
    for axis, (row, _, beyond) in enumerate(places):
        image = along_axis(image, axis + 1, row)
        label = label.take(np.rint(row).astype(np.intp), axis=axis)
        if beyond is not None:
            label[(slice(None),) * axis + (beyond,)] = IGNORED
    return image, label


def _inside(x: Array, n: int) -> tuple[Array, slice, NDArray[np.bool_] | None]:
    """Positions along an axis of n voxels, mirrored into it, and counted from the block they need.

    Besides the block and, where there are any, which of them lie outside; x may be written over.
    """
    low, high, outside = float(x.min()), float(x.max()), None
    if low < 0 or high > n - 1:
        outside = (x < -0.5) | (x > n - 0.5)
        x = fold(x, n)
        low, high = float(x.min()), float(x.max())
    first = min(int(low), max(0, n - 2))  # two voxels at least, to lie between
    x -= first
    return x, slice(first, min(n, int(high) + 2)), outside


def _offsets(n: int) -> NDArray[np.float64]:
    """How far the n voxels of an axis lie from the middle."""
    return np.arange(n, dtype=np.float64) - (n - 1) / 2


def mirror(
    image: Array, label: Array, axes: tuple[int, ...], rules: Mirroring
) -> tuple[Array, Array]:
    """Reverses image (C, D, H, W) and label (D, H, W) along `axes`; twice is the identity.

    Along the rules' swap axis the paired label values (left and right) change places. What comes
    back may be a view of what was given, which is not written to.
    """
    image = np.flip(image, tuple(axis + 1 for axis in axes))
    label = old = np.flip(label, axes)
    if rules.swap_axis in axes:
        label = old.copy()
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
