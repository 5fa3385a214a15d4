"""Numbers that voxels may hold: finite ones in images, small whole ones in labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from u2net3d.errors import DataError
from u2net3d.volume import Array

# A float label may be off a whole number by this much: the rounding of a scaling factor.
WHOLE_NUMBER_TOLERANCE = 1e-4

# Up to this share of a channel's voxels may be NaN or infinite; more are no accident.
MENDED_SHARE = 0.001


def require_numbers(dtype: Any, path: Path) -> None:
    """Raises DataError unless a voxel holds one real number."""
    if np.dtype(dtype).kind not in "biuf":
        raise DataError(path, "holds colours or complex numbers", "give one real number a voxel")


def channels_first(array: Array, path: Path) -> Array:
    """(I, J, K), (I, J, K, C) or the vector form (I, J, K, 1, C) to (C, I, J, K); a view.

    Trailing axes of length 1 are dropped. Raises DataError for every other number of axes.
    """
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 5 and array.shape[3] == 1:
        array = array[:, :, :, 0]
    if array.ndim not in (3, 4):
        sizes = "×".join(map(str, array.shape))
        what = f"is a {array.ndim}-D image ({sizes} voxels), not a volume"
        raise DataError(path, what, "give a 3-D image, or a 4-D one with the channels last")
    return array[None] if array.ndim == 3 else np.moveaxis(array, 3, 0)


def scaled(stored: Array, scaling: tuple[float, float] | None) -> NDArray[np.float32]:
    """Voxels (I, J, K[, ...]) as float32, computed in float64 slice by slice, like nowhere less."""
    with np.errstate(all="ignore"):  # what is no finite number is counted later
        if scaling is None:
            return stored.astype(np.float32, copy=False)
        slope, intercept = scaling
        image = np.empty(stored.shape, np.float32, order="F")
        for place in np.ndindex(stored.shape[2:]):
            at = (..., *place)
            image[at] = stored[at].astype(np.float64) * slope + intercept
        return image


def mend_voxels(image: NDArray[np.float32], path: Path) -> tuple[str, ...]:
    """Sets voxels (C, ...) that are not finite to the smallest value of their channel, in place.

    That is air in CT and no signal in MR, where 0 would be water. The note that says so, or none.
    Raises DataError where they are more than MENDED_SHARE of a channel.
    """
    notes = []
    for number, channel in enumerate(image):
        # NaN spreads through both, so that a sound channel costs no array of its size.
        with np.errstate(invalid="ignore"):
            sound = np.isfinite(channel.min()) and np.isfinite(channel.max())
        if sound:
            continue
        broken = ~np.isfinite(channel)
        count = int(np.count_nonzero(broken))
        if count > MENDED_SHARE * channel.size:
            what = f"{count} voxels are not finite numbers (NaN or infinite)"
            mend = "replace them, for instance by the value of the background"
            raise DataError(path, what, mend)
        smallest = channel[~broken].min()
        channel[broken] = smallest
        which = f"channel {number}" if len(image) > 1 else "the image"
        many = "voxels that were no finite numbers were" if count > 1 else ""
        said = many or "voxel that was no finite number was"
        notes.append(f"{count} {said} set to {smallest:g}, the smallest of {which}")
    return tuple(notes)


def whole_numbers(values: Array, path: Path) -> NDArray[np.int16]:
    """Label values as int16; raises DataError for fractions, NaN, and what int16 cannot hold."""
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            rounded = np.rint(values)
            wrong = ~(np.abs(values - rounded) <= WHOLE_NUMBER_TOLERANCE)
        if wrong.any():
            what = f"holds {values[wrong][0]:g}, but label values are whole numbers"
            raise DataError(path, what, "export the label without interpolation")
        values = rounded
    limits = np.iinfo(np.int16)
    if values.min() < limits.min or values.max() > limits.max:
        what = f"holds values from {values.min():g} to {values.max():g}"
        raise DataError(path, what, f"number the labels from 0; at most {limits.max}")
    return values.astype(np.int16)
