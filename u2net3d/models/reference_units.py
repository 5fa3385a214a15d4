"""The units of the official code of 3D U2-Net: a shared convolution, and what a domain adds to it.

    separable   depthwise 3x3x3 [d] -> norm [d] -> LeakyReLU -> pointwise [s] -> norm [d]
    series      dense [s] -> y + pointwise [d] (norm [d] (y)) -> norm [d]
    parallel    dense [s] + pointwise [d], of the same input -> norm [d]
    plain       dense [s] -> norm [d]

(s: shared, d: the domain's.) Huang et al., "3D U2-Net", MICCAI 2019, and github.com/huangmozhilv/
u2net_torch; series and parallel adapters are those of Rebuffi et al., "Efficient parametrization of
multi-domain deep neural networks", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2net3d.models.units import LINEAR, SLOPE, NormAct, Triple, he_normal_
from u2net3d.ops import layers
from u2net3d.ops.pending import Features, Pending
from u2net3d.ops.plain import statistics

AdapterKind = Literal["separable", "series", "parallel", "shared", "independent"]
ONCE: Triple = (1, 1, 1)


class Convolution(nn.Module):
    """Weight (C_out, C_in / groups, k, k, k) and bias (C_out,) of a convolution before a norm.

    The norm takes away whatever the bias adds. So the bias is kept, for counts and for checkpoints
    of the official code, but neither computed with nor learnt. He initialisation, bias 0.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, groups: int = 1) -> None:
        super().__init__()
        inputs = channels_in // groups
        self.weight = nn.Parameter(torch.empty(channels_out, inputs, kernel, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out), requires_grad=False)
        he_normal_(self.weight, inputs * kernel**3)

    @property
    def matrix(self) -> Tensor:
        """The weight of a 1x1x1 convolution as (C_out, C_in)."""
        return self.weight.flatten(1)


class PlainUnit(nn.Module):
    """No adapter: the shared convolution, and the domain's norm behind it."""

    def __init__(self, _channels_in: int, channels_out: int, _kernel: int) -> None:
        """Channels and kernel of the shared convolution; other units need all of them."""
        super().__init__()
        self.outer = NormAct(channels_out)

    def forward(
        self,
        sources: Sequence[Features],
        shared: Convolution,
        grid: Triple,
        slope: float = SLOPE,
        stride: Triple = ONCE,
    ) -> Features:
        """Sources of C_in channels together, read side by side on `grid` (D, H, W).

        Gives (B, C_out, ceil(D / stride), ...), its norm and LeakyReLU pending.
        """
        return self.normed(same_padded(whole(sources, grid), shared.weight, stride), slope)

    def normed(self, v: Tensor, slope: float) -> Features:
        """v (B, C_out, D, H, W) with the domain's norm pending."""
        return pending(v, self.outer, slope)


class ParallelUnit(PlainUnit):
    """The domain's 1x1x1 convolution beside the shared one.

    Their sum is one convolution: the 1x1x1 kernel is added to the middle of the shared one.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__(channels_in, channels_out, kernel)
        self.adapter = Convolution(channels_in, channels_out, 1)

    def forward(
        self,
        sources: Sequence[Features],
        shared: Convolution,
        grid: Triple,
        slope: float = SLOPE,
        stride: Triple = ONCE,
    ) -> Features:
        """As `PlainUnit.forward`."""
        around = shared.weight.shape[-1] // 2
        weight = shared.weight + F.pad(self.adapter.weight, (around,) * 6)
        return self.normed(same_padded(whole(sources, grid), weight, stride), slope)


class SeriesUnit(PlainUnit):
    """The domain's norm and 1x1x1 convolution behind the shared one, and a sum around them."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__(channels_in, channels_out, kernel)
        self.inner = NormAct(channels_out)
        self.adapter = Convolution(channels_out, channels_out, 1)

    def forward(
        self,
        sources: Sequence[Features],
        shared: Convolution,
        grid: Triple,
        slope: float = SLOPE,
        stride: Triple = ONCE,
    ) -> Features:
        """As `PlainUnit.forward`."""
        v = same_padded(whole(sources, grid), shared.weight, stride)
        adapted = without_bias(pending(v, self.inner, LINEAR), self.adapter)
        return self.normed(v + adapted, slope)


class SeparableUnit(nn.Module):
    """The domain's depthwise convolution before the shared pointwise one.

    Its kernel is 3x3x3 everywhere, in the second unit of a decoder level too.
    """

    def __init__(self, channels_in: int, channels_out: int, _kernel: int) -> None:
        super().__init__()
        self.depthwise = Convolution(channels_in, channels_in, 3, groups=channels_in)
        self.inner = NormAct(channels_in)
        self.outer = NormAct(channels_out)

    def forward(
        self,
        sources: Sequence[Features],
        shared: Convolution,
        grid: Triple,
        slope: float = SLOPE,
        stride: Triple = ONCE,
    ) -> Features:
        """As `PlainUnit.forward`."""
        inner, outer = self.inner.pending(SLOPE), self.outer.pending(slope)
        return layers.separable_unit(
            sources, self.depthwise.weight, inner, shared.matrix, outer, stride, grid
        )


UNITS: dict[str, type[PlainUnit | SeparableUnit]] = {
    "separable": SeparableUnit,
    "series": SeriesUnit,
    "parallel": ParallelUnit,
    "shared": PlainUnit,
    "independent": PlainUnit,
}


def pending(v: Tensor, norm: NormAct, slope: float) -> Features:
    """v (B, C, D, H, W) with `norm` and its LeakyReLU pending; who reads it gives the gradients."""
    with torch.no_grad():
        mean, rstd = statistics(v)
    return Features(v, Pending(mean, rstd, *norm.pending(slope)))


def without_bias(source: Features, convolution: Convolution) -> Tensor:
    """(B, C, D, H, W) by a 1x1x1 convolution whose bias a norm would take away."""
    return layers.head(source, convolution.matrix, torch.zeros_like(convolution.bias))


def whole(sources: Sequence[Features], grid: Triple) -> Tensor:
    """Sources side by side as one tensor (B, C, D, H, W) on `grid`, norms carried out."""
    parts = [repeated(_carried_out(source), source.up, grid) for source in sources]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def repeated(x: Tensor, up: Triple, grid: Triple) -> Tensor:
    """x (B, C, d, h, w) with every voxel repeated `up` times, cropped to `grid` (D, H, W)."""
    if up != ONCE:
        x = F.interpolate(x, scale_factor=[float(n) for n in up], mode="nearest")
    return x[:, :, : grid[0], : grid[1], : grid[2]]


def same_padded(x: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    """A convolution to (B, C_out, ceil(D / stride), ...), padded as TensorFlow's SAME pads.

    Of an odd number of zeros the last lies behind: at stride 2 an even axis has none before it and
    one behind, where the usual padding of 1 on both sides would look one voxel back. The stride is
    at most the kernel.
    """
    padding: list[int] = []
    for n, k, s in reversed([*zip(x.shape[2:], weight.shape[2:], stride, strict=True)]):
        zeros = (-(-n // s) - 1) * s + k - n
        padding += [zeros // 2, zeros - zeros // 2]
    if len(set(padding)) == 1:
        return F.conv3d(x, weight, None, stride, padding[0])
    return F.conv3d(F.pad(x, padding), weight, None, stride)


def _carried_out(source: Features) -> Tensor:
    return source.x if source.norm is None else layers.summed([source._replace(up=ONCE)], LINEAR).x
