"""The passes of the fused unit as textbook formulas, for tests and self-checks; speed is no aim.

Plain torch on any device and in any floating type, float64 above all. A pass reads a raw tensor
together with its pending norm (`Pending`; None: x is read as it is) and gives its own result raw,
with its mean and 1 / std. Backward, with xhat = (x - mean) * rstd, a = weight * xhat + bias,
y = LeakyReLU(a) and V voxels a channel (Ulyanov et al. 2016, eq. 4-5, and its derivative):

    g_act = dL/da = dL/dy * (1 if a > 0 else slope)
    sums = (sum of g_act, sum of g_act * xhat)                                        per sample
    dL/dx = weight * rstd * (g_act - sums[0] / V - xhat * sums[1] / V)

Shapes: x and gradients (B, C, D, H, W); sums (B, 2, C); a depthwise weight (C, 1, kD, kH, kW) with
odd kernels and padding k // 2, zeros put around y; a pointwise weight (C_out, C_in).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from u2net3d.ops.pending import EPS, Pending

Triple = tuple[int, int, int]
_SPACE = (2, 3, 4)


def depthwise_forward(
    x: Tensor, norm: Pending | None, weight: Tensor, stride: Triple
) -> tuple[Tensor, Tensor, Tensor]:
    """u[o] = sum over taps t of weight[t] * y[o * stride + t - k // 2]; with its statistics.

    Gives u (B, C, ceil(D / stride_D), ...), its mean (B, C) and its 1 / std (B, C).
    """
    kernel = weight.shape[2:]
    padded = _padded(activated(x, norm), kernel)
    fits = [-(-n // s) for n, s in zip(x.shape[2:], stride, strict=True)]
    u = x.new_zeros(*x.shape[:2], *fits)
    for tap, place in _taps(kernel, u.shape[2:], stride):
        u = u + padded[place] * _wide(weight[_own(tap)])
    return u, *statistics(u)


def depthwise_backward(
    gradient: Tensor, x: Tensor, norm: Pending | None, weight: Tensor, stride: Triple
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives g_act (like x), its sums and the weight's gradient, from the `gradient` of u.

    Without a norm a = x = xhat, and g_act is the gradient of x itself.
    """
    kernel = weight.shape[2:]
    padded = _padded(activated(x, norm), kernel)
    for_padded, for_weight = torch.zeros_like(padded), torch.zeros_like(weight)
    for tap, place in _taps(kernel, gradient.shape[2:], stride):
        for_padded[place] += gradient * _wide(weight[_own(tap)])
        for_weight[_own(tap)] = (padded[place] * gradient).sum((0, *_SPACE))
    inside = [slice(k // 2, k // 2 + n) for k, n in zip(kernel, x.shape[2:], strict=True)]
    g_act = _behind_activation(for_padded[_inner(inside)], x, norm)
    return g_act, _sums(g_act, x, norm), for_weight


def finish(g_act: Tensor, x: Tensor, norm: Pending, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, of the norm's weight (C,) and of its bias (C,)."""
    voxels = x.shape[2:].numel()
    of_ones, of_xhat = sums.unbind(1)
    inner = g_act - _wide(of_ones / voxels) - normalised(x, norm) * _wide(of_xhat / voxels)
    return inner * _wide(norm.weight * norm.rstd), of_xhat.sum(0), of_ones.sum(0)


def pointwise_forward(
    u: Tensor, norm: Pending | None, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """v = weight y at every voxel (B, C_out, D, H, W), with its mean and 1 / std (B, C_out)."""
    v = torch.einsum("oi,bidhw->bodhw", weight, activated(u, norm))
    return v, *statistics(v)


def pointwise_backward(
    gradient: Tensor, u: Tensor, norm: Pending | None, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives g_act (like u), its sums and the weight's gradient, from the `gradient` of v."""
    for_weight = torch.einsum("bodhw,bidhw->oi", gradient, activated(u, norm))
    g_act = _behind_activation(torch.einsum("oi,bodhw->bidhw", weight, gradient), u, norm)
    return g_act, _sums(g_act, u, norm), for_weight


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """mean and 1 / sqrt(biased variance + EPS) of every channel of every sample, both (B, C)."""
    variance, mean = torch.var_mean(x, _SPACE, correction=0)
    return mean, torch.rsqrt(variance + EPS)


def normalised(x: Tensor, norm: Pending | None) -> Tensor:
    """xhat; x itself without a norm."""
    return x if norm is None else (x - _wide(norm.mean)) * _wide(norm.rstd)


def activated(x: Tensor, norm: Pending | None) -> Tensor:
    """y, what the next pass reads; x itself without a norm."""
    if norm is None:
        return x
    before = _before_activation(x, norm)
    return torch.where(before > 0, before, before * norm.slope)


def _before_activation(x: Tensor, norm: Pending) -> Tensor:
    return normalised(x, norm) * norm.weight[:, None, None, None] + norm.bias[:, None, None, None]


def _behind_activation(gradient: Tensor, x: Tensor, norm: Pending | None) -> Tensor:
    if norm is None:
        return gradient
    return torch.where(_before_activation(x, norm) > 0, gradient, gradient * norm.slope)


def _sums(g_act: Tensor, x: Tensor, norm: Pending | None) -> Tensor:
    return torch.stack([g_act.sum(_SPACE), (g_act * normalised(x, norm)).sum(_SPACE)], 1)


def _padded(y: Tensor, kernel: torch.Size) -> Tensor:
    d, h, w = (k // 2 for k in kernel)
    return torch.nn.functional.pad(y, (w, w, h, h, d, d))


def _taps(
    kernel: torch.Size, result: torch.Size, stride: Triple
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Every tap with the voxels of the padded input that it meets, one for each of the result."""
    for tap in product(*(range(k) for k in kernel)):
        place = (
            slice(t, t + (n - 1) * s + 1, s) for t, n, s in zip(tap, result, stride, strict=True)
        )
        yield tap, (slice(None), slice(None), *place)


def _inner(place: Any) -> Any:
    """An index of `place` along D, H and W."""
    return (..., *place)


def _own(place: Any) -> Any:
    """An index of `place` behind two axes: all of the first and, of a weight, its one channel."""
    return (slice(None), 0, *place)


def _wide(value: Tensor) -> Tensor:
    """(C,) or (B, C) beside (B, C, D, H, W)."""
    return value[..., None, None, None]
