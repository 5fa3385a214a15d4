"""What a network says of a prepared volume, back on the image's own grid, slice after slice.

The inverse of `prep.pipeline.prepare`. Logits come as slices (K, h, w) float32 in order along D;
no more than two are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from u2net3d.infer.scratch import Scratch
from u2net3d.ops.labels import Floats, Plane, between, label_between, probabilities_between
from u2net3d.prep.pipeline import Preparation
from u2net3d.volume import Array, Triple

Slices = Iterator[tuple[NDArray[np.uint8], NDArray[np.uint16]]]  # as `restore_both` gives them
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


def restore_both(slices: Iterable[Floats], preparation: Preparation, classes: int) -> Slices:
    """Label (H, W) and probabilities (K, H, W) of every slice of the whole canonical volume.

    The label as `restore` gives it; softmax of the interpolated logits in units of 1/65535, so its
    largest is what the label says. Outside the box that was kept all is background. The arrays are
    written over by the next slice's. Raises ValueError as `restore` does.
    """
    d, h, w = preparation.box
    depth, *space = preparation.shape
    label, shares = np.zeros(space, np.uint8), np.zeros((classes, *space), np.uint16)
    shares[0] = WHOLE
    for _ in range(d.start):
        yield label, shares
    for low, high, share in _pairs(slices, preparation):
        label[h, w] = label_between(low, high, share)
        shares[:, h, w] = probabilities_between(low, high, share)
        yield label, shares
    label[:], shares[1:], shares[0] = 0, 0, WHOLE
    for _ in range(d.stop, depth):
        yield label, shares


def joined(
    slices: Slices, shape: Triple, classes: int, limit_bytes: int
) -> tuple[Array, NDArray[np.uint16]]:
    """Label (D, H, W) = shape and probabilities (classes, D, H, W) of all slices.

    Probabilities of more than limit_bytes lie in a temporary file.
    """
    label = np.empty(shape, np.uint8)
    shares = Scratch((classes, *shape), np.uint16, limit_bytes)
    for z, (values, planes) in enumerate(slices):
        label[z], shares.array[:, z] = values, planes
        shares.hand_back()
    return label, shares.array


def _pairs(
    slices: Iterable[Floats], preparation: Preparation
) -> Iterator[tuple[Plane, Plane, float]]:
    return between(slices, preparation.prepared_shape, preparation.crop_shape)
