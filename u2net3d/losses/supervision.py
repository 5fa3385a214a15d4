"""Deep supervision: the loss at every level of the decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def supervised(
    loss: Callable[..., Tensor],
    outputs: Sequence[Tensor],
    target: Tensor,
    balance: float = 0.0,
    border: Tensor | None = None,
) -> Tensor:
    """Mean of `loss` over the outputs; from each grid to the next coarser one the weight halves.

    outputs: logits (B, K, d, h, w), full resolution first; target (B, D, H, W) int64, taken at the
    voxels where the coarser grids have theirs: a strided convolution with padding 1 looks at every
    second voxel, beginning with the first. Where the finest output is smaller than the target, its
    network does without padding: it is judged by the middle. balance, and border (B, D, H, W) at
    the same voxels as the target, are handed on to the loss; border only where it is given.
    """
    grids = list(dict.fromkeys(logits.shape[2:] for logits in outputs))
    weights = [0.5 ** grids.index(logits.shape[2:]) for logits in outputs]
    target = middle(target, grids[0])
    if border is not None:
        border = middle(border, grids[0])
    terms = [
        weight * loss(logits, on_grid(target, logits.shape[2:]), balance, *_with(border, logits))
        for weight, logits in zip(weights, outputs, strict=True)
    ]
    return torch.stack(terms).sum() / sum(weights)


def _with(border: Tensor | None, logits: Tensor) -> tuple[Tensor, ...]:
    return () if border is None else (on_grid(border, logits.shape[2:]),)


def middle(target: Tensor, size: Sequence[int]) -> Tensor:
    """The middle (B, *size) of a target (B, D, H, W), as large as an answer without padding."""
    for axis, (whole, kept) in enumerate(zip(target.shape[1:], size, strict=True), start=1):
        target = target.narrow(axis, (whole - kept) // 2, kept)
    return target


def on_grid(target: Tensor, grid: Sequence[int]) -> Tensor:
    """A target (B, D, H, W) at the voxels where a coarser grid (d, h, w) of the network has its."""
    for axis, (fine, coarse) in enumerate(zip(target.shape[1:], grid, strict=True), start=1):
        step = 1
        while -(-fine // step) > coarse:  # halving with rounding up, level by level
            step *= 2
        target = target[(slice(None),) * axis + (slice(None, None, step),)]
    return target
