"""The separable unit: a domain's own depthwise half and the shared pointwise half.

    x -> depthwise 3x3x3 [domain] -> InstanceNorm [domain] -> LeakyReLU
      -> pointwise 1x1x1 [shared] -> InstanceNorm [domain] (-> LeakyReLU)

Huang et al., "3D U2-Net", MICCAI 2019 (arXiv 1909.06012), section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from u2net3d.ops import layers
from u2net3d.ops.pending import Features

Triple = tuple[int, int, int]
SLOPE = 0.01
LINEAR = 1.0  # the slope of no activation


class Pointwise(nn.Module):
    """The shared half of a unit: one matrix (C_out, C_in) applied at every voxel. No bias: a norm
    follows. He initialisation, std sqrt(2 / C_in)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in))
        he_normal_(self.weight, channels_in)


class End(nn.Module):
    """What of a bank is shaped by its images or its labels: stems and heads.

    All else of a bank adapts the trunk to the domain, and can begin from another domain's.
    """


class Entry(End):
    """The end that reads the image."""


class NormAct(nn.Module):
    """A domain's InstanceNorm with its LeakyReLU, to be carried out by whoever reads the result."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def pending(self, slope: float) -> layers.Norm:
        """With the slope of its LeakyReLU; 1 for none."""
        return layers.Norm(self.weight, self.bias, slope)


class UnitBank(nn.Module):
    """A domain's half of one separable unit: depthwise kernels and its norms.

    The depthwise weight (C_in, 1, kD, kH, kW) starts as He's normal, std sqrt(2 / (kD kH kW));
    without an inner norm, and so without an activation behind it, sqrt(1 / (kD kH kW)).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Triple,
        stride: Triple = (1, 1, 1),
        *,
        inner_norm: bool = True,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels_in, 1, *kernel))
        he_normal_(self.weight, math.prod(kernel) * (1 if inner_norm else 2))
        self.inner = NormAct(channels_in) if inner_norm else None
        self.outer = NormAct(channels_out)

    def forward(
        self,
        sources: Sequence[Features],
        pointwise: Pointwise,
        grid: Triple,
        slope: float = SLOPE,
    ) -> Features:
        """Sources of C_in channels together, read side by side on `grid` (D, H, W).

        Gives (B, C_out, ceil(D / stride), ...) by the shared `pointwise`.
        """
        inner = self.inner.pending(SLOPE) if self.inner else None
        outer = self.outer.pending(slope)
        return layers.separable_unit(
            sources, self.weight, inner, pointwise.weight, outer, self.stride, grid
        )


class Stem(Entry):
    """A domain's entry: dense convolution from its image channels; norm and activation follow."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: Triple, stride: Triple = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, *kernel))
        he_normal_(self.weight, channels_in * math.prod(kernel))
        self.norm = NormAct(channels_out)

    def forward(self, image: Tensor) -> Features:
        """(B, channels, D, H, W) -> (B, C, ceil(D / stride), ...)."""
        return layers.stem(image, self.weight, self.norm.pending(SLOPE), self.stride)


class Head(End):
    """A domain's exit at one decoder level: 1x1x1 with bias to its classes (logits).

    With a stride every voxel gives the logits of the stride_D x stride_H x stride_W finer voxels in
    its place: a transposed convolution whose kernel is its stride (Zeiler et al. 2010). It begins
    with the same weights for all of them, as nearest up-sampling. weight (K, C), or (K, places, C).
    """

    def __init__(self, channels_in: int, classes: int, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.stride = stride
        places = math.prod(stride)
        weight = torch.empty(classes, channels_in)
        he_normal_(weight, channels_in)
        if places > 1:
            weight = weight[:, None].expand(-1, places, -1).contiguous()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, source: Features, grid: Sequence[int]) -> Tensor:
        """(B, C, d, h, w) -> (B, classes, D, H, W) on `grid`, what lies beyond it is cropped."""
        if self.weight.dim() == 2:
            return layers.head(source, self.weight, self.bias)
        classes, places, channels = self.weight.shape
        matrix = self.weight.transpose(0, 1).reshape(places * classes, channels)
        logits = layers.head(source, matrix, self.bias.repeat(places))
        return _spread(logits, self.stride, classes)[:, :, : grid[0], : grid[1], : grid[2]]


def _spread(x: Tensor, stride: Triple, classes: int) -> Tensor:
    """(B, places * K, D, H, W) -> (B, K, D * stride_D, ...): every voxel becomes a small block."""
    batch, _, depth, height, width = x.shape
    d, h, w = stride
    rows = x.permute(0, 2, 3, 4, 1).view(batch, depth, height, width, d, h, w, classes)
    fine = rows.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(
        batch, depth * d, height * h, width * w, classes
    )
    return fine.permute(0, 4, 1, 2, 3)


def he_normal_(weight: Tensor, fan_in: int) -> None:
    """Fills `weight` from a normal of std sqrt(2 / fan_in) (He et al. 2015, eq. 10)."""
    if weight.is_meta:  # it has shape alone; to draw nothing torch would load its compiler, 2 s
        return
    nn.init.normal_(weight, std=math.sqrt(2 / fan_in))
