"""Which slices of a volume a picture shows, and how they are turned: pure geometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from u2net3d.volume import Array, TripleF

MARGIN_MM = 25.0  # shown around the foreground, so that its neighbours can be told

# The axis cut through (0 D, 1 H, 2 W), and where the left, right, top and bottom of the picture
# point to in the patient. Every kept axis grows towards superior, anterior or right, so both sides
# of every picture are reversed to bring these to the top and to the left.
PLANES = (("axial", 0, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 2, "APSI"))


@dataclass(frozen=True)
class Plane:
    """One slice as a radiologist sees it: arrays are (rows downwards, columns to the right).

    sides: the patient's direction at the picture's left, right, top and bottom;
    row_mm, column_mm: distance between rows and between columns.
    """

    name: str
    sides: str
    image: Array
    prediction: Array
    reference: Array | None
    row_mm: float
    column_mm: float

    @property
    def height_mm(self) -> float:
        """From the upper edge of the first row to the lower edge of the last."""
        return len(self.image) * self.row_mm

    @property
    def width_mm(self) -> float:
        """From the left edge of the first column to the right edge of the last."""
        return len(self.image[0]) * self.column_mm


def three_planes(
    image: Array, prediction: Array, reference: Array | None, spacing_mm: TripleF
) -> list[Plane]:
    """The axial, coronal and sagittal slices with most foreground, cut to its surroundings.

    image, prediction, reference: (D, H, W) in canonical order. Foreground is the reference's, or
    the prediction's where there is no reference or it is empty; with neither, the middle slices.
    Radiological: the patient's right is on the left, sagittal pictures have anterior on the left.
    """
    box = surroundings((prediction, reference), spacing_mm)
    inside = prediction[box] > 0
    if reference is not None and (reference[box] > 0).any():
        inside = reference[box] > 0

    planes = []
    for name, axis, sides in PLANES:
        row_axis, column_axis = (n for n in range(3) if n != axis)
        amounts = inside.sum(axis=(row_axis, column_axis))
        index = int(amounts.argmax()) if amounts.any() else len(amounts) // 2
        planes.append(
            Plane(
                name=name,
                sides=sides,
                image=_slice(image[box], axis, index),
                prediction=_slice(prediction[box], axis, index),
                reference=None if reference is None else _slice(reference[box], axis, index),
                row_mm=spacing_mm[row_axis],
                column_mm=spacing_mm[column_axis],
            )
        )
    return planes


def surroundings(labels: tuple[Array | None, ...], spacing_mm: TripleF) -> tuple[slice, ...]:
    """The box of what is foreground in any of `labels` (D, H, W), with a margin around it.

    The margin is MARGIN_MM, or half the foreground's own extent where that is more. The whole
    volume where nothing is foreground.
    """
    foreground = np.logical_or.reduce([label > 0 for label in labels if label is not None])
    box = []
    for axis, mm in enumerate(spacing_mm):
        others = tuple(n for n in range(3) if n != axis)
        there = np.flatnonzero(foreground.any(axis=others))
        if not len(there):
            return (slice(None),) * 3
        margin = int(np.ceil(max(MARGIN_MM / mm, len(there) / 2)))
        box.append(slice(max(0, int(there[0]) - margin), int(there[-1]) + 1 + margin))
    return tuple(box)


def grey_window(image: Array, foreground: Array) -> tuple[float, float]:
    """The image values to draw as black and as white, so that the foreground's contrast shows.

    image, foreground: (D, H, W). The spread of the values in the foreground, and one and a half
    times as much on either side, within what the image holds; all that it holds where nothing is
    foreground.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    inside = image[foreground > 0]
    if inside.size:
        bottom, top = np.percentile(inside, (2, 98))
        beside = 1.5 * (top - bottom)
        low, high = max(low, bottom - beside), min(high, top + beside)
    return float(low), float(high if high > low else low + 1)


def _slice(array: Array, axis: int, index: int) -> Array:
    """One slice of (d, h, w), both of its sides reversed."""
    turned: Array = np.take(array, index, axis)[::-1, ::-1]
    return turned
