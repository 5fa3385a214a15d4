"""The operators that the network is made of, with their own backward passes.

Between them travel raw tensors whose norm is still pending (`Features`): statistics are gathered
while an operator writes, norm and activation are carried out while the next one reads. A separable
unit so reads and writes memory twice forward, and keeps two tensors for its way back: what it read
and what stands between its two convolutions.

What they compute stands in `computing.py`. They come to autograd as functions of their own, which
cost least; while torch.compile traces, as operators that torch knows by name (`compiled.py`); while
torch.jit traces, as OpenVINO makes it do, as torch's own operators, forward alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from u2net3d.ops import compiled, computing, plain
from u2net3d.ops.computing import Layout, tensors_of
from u2net3d.ops.pending import Features, Pending, Triple


class Norm(NamedTuple):
    """InstanceNorm and LeakyReLU that an operator leaves pending: weight and bias (C,), slope."""

    weight: Tensor
    bias: Tensor
    slope: float


def stem(image: Tensor, weight: Tensor, norm: Norm, stride: Triple = (1, 1, 1)) -> Features:
    """Dense convolution of an image (B, I, D, H, W) with weight (C, I, kD, kH, kW).

    Odd kernels, padding kernel // 2; the result is (B, C, ceil(D / stride_D), ...). No gradient
    reaches the image.
    """
    way = _way(_Stem, compiled.stem, computing.stem_forward)
    u, mean, rstd = way(image, weight, stride)
    return Features(u, Pending(mean, rstd, *norm))


def separable_unit(
    sources: Sequence[Features],
    weight: Tensor,
    inner: Norm | None,
    matrix: Tensor,
    outer: Norm,
    stride: Triple,
    grid: Triple,
) -> Features:
    """Depthwise convolution, norm, LeakyReLU, pointwise convolution; its own norm stays pending.

    inner: norm and LeakyReLU between the two convolutions, None for neither.

    sources: read side by side on `grid` (D, H, W), C channels together; weight (C, 1, kD, kH, kW)
    with kernels 1 or 3, padding kernel // 2; matrix (C', C); the result is (B, C', ceil(D /
    stride_D), ...). Huang et al., "3D U2-Net" (MICCAI 2019), section 2.1.
    """
    layout = Layout.of(sources, stride, grid, inner.slope if inner else 1.0)
    scale, bias = (inner.weight, inner.bias) if inner else (None, None)
    way = _way(_Unit, compiled.unit, computing.unit_traced)
    v, mean, rstd = way(layout, weight, scale, bias, matrix, *tensors_of(sources))
    return Features(v, Pending(mean, rstd, *outer))


def head(source: Features, matrix: Tensor, bias: Tensor) -> Tensor:
    """Pointwise convolution with bias: (B, C, D, H, W) by matrix (K, C) -> (B, K, D, H, W)."""
    layout = Layout.of([source])
    way = _way(_Head, compiled.head, computing.head_traced)
    result: Tensor = way(layout, matrix, bias, *tensors_of([source]))
    return result


def normed(x: Tensor, norm: Norm) -> Features:
    """x (B, C, D, H, W) of any operator of torch's, with an InstanceNorm left pending."""
    mean, rstd = plain.statistics(x.detach())
    return Features(x, Pending(mean, rstd, *norm))


def summed(sources: Sequence[Features], slope: float) -> Features:
    """LeakyReLU of the sum of one or two features of the same shape, with nothing left pending."""
    layout = Layout.of(sources, slope=slope)
    way = _way(_Sum, compiled.summed, computing.sum_traced)
    return Features(way(layout, *tensors_of(sources)), None)


def _way(
    function: type[torch.autograd.Function],
    operator: Callable[..., Any],
    traced: Callable[..., Any],
) -> Any:
    if computing.is_traced():
        return traced
    return operator if torch.compiler.is_compiling() else function.apply


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, stride: Triple
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(image, weight)
        ctx.stride = stride
        u, mean, rstd = computing.stem_forward(image, weight, stride)
        ctx.mark_non_differentiable(mean, rstd)
        ctx.set_materialize_grads(False)
        return u, mean, rstd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[None, Tensor, None]:
        image, weight = ctx.saved_tensors
        return None, computing.stem_backward(gradient, image, weight, ctx.stride), None


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layout: Layout, weight: Tensor, scale: Tensor | None, bias: Tensor | None,
        matrix: Tensor, *tensors: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        v, mean, rstd, *of_u = computing.unit_forward(layout, weight, scale, bias, matrix, tensors)
        ctx.save_for_backward(weight, scale, bias, matrix, *of_u, *tensors)
        ctx.layout = layout
        ctx.mark_non_differentiable(mean, rstd)
        ctx.set_materialize_grads(False)
        return v, mean, rstd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        weight, scale, bias, matrix, u, mean, rstd, *tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad
        gradients = computing.unit_backward(
            gradient, ctx.layout, weight, scale, bias, matrix, tensors, (u, mean, rstd),
            [needs[4], *ctx.layout.wanted(needs[5:])],
        )  # fmt: skip
        return None, *gradients


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layout: Layout, matrix: Tensor, bias: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, *tensors)
        ctx.layout = layout
        return computing.head_forward(layout, matrix, bias, tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        matrix, *tensors = ctx.saved_tensors
        wanted = any(ctx.needs_input_grad[3:])
        return None, *computing.head_backward(gradient, ctx.layout, matrix, tensors, wanted)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layout: Layout, *tensors: Tensor) -> Tensor:
        y = computing.sum_forward(layout, tensors)
        ctx.save_for_backward(y, *tensors)
        ctx.layout = layout
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        y, *tensors = ctx.saved_tensors
        wanted = ctx.layout.wanted(ctx.needs_input_grad[1:])
        return None, *computing.sum_backward(gradient, y, ctx.layout, tensors, wanted)
