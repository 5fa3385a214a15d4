"""Weights that make a network learn the narrow space between objects that nearly touch.

Ronneberger et al., "U-Net", MICCAI 2015 (arXiv 1505.04597), equation 2, in three dimensions:

    w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2))

with the distances to the nearest and to the second nearest object. The first term balances the
classes and belongs to the loss (`losses/border.py`); here is the second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from u2net3d.prep.instances import instances
from u2net3d.volume import Array

W0 = 10.0
SIGMA_VOXELS = 5.0
REACH = 4  # sigmas, beyond which exp(-8) of w0 is taken for nothing


def border_weights(
    label: Array, w0: float = W0, sigma_voxels: float = SIGMA_VOXELS
) -> NDArray[np.float32]:
    """w0 exp(-(d1 + d2)^2 / (2 sigma^2)) at every voxel of a label (D, H, W) of integers.

    d1 and d2 in voxels, to the nearest voxel of an object, 0 inside it: so the paper's membrane
    between two cells is dear, and where two organs share a face, so are their outermost voxels.
    Objects as in `instances`; fewer than two give zeros. It sees what the patch shows: an object
    beyond its rim, and a bridge there between two parts of one, are unknown to it.
    """
    from scipy.ndimage import find_objects

    objects, _ = instances(label)
    reach = REACH * sigma_voxels
    first = np.full(label.shape, np.inf, np.float32)
    second = first.copy()
    for number, box in enumerate(find_objects(objects), start=1):
        around = tuple(
            slice(max(0, side.start - int(reach) - 1), side.stop + int(reach) + 1) for side in box
        )
        distance = _distance(objects[around] != number)
        one, two = first[around], second[around]
        np.minimum(two, np.maximum(one, distance), out=two)
        np.minimum(one, distance, out=one)
    both = first + second
    weights = w0 * np.exp(-(both**2) / (2 * sigma_voxels**2))
    result: NDArray[np.float32] = np.where(both <= reach, weights, 0).astype(np.float32)
    return result


def _distance(outside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How many voxels away the nearest one is that is not outside."""
    from scipy.ndimage import distance_transform_edt

    distance: NDArray[np.float32] = distance_transform_edt(outside).astype(np.float32)
    return distance
