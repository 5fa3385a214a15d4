"""Adding a weighted patch of logits to the sums of a volume, in numpy arrays."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from u2net3d.ops.library import library, threads

Floats = NDArray[np.float32]


def add_tile(sums: Floats, logits: Floats, weight: Floats) -> None:
    """sums (K, d, h, w) += logits (K, d, h, w) * weight (d, h, w), the same bits on every way.

    The logits may lie in any order in memory; voxels of the sums are dense along w.
    """
    kernels = library()
    if kernels is None or sums.strides[3] != 4 or logits.dtype != np.float32:
        sums += logits * weight
        return
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    strides = [stride // 4 for stride in (*logits.strides, *sums.strides[:3])]
    sizes = (ctypes.c_int64 * 11)(*logits.shape, *strides)
    kernels.add_tile(sizes, logits.ctypes.data, weight.ctypes.data, sums.ctypes.data, threads())
