"""Volumes on another grid, symmetric about their centre (align_corners=False: voxels are cells).

Both grids cover the same box; sizes are rounded, so the true spacing is box / size.

One kernel for all axes. nnU-Net takes the nearest slice along a thick axis (> 3x the finest); here
cubic serves there too: nearest shifts what lies between slices by up to half a slice, and one rule
is simpler than two.

Shrinking averages over the voxels that merge (antialiasing): taking every second voxel of a noisy
image would keep all of its noise and let thin structures come and go with the grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

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
    import torch

    if image.shape[1:] == shape:
        return image
    source = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    result = _separable(source, shape, "bicubic")
    low, high = source.flatten(1).aminmax(dim=1)
    result = result.clamp_(low.view(-1, 1, 1, 1), high.view(-1, 1, 1, 1))
    array: Array = result.numpy()
    return array


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
        share = _separable(mask[None], shape, "bilinear")[0]
        wins = share > best + TIE
        result[wins] = int(value)
        best = torch.maximum(best, share)
    array: Array = result.numpy().astype(label.dtype)
    if label.min() < 0:
        nearest = label[np.ix_(*(_nearest(n, m) for n, m in zip(label.shape, shape, strict=True)))]
        array[nearest < 0] = nearest[nearest < 0]
    return array


def label_of_logits(logits: Tensor, shape: Triple) -> Array:
    """logits (K, d, h, w) to the uint8 label (D, H, W) of `shape`, K at most 256.

    What argmax(linear interpolation) gives, one output slice at a time: no more than three
    slices (K, H, W) exist at once, however many there are. The same shape is the plain argmax.
    """
    label = np.empty(shape, np.uint8)
    if logits.shape[1:] == shape:
        label[...] = _largest(logits)
        return label
    for z, plane in enumerate(_planes(logits, shape)):
        label[z] = _largest(plane)
    return label


def probabilities_of_logits(logits: Tensor, shape: Triple) -> Array:
    """logits (K, d, h, w) to the softmax of their linear interpolation, uint16 (K, *shape).

    In units of 1/65535: half the bytes of float32, and 32 times as fine as float16 near 1.
    """
    shares = np.empty((len(logits), *shape), np.uint16)
    for z, plane in enumerate(_planes(logits, shape)):
        steps = plane.float().softmax(dim=0).mul(np.iinfo(np.uint16).max).round_()
        shares[:, z] = steps.cpu().numpy()
    return shares


def _planes(logits: Tensor, shape: Triple) -> Iterator[Tensor]:
    """The slices (K, H, W) of logits (K, d, h, w) at `shape`, interpolated linearly, in order."""
    import torch

    depth = logits.shape[1]
    planes: dict[int, Tensor] = {}
    for z in range(shape[0]):
        place = min(max((z + 0.5) * depth / shape[0] - 0.5, 0), depth - 1)
        low = int(place)
        high = min(low + 1, depth - 1)
        planes = {i: planes[i] if i in planes else _plane(logits[:, i], shape) for i in (low, high)}
        yield torch.lerp(planes[low], planes[high], place - low)


def _largest(logits: Tensor) -> Array:
    # max and not argmax: the same, first of equals included, and faster on a CPU
    array: Array = logits.max(dim=0).indices.cpu().numpy()
    return array


def _plane(plane: Tensor, shape: Triple) -> Tensor:
    from torch.nn.functional import interpolate

    return interpolate(plane[None].float(), size=shape[1:], mode="bilinear", align_corners=False)[0]


def _separable(volume: Tensor, shape: Triple, mode: Literal["bicubic", "bilinear"]) -> Tensor:
    """(C, D, H, W) to (C, *shape); torch has these kernels, with antialiasing, for two axes."""
    from torch.nn.functional import interpolate

    def two_axes(planes: Tensor, size: tuple[int, int]) -> Tensor:
        return interpolate(planes, size=size, mode=mode, align_corners=False, antialias=True)

    channels, depth, height, width = volume.shape
    if depth != shape[0]:
        columns = volume.reshape(1, channels, depth, height * width)
        volume = two_axes(columns, (shape[0], height * width))
        volume = volume.reshape(channels, shape[0], height, width)
    return volume if (height, width) == shape[1:] else two_axes(volume, shape[1:])


def _nearest(old: int, new: int) -> Array:
    """For each of `new` voxels of a line, the one of `old` voxels that its centre lies in."""
    return (2 * np.arange(new) + 1) * old // (2 * new)
