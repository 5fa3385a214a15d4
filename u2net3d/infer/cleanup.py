"""Labels without their strays: of a label's separate components only the largest is kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from u2net3d.volume import Array


def keep_largest(label: Array, values: Iterable[int]) -> Array:
    """label (D, H, W) with all but the largest component of each of `values` made background.

    Voxels that share a face, an edge or a corner are one component; of components of one size the
    first in the order of the array is kept. The label given is not changed.
    """
    chosen = set(values)
    if not chosen:
        return label
    from scipy.ndimage import find_objects, generate_binary_structure
    from scipy.ndimage import label as components_of

    cleaned, touching = label.copy(), generate_binary_structure(3, 3)
    boxes = find_objects(label, max_label=max(chosen))
    for value in sorted(chosen):
        box = boxes[value - 1]
        if box is None:
            continue
        mask = label[box] == value
        components, count = components_of(mask, touching)
        if count > 1:
            largest = np.bincount(components[mask]).argmax()
            cleaned[box][mask & (components != largest)] = 0
    return cleaned
