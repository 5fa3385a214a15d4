"""Depthwise 3-D convolution with its own backward.

torch's backward of a depthwise 3-D convolution is many times slower than its forward on a CPU. Both
gradients are cheap: for the input it is again a depthwise convolution, with the flipped kernel;
for the weight it is one pass over both tensors, in the native kernel where that was built.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from u2net3d.ops import native

Triple = tuple[int, int, int]


def depthwise_conv3d(x: Tensor, weight: Tensor, stride: Triple = (1, 1, 1)) -> Tensor:
    """Convolves each channel with its own kernel, padding kernel // 2.

    x (B, C, D, H, W); weight (C, 1, kD, kH, kW) with odd kernels; result (B, C, ceil(D / stride_D),
    ceil(H / stride_H), ceil(W / stride_W)).
    """
    result: Tensor = _Depthwise.apply(x, weight, stride)  # type: ignore[no-untyped-call]
    return result


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Triple) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return _convolve(x, weight, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        for_x = _input_gradient(gradient, weight, x) if ctx.needs_input_grad[0] else None
        for_weight = None
        if ctx.needs_input_grad[1]:
            for_weight = _weight_gradient(x, gradient, weight, ctx.stride)
        return for_x, for_weight, None


def _convolve(x: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    d, h, w = weight.shape[2:]
    padding = (d // 2, h // 2, w // 2)
    return F.conv3d(x, weight, None, stride, padding, groups=x.shape[1])


def _input_gradient(gradient: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    if gradient.shape != x.shape:  # strided: put the gradient back on the fine grid, zeros between
        d, h, w = (-(-n // m) for n, m in zip(x.shape[2:], gradient.shape[2:], strict=True))
        spread = torch.zeros_like(x, memory_format=torch.channels_last_3d)
        spread[:, :, ::d, ::h, ::w] = gradient
        gradient = spread
    return _convolve(gradient, weight.flip(2, 3, 4), (1, 1, 1))


def _weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    d, h, w = weight.shape[2:]
    if native.usable(x, gradient) and {d, h, w} <= {1, 3}:
        return native.depthwise_weight_gradient(x, gradient, (d, h, w), stride)
    padding = [d // 2, h // 2, w // 2]
    _, for_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, list(stride), padding, [1, 1, 1], False, [0, 0, 0],
        x.shape[1], [False, True, False],
    )  # fmt: skip
    result: Tensor = for_weight
    return result
