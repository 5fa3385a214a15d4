"""How tensors are handed to the Triton kernels: memory, blocks, the launch itself.

Nothing here needs triton before a kernel is launched. The block sizes are estimates: no GPU was at
hand to tune them on.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from u2net3d.ops.pending import EPS, Features

# Channels of a block: its voxels. 4096 values are 16 for each of a program's 8 * 32 threads; with
# 32 each the depthwise kernels run out of registers (compiled for sm_90 by triton 3.9).
BLOCKS = {16: 256, 32: 128, 64: 64}
_WARPS = 8
_MOST_VALUES = 2**31  # of a sample: the kernels count places in 32 bits


class Blocks:
    """How the programs share out a tensor (B, D, H, W, C), and room for two sums of each."""

    def __init__(self, rows: Tensor) -> None:
        batch, channels = len(rows), rows.shape[4]
        if rows[0].numel() >= _MOST_VALUES:
            raise ValueError(f"{rows[0].numel()} values in one sample; kernels take {_MOST_VALUES}")
        self.voxels = rows.shape[1:4].numel()
        self.shape = block(channels)
        count = -(-self.voxels // self.shape[0])
        self.grid = (count, -(-channels // self.shape[1]), batch)
        self._rows = rows

    @functools.cached_property
    def parts(self) -> Tensor:
        """Sums (B, blocks, 2, C)."""
        rows = self._rows
        return rows.new_empty(len(rows), self.grid[0], 2, rows.shape[4], dtype=torch.float32)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """mean and 1 / std (B, C) of the tensor whose moments stand in `parts`."""
        from u2net3d.ops import triton_norm as kernels

        batch, count, _, channels = self.parts.shape
        mean, rstd = self.parts.new_empty(2, batch, channels)
        launch(
            kernels.statistics, (1, *self.grid[1:]), self.parts, mean, rstd, self.voxels, count,
            channels, EPS, self.shape[0], *self.shape,
        )  # fmt: skip
        return mean, rstd


def launch(kernel: Any, grid: Sequence[int], *arguments: Any) -> None:
    """Runs `kernel` on the device of its tensors, a program for each point of the grid."""
    tensor = next(a for a in arguments if isinstance(a, Tensor))
    # triton launches on the current device; -1 leaves it as it is.
    with torch.cuda.device(tensor.get_device()):
        kernel[tuple(grid)](*arguments, num_warps=_WARPS)


def pending(source: Features, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """mean, rstd, weight, bias and slope of the source; where none pends, what leaves x alone."""
    if source.norm is None:  # xhat = a = y = x
        zeros = rows.new_zeros(len(rows), rows.shape[4], dtype=torch.float32)
        ones = torch.ones_like(zeros)
        return zeros, ones, ones, zeros, 1.0
    mean, rstd, weight, bias = (t.contiguous() for t in source.norm.tensors)
    return mean, rstd, weight, bias, float(source.norm.slope)


def channels_last(x: Tensor) -> Tensor:
    """(B, C, D, H, W) as dense (B, D, H, W, C); what lies otherwise in memory is copied."""
    return x.permute(0, 2, 3, 4, 1).contiguous()


def planes(rows: Tensor) -> Tensor:
    """(B, D, H, W, C) as (B, C, D, H, W), in the same memory."""
    return rows.permute(0, 4, 1, 2, 3)


def by_tap(weight: Tensor) -> Tensor:
    """A depthwise weight (C, 1, kD, kH, kW) as (taps, C)."""
    return weight.flatten(1).t().contiguous()


def block(channels: int) -> tuple[int, int]:
    """Voxels and channels of a block."""
    across = columns(channels)
    return BLOCKS[across], across


def columns(channels: int) -> int:
    """The fewest channels of a block that hold all of `channels`, else the most there are."""
    return next((n for n in BLOCKS if n >= channels), max(BLOCKS))


def precision() -> str:
    """How `tl.dot` multiplies float32, as torch was told to."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
