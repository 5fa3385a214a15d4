"""The operators that the network is made of, with their own backward passes.

Between them travel raw tensors whose norm is still pending (`Features`): statistics are gathered
while an operator writes, norm and activation are carried out while the next one reads. A separable
unit so reads and writes memory twice forward, and keeps two tensors for its way back: what it read
and what stands between its two convolutions.

Every operator runs through the same passes: in the native kernels (`native.py`) where they take the
tensors, else in Triton's (`gpu.py`) where those do, else in torch's operators (`plain.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from u2net3d.ops import gpu, native, plain
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
    u, mean, rstd = _Stem.apply(image, weight, stride)  # type: ignore[no-untyped-call]
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
    layout = _Layout.of(sources, stride, grid, inner.slope if inner else 1.0)
    tensors = [tensor for source in sources for tensor in _tensors(source)]
    scale, bias = (inner.weight, inner.bias) if inner else (None, None)
    v, mean, rstd = _Unit.apply(  # type: ignore[no-untyped-call]
        layout, weight, scale, bias, matrix, *tensors
    )
    return Features(v, Pending(mean, rstd, *outer))


def head(source: Features, matrix: Tensor, bias: Tensor) -> Tensor:
    """Pointwise convolution with bias: (B, C, D, H, W) by matrix (K, C) -> (B, K, D, H, W)."""
    layout = _Layout.of([source], (1, 1, 1), (0, 0, 0), 1.0)
    result: Tensor = _Head.apply(  # type: ignore[no-untyped-call]
        layout, matrix, bias, *_tensors(source)
    )
    return result


def summed(sources: Sequence[Features], slope: float) -> Features:
    """LeakyReLU of the sum of one or two features of the same shape, with nothing left pending."""
    layout = _Layout.of(sources, (1, 1, 1), (0, 0, 0), slope)
    tensors = [tensor for source in sources for tensor in _tensors(source)]
    result: Tensor = _Sum.apply(layout, *tensors)  # type: ignore[no-untyped-call]
    return Features(result, None)


class _Layout(NamedTuple):
    """What is no tensor: of each source its norm's slope (None: no norm) and repetitions."""

    slopes: tuple[float | None, ...]
    ups: tuple[Triple, ...]
    stride: Triple
    grid: Triple
    slope: float

    @classmethod
    def of(cls, sources: Sequence[Features], stride: Triple, grid: Triple, slope: float) -> _Layout:
        slopes = tuple(source.norm.slope if source.norm else None for source in sources)
        return cls(slopes, tuple(source.up for source in sources), stride, grid, slope)

    def sources(self, tensors: Sequence[Tensor | None]) -> list[Features]:
        """The sources again, of `_tensors` laid one behind the other."""
        found = []
        for i, (slope, up) in enumerate(zip(self.slopes, self.ups, strict=True)):
            x, mean, rstd, weight, bias = tensors[5 * i : 5 * i + 5]
            assert x is not None
            norm = None
            if slope is not None:
                assert mean is not None and rstd is not None  # noqa: PT018
                assert weight is not None and bias is not None  # noqa: PT018
                norm = Pending(mean, rstd, weight, bias, slope)
            found.append(Features(x, norm, up))
        return found


def _tensors(source: Features) -> tuple[Tensor | None, ...]:
    return (source.x, *(source.norm.tensors if source.norm else (None,) * 4))


def _passes(*tensors: Tensor | None) -> Any:
    given = [t for t in tensors if t is not None]
    if native.usable(*given):
        return native
    return gpu if gpu.usable(*given) else plain


def _finished(
    passes: Any, results: Sequence[tuple[Tensor, Tensor] | None], sources: Sequence[Features]
) -> list[Tensor | None]:
    """Gradients of `_tensors` of every source, from g_act and its sums."""
    gradients: list[Tensor | None] = []
    for result, source in zip(results, sources, strict=True):
        if result is None or source.norm is None:
            gradients += [result[0] if result else None, None, None, None, None]
            continue
        g_act, sums = result
        for_x, for_weight, for_bias = passes.finish(g_act, source, sums)
        gradients += [for_x, None, None, for_weight, for_bias]
    return gradients


def _wanted(needs: Sequence[bool]) -> list[bool]:
    """Whether anything of each source's tensors needs a gradient."""
    return [any(needs[i : i + 5]) for i in range(0, len(needs), 5)]


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, stride: Triple
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(image, weight)
        ctx.stride = stride
        u, mean, rstd = _passes(image, weight).stem_forward(image, weight, stride)
        ctx.mark_non_differentiable(mean, rstd)
        ctx.set_materialize_grads(False)
        return u, mean, rstd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[None, Tensor, None]:
        image, weight = ctx.saved_tensors
        passes = _passes(image, weight, gradient)
        return None, passes.stem_backward(gradient, image, weight, ctx.stride), None


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layout: _Layout, weight: Tensor, scale: Tensor | None, bias: Tensor | None,
        matrix: Tensor, *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        passes = _passes(weight, scale, bias, matrix, *tensors)
        sources = layout.sources(tensors)
        u, mean, rstd = passes.depthwise_forward(sources, weight, layout.stride, layout.grid)
        between = _between(u, mean, rstd, scale, bias, layout.slope)
        ctx.save_for_backward(weight, scale, bias, matrix, u, mean, rstd, *tensors)
        v, mean, rstd = passes.pointwise_forward(between, matrix)
        ctx.layout = layout
        ctx.mark_non_differentiable(mean, rstd)
        ctx.set_materialize_grads(False)
        return v, mean, rstd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        weight, scale, bias, matrix, u, mean, rstd, *tensors = ctx.saved_tensors
        layout = ctx.layout
        passes = _passes(gradient, weight, scale, bias, matrix, *tensors)
        sources, needs = layout.sources(tensors), ctx.needs_input_grad
        between = _between(u, mean, rstd, scale, bias, layout.slope)
        g_act, sums, for_matrix, _ = passes.pointwise_backward(
            gradient, between, matrix, (True, needs[4], False)
        )
        normed = between.norm is not None
        results, for_weight = passes.depthwise_backward(
            g_act, sums if normed else None, between, sources, weight, layout.stride, layout.grid,
            _wanted(needs[5:]),
        )  # fmt: skip
        for_norm = (sums[:, 1].sum(0), sums[:, 0].sum(0)) if normed else (None, None)
        own = (None, for_weight, *for_norm, for_matrix)
        return *own, *_finished(passes, results, sources)


def _between(
    u: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor | None, bias: Tensor | None, slope: float
) -> Features:
    if scale is None or bias is None:
        return Features(u, None)
    return Features(u, Pending(mean, rstd, scale, bias, slope))


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layout: _Layout, matrix: Tensor, bias: Tensor, *tensors: Tensor | None
    ) -> Tensor:
        (source,) = layout.sources(tensors)
        ctx.save_for_backward(matrix, *tensors)
        ctx.layout = layout
        passes = _passes(matrix, bias, *tensors)
        logits: Tensor = passes.pointwise_forward(source, matrix, bias, statistics=False)[0]
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        matrix, *tensors = ctx.saved_tensors
        (source,) = ctx.layout.sources(tensors)
        passes = _passes(gradient, matrix, *tensors)
        wanted = any(ctx.needs_input_grad[3:])
        g_act, sums, for_matrix, for_bias = passes.pointwise_backward(
            gradient, source, matrix, (wanted, True, True)
        )
        results = [(g_act, sums) if wanted else None]
        return None, for_matrix, for_bias, *_finished(passes, results, [source])


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layout: _Layout, *tensors: Tensor | None) -> Tensor:
        passes, sources = _passes(*tensors), layout.sources(tensors)
        y: Tensor = passes.sum_forward(sources, layout.slope)
        ctx.save_for_backward(y, *tensors)
        ctx.layout = layout
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        y, *tensors = ctx.saved_tensors
        layout = ctx.layout
        passes, sources = _passes(gradient, *tensors), layout.sources(tensors)
        wanted = _wanted(ctx.needs_input_grad[1:])
        results = passes.sum_backward(gradient, y, sources, layout.slope, wanted)
        return None, *_finished(passes, results, sources)
