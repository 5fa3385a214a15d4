"""The passes of the network on a GPU, by kernels in Triton; the stem's are torch's operators.

The passes and their arguments are those of `native.py`, their formulas stand in `reference.py`.
Tensors are stored in float32 or bfloat16, results in the type of their input; statistics, sums and
arithmetic are float32. Sums are added in a fixed order: the same input gives the same bits. Float32
products follow `torch.set_float32_matmul_precision`.

The kernels were written and tested in triton's interpreter on a CPU (TRITON_INTERPRET=1) and never
tuned on a GPU. `checked` compares them with torch's operators on the very device, so that a device
where they fail is left to those.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from u2net3d.ops import gpu_launch, plain
from u2net3d.ops.gpu_launch import Blocks, channels_last, pending, planes
from u2net3d.ops.pending import Features, Triple

_STEP = 4  # the product behind the pointwise weight's gradient takes a quarter of a block's voxels
# Where the work may be cut anywhere; a fixed number of programs, or the bits would depend on it.
_PROGRAMS = 512
_MOST_VALUES = 2**27  # of a sample: up-sampled and with twice the channels still counted in 32 bits
_DTYPES = (torch.float32, torch.bfloat16)

# A dense convolution of few channels, once in a network: torch has good kernels for it.
stem_forward = plain.stem_forward
stem_backward = plain.stem_backward


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels take all these tensors."""
    device = tensors[0].device
    if any(t.device != device or t.dtype not in _DTYPES or t.numel() == 0 for t in tensors):
        return False
    if any(t.numel() // len(t) > _MOST_VALUES for t in tensors):
        return False
    return all(checked(device, dtype) is None for dtype in {t.dtype for t in tensors})


@functools.cache
def checked(device: torch.device, dtype: torch.dtype = torch.float32) -> str | None:
    """Why the kernels do not serve tensors of `dtype` on `device`, or None where they do.

    At first use every kernel is compiled and its answers compared, which takes a while.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not (device.type == "cpu" and interpreted):
        return f"triton's kernels are for cuda, not for {device.type}"
    try:
        from u2net3d.ops import gpu_check, triton_norm
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    if bool(triton_norm.INTERPRETED) != interpreted:
        return "TRITON_INTERPRET was changed after triton was imported"
    try:
        return gpu_check.first_difference(device, dtype)
    except Exception as error:  # whatever a compiler or a driver raises: torch takes over
        return f"triton's kernels failed on {device}: {type(error).__name__}: {error}"


def depthwise_forward(
    sources: Sequence[Features], weight: Tensor, stride: Triple, fine: Triple
) -> tuple[Tensor, Tensor, Tensor]:
    """As `native.depthwise_forward`: a launch for each source."""
    from u2net3d.ops import triton_kernels as kernels

    x = sources[0].x
    space = [-(-n // s) for n, s in zip(fine, stride, strict=True)]
    u = x.new_empty(len(x), *space, len(weight))
    blocks, first = Blocks(u), 0
    for source in sources:
        rows = channels_last(source.x)
        own = rows.shape[4]
        taps = gpu_launch.by_tap(weight[first : first + own])
        grid = (blocks.grid[0], -(-own // blocks.shape[1]), blocks.grid[2])
        gpu_launch.launch(
            kernels.depthwise_forward, grid, rows, *pending(source, rows), taps, u[..., first:],
            blocks.parts[..., first:], *fine, *rows.shape[1:4], *u.shape[1:4], own, u.shape[4],
            *weight.shape[2:], *stride, *source.up, *blocks.shape,
        )  # fmt: skip
        first += own
    return planes(u), *blocks.statistics()


def depthwise_backward(
    gradient: Tensor, sums: Tensor | None, u: Features | None, sources: Sequence[Features],
    weight: Tensor, stride: Triple, fine: Triple, wanted: Sequence[bool],
) -> tuple[list[tuple[Tensor, Tensor] | None], Tensor]:  # fmt: skip
    """As `native.depthwise_backward`: the pending gradient is finished, then a launch a source."""
    if sums is not None and u is not None:
        gradient = finish(gradient, u, sums)[0]
    g, first = channels_last(gradient), 0
    results: list[tuple[Tensor, Tensor] | None] = []
    for_weight = []
    for source, asked in zip(sources, wanted, strict=True):
        last = first + source.x.shape[1]
        g_act, own_sums, share = _depthwise_backward(
            g, first, source, weight[first:last], stride, fine
        )
        results.append((g_act, own_sums) if asked else None)
        for_weight.append(share)
        first = last
    return results, torch.cat(for_weight)


def _depthwise_backward(
    g: Tensor, first: int, source: Features, weight: Tensor, stride: Triple, fine: Triple
) -> tuple[Tensor, Tensor, Tensor]:
    """g_act, its sums and the weight's gradient of a source; its channels of g begin at `first`."""
    from u2net3d.ops import triton_kernels as kernels

    x = channels_last(source.x)
    g_act, blocks, own = torch.empty_like(x), Blocks(x), x.shape[4]
    taps = weight.shape[2:].numel()
    shares = blocks.parts.new_empty(*blocks.parts.shape[:2], taps, own)
    gpu_launch.launch(
        kernels.depthwise_backward, blocks.grid, g[..., first:], x, *pending(source, x),
        gpu_launch.by_tap(weight), g_act, blocks.parts, shares, *fine, *x.shape[1:4],
        *g.shape[1:4], own, g.shape[4], *weight.shape[2:], *stride, *source.up, *blocks.shape,
    )  # fmt: skip
    for_weight = shares.flatten(0, 1).sum(0).t().reshape(weight.shape)
    return planes(g_act), blocks.parts.sum(1), for_weight.to(weight.dtype)


def pointwise_forward(
    source: Features, weight: Tensor, bias: Tensor | None = None, *, statistics: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """As `native.pointwise_forward`."""
    from u2net3d.ops import triton_kernels as kernels

    u, weight = channels_last(source.x), weight.contiguous()
    v = u.new_empty(*u.shape[:4], len(weight))
    blocks = Blocks(v)
    bias = weight.new_zeros(len(weight)) if bias is None else bias.contiguous()
    gpu_launch.launch(
        kernels.pointwise_forward, blocks.grid, u, *pending(source, u), weight, bias, v,
        blocks.parts, blocks.voxels, u.shape[4], len(weight), gpu_launch.columns(u.shape[4]),
        gpu_launch.precision(), *blocks.shape,
    )  # fmt: skip
    if not statistics:
        return planes(v), v.new_empty(0), v.new_empty(0)
    return planes(v), *blocks.statistics()


def pointwise_backward(
    gradient: Tensor, source: Features, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """As `native.pointwise_backward`."""
    from u2net3d.ops import triton_kernels as kernels

    g, u, weight = channels_last(gradient), channels_last(source.x), weight.contiguous()
    for_weight = _matrix_gradient(g, u, source, weight) if wanted[1] else None
    for_bias = g.flatten(0, 3).sum(0, dtype=torch.float32).to(weight.dtype) if wanted[2] else None
    if not wanted[0]:
        return None, u.new_empty(0), for_weight, for_bias
    g_act, blocks = torch.empty_like(u), Blocks(u)
    gpu_launch.launch(
        kernels.pointwise_backward, blocks.grid, g, u, *pending(source, u), weight, g_act,
        blocks.parts, blocks.voxels, u.shape[4], len(weight), gpu_launch.columns(len(weight)),
        gpu_launch.precision(), *blocks.shape,
    )  # fmt: skip
    return planes(g_act), blocks.parts.sum(1), for_weight, for_bias


def _matrix_gradient(g: Tensor, u: Tensor, source: Features, weight: Tensor) -> Tensor:
    from u2net3d.ops import triton_kernels as kernels

    voxels = u.shape[1:4].numel()
    rows, columns = gpu_launch.block(max(weight.shape))
    rows //= _STEP
    tiles = -(-len(weight) // columns) * -(-u.shape[4] // columns)
    chunks = max(1, _PROGRAMS // (tiles * len(u)))
    chunk = -(-voxels // (chunks * rows)) * rows  # whole blocks, so that none is met twice
    chunks = -(-voxels // chunk)
    parts = u.new_empty(len(u), chunks, *weight.shape, dtype=torch.float32)
    gpu_launch.launch(
        kernels.pointwise_weight, (chunks, tiles, len(u)), g, u, *pending(source, u), parts,
        voxels, u.shape[4], len(weight), chunk, gpu_launch.precision(), rows, columns,
    )  # fmt: skip
    return parts.flatten(0, 1).sum(0).to(weight.dtype)


def sum_forward(sources: Sequence[Features], slope: float) -> Tensor:
    """As `native.sum_forward`."""
    from u2net3d.ops import triton_norm as kernels

    one, other = sources[0], sources[-1]
    x, x_other = channels_last(one.x), channels_last(other.x)
    y, blocks = torch.empty_like(x), Blocks(x)
    gpu_launch.launch(
        kernels.sum_forward, blocks.grid, x, *pending(one, x), x_other, *pending(other, x_other),
        float(slope), y, blocks.voxels, x.shape[4], len(sources) == 2, *blocks.shape,
    )  # fmt: skip
    return planes(y)


def sum_backward(
    gradient: Tensor, y: Tensor, sources: Sequence[Features], slope: float, wanted: Sequence[bool]
) -> list[tuple[Tensor, Tensor] | None]:
    """As `native.sum_backward`: a launch for each source."""
    from u2net3d.ops import triton_norm as kernels

    g, y = channels_last(gradient), channels_last(y)
    results: list[tuple[Tensor, Tensor] | None] = []
    for source, asked in zip(sources, wanted, strict=True):
        if not asked:
            results.append(None)
            continue
        x = channels_last(source.x)
        g_act, blocks = torch.empty_like(x), Blocks(x)
        gpu_launch.launch(
            kernels.sum_backward, blocks.grid, g, y, float(slope), x, *pending(source, x), g_act,
            blocks.parts, blocks.voxels, x.shape[4], *blocks.shape,
        )  # fmt: skip
        results.append((planes(g_act), blocks.parts.sum(1)))
    return results


def finish(g_act: Tensor, source: Features, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `native.finish`, in memory of its own."""
    from u2net3d.ops import triton_norm as kernels

    assert source.norm is not None
    g, x, sums = channels_last(g_act), channels_last(source.x), sums.float().contiguous()
    result, blocks = torch.empty_like(x), Blocks(x)
    gpu_launch.launch(
        kernels.finish, blocks.grid, g, x, *pending(source, x)[:4], sums, result, blocks.voxels,
        x.shape[4], *blocks.shape,
    )  # fmt: skip
    for_bias, for_weight = sums.sum(0)
    weight, bias = source.norm.weight, source.norm.bias
    return planes(result), for_weight.to(weight.dtype), for_bias.to(bias.dtype)
