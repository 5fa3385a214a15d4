"""Compares the GPU passes with torch's operators in float64 on small tensors, before trust."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from u2net3d.ops import gpu, plain
from u2net3d.ops.pending import Features, Pending, Triple

# Of the largest value. bfloat16 stores 8 bits; tf32, in which torch may be told to multiply
# float32, has 11. What is wrong by its formula is wrong by far more.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
_TOLERANCE_TF32 = 1e-2


class Case(NamedTuple):
    """The sizes of one comparison: a grid (D, H, W), what is read on it, what is made of it.

    channels: of each source; up: how often the first one's voxels are repeated; channels_out: of
    the pointwise convolution; normed: whether the sources' norms are pending.
    """

    space: Triple
    kernel: Triple
    stride: Triple
    channels: tuple[int, ...]
    channels_out: int
    up: Triple = (1, 1, 1)
    batch: int = 2
    slope: float = 0.1
    normed: bool = True


# Odd sizes, an axis of size 1, channels that fill no block, a cropped repetition: few, since every
# block width and every kernel is compiled anew.
CASES = (
    Case((5, 4, 3), (3, 3, 3), (2, 2, 2), channels=(5,), channels_out=20),
    Case((1, 3, 5), (1, 3, 3), (1, 1, 1), channels=(50, 20), channels_out=17, up=(1, 2, 2)),
)


def first_difference(device: torch.device, dtype: torch.dtype) -> str | None:
    """The first pass whose answer on `device` is not torch's, in words; None if all are."""
    for case in CASES:
        for name, arguments in passes(device, dtype, case):
            error = difference(name, arguments)
            if not error <= tolerance(dtype, name):  # NaN is a difference too
                return f"{name} is off by {error:.1g} of its largest value ({dtype}, {case})"
    return None


def passes(
    device: torch.device, dtype: torch.dtype, case: Case
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every pass that the kernels serve, by its name, with arguments."""
    dice = torch.Generator().manual_seed(0)  # the global generator stays as it is

    def draw(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=dice).to(device, kind)

    def source(channels: int, space: Sequence[int], up: Triple, normed: bool) -> Features:
        x = draw(case.batch, channels, *space, kind=dtype)
        mean, rstd = (t.float() for t in plain.statistics(x.double()))
        scale, offset = draw(2, channels)
        norm = Pending(mean, rstd, scale, offset, case.slope)
        return Features(x, norm if normed else None, up)

    one, channels, grid = (1, 1, 1), sum(case.channels), case.space
    coarse = [-(-n // up) for n, up in zip(grid, case.up, strict=True)]
    sources = [source(case.channels[0], coarse, case.up, case.normed)]
    sources += [source(n, grid, one, case.normed) for n in case.channels[1:]]
    strided = [-(-n // s) for n, s in zip(grid, case.stride, strict=True)]
    u = source(channels, strided, one, True)
    g_u, g_sums = draw(*u.x.shape, kind=dtype), draw(case.batch, 2, channels)
    weight, wanted = draw(channels, 1, *case.kernel), [True] * len(sources)
    yield "finish", (g_u, u, g_sums)
    yield "depthwise_forward", (sources, weight, case.stride, grid)
    layout = (sources, weight, case.stride, grid, wanted)
    yield "depthwise_backward", (g_u, None, None, *layout)
    yield "depthwise_backward", (g_u, g_sums, u, *layout)
    read = u if case.normed else u._replace(norm=None)
    matrix, bias = draw(case.channels_out, channels), draw(case.channels_out)
    g_v = draw(case.batch, case.channels_out, *strided, kind=dtype)
    yield "pointwise_forward", (read, matrix, bias)
    yield "pointwise_backward", (g_v, read, matrix, (True, True, True))
    for both in ([read], [read, source(channels, strided, one, True)]):
        yield "sum_forward", (both, case.slope)
        y = plain.sum_forward(both, case.slope)
        yield "sum_backward", (g_u, y, both, case.slope, [True] * len(both))


def difference(name: str, arguments: Sequence[Any]) -> float:
    """The largest error of a pass against torch in float64, of the largest value or 1."""
    got = tensors(getattr(gpu, name)(*arguments))
    want = tensors(getattr(plain, name)(*(exact(a) for a in arguments)))
    errors = [
        (a.double().cpu() - b).abs().max() / b.abs().max().clamp(min=1)
        for a, b in zip(got, want, strict=True)
        if b.numel()  # sums where no norm is pending mean nothing, and torch gives none
    ]
    return torch.stack(errors).max().item()  # NaN if any is


def tolerance(dtype: torch.dtype, name: str) -> float:
    """The `difference` that rounding may cause in the pass `name`."""
    tf32 = name.startswith("pointwise") and torch.get_float32_matmul_precision() != "highest"
    return max(_TOLERANCE[dtype], _TOLERANCE_TF32 if tf32 else 0.0)


def tensors(result: Any) -> list[Tensor]:
    """All tensors of a pass's result, in order."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in tensors(part)]


def exact(argument: Any) -> Any:
    """The argument of a pass with its tensors in float64 on the CPU."""
    if isinstance(argument, Tensor):
        return argument.double().cpu()
    if isinstance(argument, Pending | Features):
        return type(argument)(*(exact(part) for part in argument))
    if isinstance(argument, list):
        return [exact(part) for part in argument]
    return argument
