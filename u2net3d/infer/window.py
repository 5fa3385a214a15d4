"""Sliding windows as pure geometry: where tiles lie, what they weigh, how much is mirrored."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from u2net3d.volume import Triple

_SIGMA_SHARE = 1 / 8  # of the patch, as in nnU-Net
_LEAST_WEIGHT = 1e-3  # of the largest: tile corners must count for something


def padding(shape: Triple, patch: Triple) -> tuple[tuple[int, int], ...]:
    """Voxels to mirror before and after each axis, so that a volume is at least one patch."""
    missing = (max(size - n, 0) for n, size in zip(shape, patch, strict=True))
    return tuple((n // 2, n - n // 2) for n in missing)


def tile_starts(shape: Triple, patch: Triple, overlap: float) -> list[Triple]:
    """First voxels of tiles that cover a volume of at least one patch.

    Neighbours share at least `overlap` (0 <= overlap < 1) of the patch; the tiles of an axis are
    spread evenly, the last one ends with the volume.
    """
    axes = []
    for n, size in zip(shape, patch, strict=True):
        step = max(1, math.floor(size * (1 - overlap)))
        tiles = math.ceil((n - size) / step) + 1
        axes.append([round(i * (n - size) / max(tiles - 1, 1)) for i in range(tiles)])
    return [(d, h, w) for d, h, w in itertools.product(*axes)]


def gaussian_weight(patch: Triple) -> NDArray[np.float32]:
    """Weight (D, H, W) of a tile's voxels: a Gaussian about its middle, 1 there, never 0."""
    weight = np.ones((1, 1, 1))
    for axis, size in enumerate(patch):
        at = np.arange(size) - (size - 1) / 2
        profile = np.exp(-(at**2) / (2 * (size * _SIGMA_SHARE) ** 2))
        weight = weight * profile.reshape([-1 if a == axis else 1 for a in range(3)])
    result: NDArray[np.float32] = np.maximum(weight / weight.max(), _LEAST_WEIGHT).astype("f4")
    return result
