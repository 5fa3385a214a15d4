"""What a network says of a prepared volume, back on the image's own grid, slice after slice.

The inverse of `prep.pipeline.prepare`. Logits come as slices (K, h, w) float32 in order along D;
no more than two are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from u2net3d.ops.labels import Floats, Plane, between, label_between, probabilities_between
from u2net3d.prep.pipeline import Preparation
from u2net3d.volume import Array

WHOLE = np.iinfo(np.uint16).max  # what a probability of 1 is stored as


def restore(slices: Iterable[Floats], preparation: Preparation) -> Array:
    """Logits, `prepared_shape` in all, to the uint8 label (D, H, W) of the whole canonical volume.

    The largest of the linearly interpolated logits, the first of equals; at most 256 classes.
    Background (0) outside the box that was kept. Exact where the grid did not change. Raises
    ValueError when the logits are not of the prepared shape.
    """
    label = np.zeros(preparation.shape, np.uint8)
    inside = label[preparation.box]
    for z, (low, high, share) in enumerate(_pairs(slices, preparation)):
        inside[z] = label_between(low, high, share)
    return label


def restore_both(
    slices: Iterable[Floats], preparation: Preparation, shares: NDArray[np.uint16]
) -> Array:
    """The label as `restore` gives it, and the probabilities into shares (K, D, H, W).

    Softmax of the interpolated logits in units of 1/65535, so its largest is what the label says.
    Outside the box that was kept all is background. Raises ValueError as `restore` does.
    """
    label = np.zeros(preparation.shape, np.uint8)
    d, h, w = preparation.box
    inside = label[d, h, w]
    shares[1:] = 0
    shares[0] = WHOLE
    for z, (low, high, share) in enumerate(_pairs(slices, preparation)):
        inside[z] = label_between(low, high, share)
        shares[:, d.start + z, h, w] = probabilities_between(low, high, share)
    return label


def probability_slices(
    slices: Iterable[Floats], preparation: Preparation, classes: int
) -> Iterator[NDArray[np.uint16]]:
    """The slices (K, H, W) of the whole canonical volume's probabilities, as `restore_both`'s.

    Each is overwritten by the next. Raises ValueError as `restore` does.
    """
    d, h, w = preparation.box
    depth, *space = preparation.shape
    plane = np.zeros((classes, *space), np.uint16)
    plane[0] = WHOLE
    outside = plane.copy()
    pairs = _pairs(slices, preparation)
    for z in range(depth):
        if not d.start <= z < d.stop:
            yield outside.copy()
            continue
        low, high, share = next(pairs)
        plane[:, h, w] = probabilities_between(low, high, share)
        yield plane
    for _ in pairs:  # empties them, which checks how many there were
        pass


def _pairs(
    slices: Iterable[Floats], preparation: Preparation
) -> Iterator[tuple[Plane, Plane, float]]:
    return between(slices, preparation.prepared_shape, preparation.crop_shape)
