"""A volume to what the network sees; `infer.restore` brings its answer back.

The order is nnU-Net's: crop to the voxels that are not 0, normalise, resample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from u2net3d.prep.normalise import normalise
from u2net3d.prep.resample import (
    resample_image,
    resample_label,
    resampled_shape,
)
from u2net3d.spec import Plan
from u2net3d.volume import Array, Triple, TripleF, Volume


@dataclass(frozen=True)
class Preparation:
    """What was done to a volume, as far as it must be undone.

    shape: the canonical volume's (D, H, W); crop_start, crop_stop: the box kept of it;
    prepared_shape: that box on the plan's grid; spacing_mm: the plan's.
    """

    shape: Triple
    crop_start: Triple
    crop_stop: Triple
    prepared_shape: Triple
    spacing_mm: TripleF

    @property
    def crop_shape(self) -> Triple:
        """Voxels of the box before resampling."""
        d, h, w = (b - a for a, b in zip(self.crop_start, self.crop_stop, strict=True))
        return d, h, w

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The box that was kept, as an index into (D, H, W)."""
        d, h, w = (slice(a, b) for a, b in zip(self.crop_start, self.crop_stop, strict=True))
        return d, h, w


def prepare(image: Volume, plan: Plan) -> tuple[Array, Preparation]:
    """image (C, D, H, W) to float32 (C, *prepared_shape), cropped, normalised, at the plan's grid.

    Raises ValueError when the image has not one channel per normalisation of the plan.
    """
    start, stop = nonzero_box(image.array)
    cropped = image.crop(start, stop)
    shape = resampled_shape(cropped.shape, image.spacing_mm, plan.spacing_mm)
    prepared = resample_image(normalise(cropped.array, plan.normalisation), shape)
    preparation = Preparation(image.shape, start, stop, shape, plan.spacing_mm)
    return np.ascontiguousarray(prepared), preparation


def prepare_label(label: Volume, preparation: Preparation) -> Array:
    """label (1, D, H, W) of the same grid as the image to int16 prepared_shape.

    Negative values are voxels to ignore and stay so.
    """
    cropped = label.crop(preparation.crop_start, preparation.crop_stop)
    prepared = resample_label(cropped.array[0], preparation.prepared_shape)
    return np.ascontiguousarray(prepared, dtype=np.int16)


def nonzero_box(array: Array) -> tuple[Triple, Triple]:
    """Start and stop (D, H, W) of the smallest box round the voxels of (C, D, H, W) that are not 0.

    The whole volume when there is none.
    """
    depth, height, width = array.shape[1:]
    occupied = (d for d in range(depth) if array[:, d].any())
    first = next(occupied, None)
    if first is None:
        return (0, 0, 0), (depth, height, width)
    last = next(d for d in reversed(range(depth)) if array[:, d].any())
    seen = np.zeros((height, width), bool)
    for d in range(first, last + 1):
        seen |= (array[:, d] != 0).any(axis=0)
        (top, bottom), (left, right) = _ends(seen), _ends(seen.T)
        if (top, bottom, left, right) == (0, height, 0, width):
            break  # the slices that follow can add nothing
    return (first, top, left), (last + 1, bottom, right)


def _ends(seen: Array) -> tuple[int, int]:
    """The first row of a plane that is true somewhere, and the one behind the last of them."""
    rows = np.flatnonzero(seen.any(axis=1))
    return int(rows[0]), int(rows[-1]) + 1
