"""A volume: voxels that never travel without their geometry.

Every volume of this package is in closest-canonical order: axes (C, D, H, W) = (channel, S, A, R),
so D grows towards superior, H towards anterior and W towards the patient's right. `Orientation`
remembers how the stored array was turned to get there, and turns results back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Triple = tuple[int, int, int]
TripleF = tuple[float, float, float]
Array = NDArray[Any]


@dataclass(frozen=True)
class Volume:
    """array (C, D, H, W); affine (4, 4) maps the voxel index (d, h, w, 1) to (R, A, S, 1) in mm."""

    array: Array
    affine: NDArray[np.float64]

    @property
    def shape(self) -> Triple:
        """Voxels along D, H, W."""
        d, h, w = self.array.shape[1:]
        return d, h, w

    @property
    def spacing_mm(self) -> TripleF:
        """Distance between voxel centres along D, H, W in mm."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    def crop(self, start: Triple, stop: Triple) -> Volume:
        """The voxels with start <= index < stop; every kept voxel stays at its place in mm."""
        d, h, w = (slice(a, b) for a, b in zip(start, stop, strict=True))
        return Volume(self.array[:, d, h, w], _moved(self.affine, start))

    def pad(self, before: Triple, after: Triple, value: float = 0) -> Volume:
        """Adds voxels of `value` around the volume; the old voxels stay at their place in mm."""
        widths = ((0, 0), *zip(before, after, strict=True))
        array = np.pad(self.array, widths, constant_values=value)
        d, h, w = (-n for n in before)
        return Volume(array, _moved(self.affine, (d, h, w)))


@dataclass(frozen=True)
class Orientation:
    """How a stored array (..., I, J, K) lies in canonical order (..., D, H, W).

    axes: the stored axis that became D, H and W; flipped: whether it was reversed on the way.
    """

    axes: Triple
    flipped: tuple[bool, bool, bool]

    def apply(self, array: Array) -> Array:
        """(..., I, J, K) as stored to (..., D, H, W); a view."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        return self._flip(turned)

    def undo(self, array: Array) -> Array:
        """(..., D, H, W) back to (..., I, J, K) as stored; a view."""
        lead = array.ndim - 3
        back = np.argsort(self.axes)
        return self._flip(array).transpose(*range(lead), *(lead + int(axis) for axis in back))

    def _flip(self, array: Array) -> Array:
        d, h, w = (slice(None, None, -1 if flip else 1) for flip in self.flipped)
        return array[..., d, h, w]


def to_canonical(array: Array, affine: NDArray[np.float64]) -> tuple[Volume, Orientation]:
    """Turns stored voxels to canonical order without moving one of them in space.

    array (C, I, J, K); affine (4, 4) maps the stored index (i, j, k, 1) to (R, A, S, 1) in mm.
    Oblique and sheared affines are kept: only the order and direction of the axes change.
    """
    from nibabel.orientations import io_orientation

    toward = io_orientation(affine)  # per stored axis: which of R, A, S, and in which direction
    stored_of_ras = {int(ras): stored for stored, (ras, _) in enumerate(toward)}
    axes = (stored_of_ras[2], stored_of_ras[1], stored_of_ras[0])
    d, h, w = (bool(toward[axis][1] < 0) for axis in axes)
    orientation = Orientation(axes, (d, h, w))
    stored_shape = array.shape[1:]
    index = np.zeros((4, 4))  # canonical index -> stored index
    index[3, 3] = 1
    for canonical, (axis, flip) in enumerate(zip(axes, orientation.flipped, strict=True)):
        index[axis, canonical] = -1 if flip else 1
        index[axis, 3] = stored_shape[axis] - 1 if flip else 0
    return Volume(orientation.apply(array), affine @ index), orientation


def _moved(affine: NDArray[np.float64], start: Triple) -> NDArray[np.float64]:
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ np.asarray(start, dtype=float)
    return moved
