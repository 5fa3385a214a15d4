"""InstanceNorm and LeakyReLU in one operator that keeps channels_last_3d.

torch's own InstanceNorm leaves channels_last_3d, so that every convolution behind it has to copy.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from u2net3d.ops import native

_SPACE = (2, 3, 4)


def instance_norm_act(
    x: Tensor, weight: Tensor, bias: Tensor, slope: float, eps: float = 1e-5
) -> Tensor:
    """LeakyReLU((x - mean) / sqrt(var + eps) * weight + bias), statistics per sample and channel.

    x (B, C, D, H, W); weight and bias (C,); slope of the LeakyReLU below 0, 1 for none; the
    variance is the biased one (Ulyanov et al. 2016, eq. 4-5). Raises ValueError when weight or bias
    is not (C,): the native kernels would read past it.
    """
    if not weight.shape == bias.shape == x.shape[1:2]:
        shapes = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
        raise ValueError(f"weight and bias must be ({x.shape[1]},), not {shapes}")
    result: Tensor = _NormAct.apply(x, weight, bias, slope, eps)  # type: ignore[no-untyped-call]
    return result


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float, eps: float
    ) -> Tensor:
        if native.usable(x, weight, bias):
            x, y, mean, rstd = native.norm_forward(x, weight, bias, eps, slope)
        else:
            variance, mean = torch.var_mean(x, _SPACE, correction=0)
            rstd = torch.rsqrt(variance + eps)
            y = F.leaky_relu(_affine(x, weight, bias, mean, rstd), slope)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.slope = slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if native.usable(x, gradient, weight, bias):
            gx, gweight, gbias = native.norm_backward(
                x, gradient, weight, bias, mean, rstd, ctx.slope
            )
            return gx, gweight, gbias, None, None
        before = _affine(x, weight, bias, mean, rstd)
        behind = torch.where(before > 0, gradient, gradient * ctx.slope)
        normalised = (x - _wide(mean)) * _wide(rstd)
        gbias, gweight = behind.sum(_SPACE), (behind * normalised).sum(_SPACE)
        voxels = x.shape[2:].numel()
        inner = behind - _wide(gbias / voxels) - normalised * _wide(gweight / voxels)
        return inner * _wide(weight * rstd), gweight.sum(0), gbias.sum(0), None, None


def _affine(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    scale = weight * rstd
    return x * _wide(scale) + _wide(bias - mean * scale)


def _wide(statistic: Tensor) -> Tensor:
    return statistic[:, :, None, None, None]
