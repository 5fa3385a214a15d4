"""The single objects of a label: what touches with a face and has one value is one object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from u2net3d.volume import Array


def instances(label: Array) -> tuple[NDArray[np.int32], int]:
    """Numbers 1 .. n for the objects of a label (D, H, W) of integers, 0 elsewhere; and n.

    Objects are the components of each value above 0 that hang together by faces: two values that
    touch are two objects, two objects of one value that touch are one. Values below 1 are none.
    """
    from scipy import ndimage

    found, count = np.zeros(label.shape, np.int32), 0
    for value, box in enumerate(ndimage.find_objects(np.maximum(label, 0)), start=1):
        if box is None:
            continue
        parts, number = ndimage.label(label[box] == value, output=np.int32)
        found[box] += np.where(parts > 0, parts + count, 0).astype(np.int32)
        count += int(number)
    return found, count
