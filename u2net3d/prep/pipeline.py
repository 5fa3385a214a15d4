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
    occupied = (array != 0).any(axis=0)
    if not occupied.any():
        return (0, 0, 0), occupied.shape
    lines = [occupied.any(axis=others) for others in ((1, 2), (0, 2), (0, 1))]
    ends = [np.flatnonzero(line)[[0, -1]] for line in lines]
    d, h, w = ((int(first), int(last) + 1) for first, last in ends)
    return (d[0], h[0], w[0]), (d[1], h[1], w[1])
