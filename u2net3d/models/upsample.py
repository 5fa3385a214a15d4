"""Ways from a coarse answer to a fine one: a table by name, each (B, C, D, H, W) -> finer.

A voxel of the coarse grid stands for stride_D x stride_H x stride_W voxels and lies in their
middle. What each needs besides, and where it is from:

nearest           nothing; every voxel is repeated
linear            nothing; between the middles of voxels, constant beyond the outermost
transposed        weights that are learnt, and begin as `linear` (Long et al. 2015, section 3.3)
max-unpooling     where the pooling found each maximum; zero elsewhere (Zeiler and Fergus 2014,
                  section 2.1)
shift-and-stitch  the network itself, once for every shift of the image by less than its stride;
                  nothing is interpolated (Sermanet et al. 2014; Long et al. 2015, section 3.2)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from u2net3d.volume import Triple


def nearest(x: Tensor, stride: Triple) -> Tensor:
    """(B, C, D, H, W) -> (B, C, D * stride_D, ...)."""
    return F.interpolate(x, scale_factor=tuple(map(float, stride)), mode="nearest")


def linear(x: Tensor, stride: Triple) -> Tensor:
    """(B, C, D, H, W) -> (B, C, D * stride_D, ...), trilinear."""
    scale = tuple(map(float, stride))
    return F.interpolate(x, scale_factor=scale, mode="trilinear", align_corners=False)


def transposed(x: Tensor, stride: Triple, weight: Tensor) -> Tensor:
    """(B, C, D, H, W) -> (B, C', D * stride_D, ...) by weight (C, C', *kernel).

    kernel: 2 * stride where an axis is strided, by an even number, and 1 elsewhere. The outermost
    voxels are repeated once, so that no part of the kernel falls on nothing.
    """
    # Every fine voxel sees two coarse ones an axis: a dense convolution of 2x2x2 that gives a block
    # of voxels for each place between them. torch's own transposed convolution took longer.
    strided = [s > 1 for s in stride]
    around = [n for many in reversed(strided) for n in (int(many), int(many))]
    wide = F.pad(x, around, mode="replicate") if any(strided) else x
    fine = _spread(F.conv3d(wide, _blocks(weight, stride)), stride)
    for axis, (s, n) in enumerate(zip(stride, x.shape[2:], strict=True), start=2):
        fine = fine.narrow(axis, s // 2, n * s)  # the first place lies half a block outside
    return fine


def _blocks(weight: Tensor, stride: Triple) -> Tensor:
    """(C, C', 2 s_D, ...) -> (C' s_D s_H s_W, C, 2, ...): the later half of a kernel comes first.

    Of the two voxels that a fine one lies between, the one before it sees it with its second half.
    """
    c, out = weight.shape[:2]
    d, h, w = (k // s for k, s in zip(weight.shape[2:], stride, strict=True))
    halves = weight.view(c, out, d, stride[0], h, stride[1], w, stride[2]).flip(2, 4, 6)
    return halves.permute(1, 3, 5, 7, 0, 2, 4, 6).reshape(-1, c, d, h, w)


def _spread(x: Tensor, stride: Triple) -> Tensor:
    """(B, C s_D s_H s_W, D, H, W) -> (B, C, D s_D, ...): every voxel becomes a block."""
    batch, _, *grid = x.shape
    parts = x.view(batch, -1, *stride, *grid).permute(0, 1, 5, 2, 6, 3, 7, 4)
    d, h, w = (n * s for n, s in zip(grid, stride, strict=True))
    return parts.reshape(batch, -1, d, h, w)


def max_pooling(x: Tensor, stride: Triple) -> tuple[Tensor, Tensor]:
    """The largest of every stride_D x ... voxels, and where they were, for `max_unpooling`."""
    found, where = F.max_pool3d(x, stride, stride, ceil_mode=True, return_indices=True)
    return found, where


def max_unpooling(x: Tensor, stride: Triple, where: Tensor, grid: Sequence[int]) -> Tensor:
    """Every voxel back to where `max_pooling` took it from on `grid` (D, H, W); the others are 0.

    No interpolation: which of the finer voxels it was is known.
    """
    return F.max_unpool3d(x, where, list(stride), list(stride), output_size=list(grid))


def shift_and_stitch(network: Callable[[Tensor], Tensor], image: Tensor, stride: Triple) -> Tensor:
    """The answers of a network without padding, one for each voxel of the image that has one.

    network: (B, I, D, H, W) -> (B, C, d, h, w) whose voxel (o_D, o_H, o_W) is what it sees from
    voxel o * stride of the image on. It runs once for each of the stride_D * stride_H * stride_W
    beginnings, and their answers are put side by side.
    """
    shifts = list(itertools.product(*(range(s) for s in stride)))
    answers = [network(image[:, :, d:, h:, w:]) for d, h, w in shifts]
    sizes = [{s[axis]: a.shape[axis + 2] for s, a in zip(shifts, answers, strict=True)}
             for axis in range(3)]  # fmt: skip
    grid = [sum(by_shift.values()) for by_shift in sizes]
    whole = answers[0].new_empty(*answers[0].shape[:2], *grid)
    for (d, h, w), answer in zip(shifts, answers, strict=True):
        whole[:, :, d :: stride[0], h :: stride[1], w :: stride[2]] = answer
    return whole


UPSAMPLING: dict[str, Callable[..., Tensor]] = {
    "nearest": nearest,
    "linear": linear,
    "transposed": transposed,
    "max-unpooling": max_unpooling,
    "shift-and-stitch": shift_and_stitch,
}


class Transposed(nn.Module):
    """`transposed` with weights of its own, (C, C, *kernel), that begin as `linear`."""

    def __init__(self, channels: int, stride: Triple) -> None:
        super().__init__()
        self.stride = stride
        kernel = trilinear_kernel(stride)
        weight = torch.zeros(channels, channels, *kernel.shape)
        if not weight.is_meta:
            weight[range(channels), range(channels)] = kernel
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D * stride_D, ...)."""
        return transposed(x, self.stride, self.weight)


def trilinear_kernel(stride: Triple) -> Tensor:
    """What a transposed convolution of this stride interpolates with: 2 * stride or 1 an axis."""
    axes = []
    for s in stride:
        place = torch.arange(2 * s) - (2 * s - 1) / 2
        axes.append(1 - place.abs() / s if s > 1 else torch.ones(1))
    d, h, w = axes
    return d[:, None, None] * h[:, None] * w
