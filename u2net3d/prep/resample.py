"""Volumes on another grid, symmetric about their centre (align_corners=False: voxels are cells).

Both grids cover the same box; sizes are rounded, so the true spacing is box / size.

One kernel for all axes. nnU-Net takes the nearest slice along a thick axis (> 3x the finest); here
cubic serves there too: nearest shifts what lies between slices by up to half a slice, and one rule
is simpler than two.

Shrinking averages over the voxels that merge (antialiasing): taking every second voxel of a noisy
image would keep all of its noise and let thin structures come and go with the grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from u2net3d.ops.resample import resample
from u2net3d.volume import Array, Triple, TripleF

if TYPE_CHECKING:
    from torch import Tensor

TIE = 1e-5  # shares of a voxel closer than this are equal: rounding must not choose the label


def resampled_shape(shape: Triple, spacing_mm: TripleF, target_mm: TripleF) -> Triple:
    """Voxels along D, H, W of the same box at another spacing, rounded, at least one."""
    axes = zip(shape, spacing_mm, target_mm, strict=True)
    d, h, w = (max(1, round(size * old / new)) for size, old, new in axes)
    return d, h, w


def resample_image(image: Array, shape: Triple) -> Array:
    """image (C, D, H, W) float32 to (C, *shape) by separable cubics, antialiased where it shrinks.

    Kept within each channel's own range: cubics overshoot at edges. The same shape is the identity.
    """
    if image.shape[1:] == shape:
        return image
    return resample(image, shape)


def resample_label(label: Array, shape: Triple) -> Array:
    """label (D, H, W) integer to `shape`: the value with the largest share of each new voxel.

    Shares are linear (antialiased where it shrinks), so borders move by less than a voxel and by
    as much from either side; taking the nearest voxel would move everything by half a voxel at
    factor 2. A tie goes to the lower value. Negative values are voxels to ignore: they give
    no share, and are taken from the nearest voxel, so that none of them becomes a class. The same
    shape is the identity.
    """
    import torch

    if label.shape == shape:
        return label
    result = torch.zeros(shape, dtype=torch.int64)
    best = torch.zeros(shape)
    for value in np.unique(label[label >= 0]):
        mask = torch.from_numpy((label == value).astype(np.float32))
        share = _separable(mask[None], shape)[0]
        wins = share > best + TIE
        result[wins] = int(value)
        best = torch.maximum(best, share)
    array: Array = result.numpy().astype(label.dtype)
    if label.min() < 0:
        nearest = label[np.ix_(*(_nearest(n, m) for n, m in zip(label.shape, shape, strict=True)))]
        array[nearest < 0] = nearest[nearest < 0]
    return array


def _separable(volume: Tensor, shape: Triple) -> Tensor:
    """(C, D, H, W) to (C, *shape), linear; torch has that, with antialiasing, for two axes."""
    from torch.nn.functional import interpolate

    def two_axes(planes: Tensor, size: tuple[int, int]) -> Tensor:
        return interpolate(planes, size=size, mode="bilinear", align_corners=False, antialias=True)

    channels, depth, height, width = volume.shape
    if depth != shape[0]:
        columns = volume.reshape(1, channels, depth, height * width)
        volume = two_axes(columns, (shape[0], height * width))
        volume = volume.reshape(channels, shape[0], height, width)
    return volume if (height, width) == shape[1:] else two_axes(volume, shape[1:])


def _nearest(old: int, new: int) -> Array:
    """For each of `new` voxels of a line, the one of `old` voxels that its centre lies in."""
    return (2 * np.arange(new) + 1) * old // (2 * new)
