"""The separable unit: a domain's own depthwise half and the shared pointwise half.

    x -> depthwise 3x3x3 [domain] -> InstanceNorm [domain] -> LeakyReLU
      -> pointwise 1x1x1 [shared] -> InstanceNorm [domain] (-> LeakyReLU)

Huang et al., "3D U2-Net", MICCAI 2019 (arXiv 1909.06012), section 2.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from u2net3d.ops.depthwise import depthwise_conv3d
from u2net3d.ops.norm import instance_norm_act
from u2net3d.ops.pointwise import pointwise_conv3d

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

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, D, H, W) -> (B, C_out, D, H, W)."""
        return pointwise_conv3d(x, self.weight)


class NormAct(nn.Module):
    """A domain's InstanceNorm with its LeakyReLU (slope 1: none)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, slope: float = SLOPE) -> Tensor:
        """(B, C, D, H, W) -> the same shape."""
        return instance_norm_act(x, self.weight, self.bias, slope)


class UnitBank(nn.Module):
    """A domain's half of one separable unit: depthwise kernels and both norms.

    The depthwise weight (C_in, 1, kD, kH, kW) starts as He's normal, std sqrt(2 / (kD kH kW)).
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: Triple, stride: Triple = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels_in, 1, *kernel))
        he_normal_(self.weight, math.prod(kernel))
        self.inner = NormAct(channels_in)
        self.outer = NormAct(channels_out)

    def forward(self, x: Tensor, pointwise: Pointwise, slope: float = SLOPE) -> Tensor:
        """(B, C_in, D, H, W) -> (B, C_out, ceil(D / stride), ...) by the shared `pointwise`."""
        x = self.inner(depthwise_conv3d(x, self.weight, self.stride))
        result: Tensor = self.outer(pointwise(x), slope)
        return result


class Stem(nn.Module):
    """A domain's entry: dense 3x3x3 convolution from its image channels, norm, activation."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Triple) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, *kernel))
        he_normal_(self.weight, channels_in * math.prod(kernel))
        self.norm = NormAct(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, D, H, W) -> (B, base, D, H, W)."""
        d, h, w = self.weight.shape[2:]
        x = x.contiguous(memory_format=torch.channels_last_3d)
        result: Tensor = self.norm(F.conv3d(x, self.weight, padding=(d // 2, h // 2, w // 2)))
        return result


class Head(nn.Module):
    """A domain's exit at one decoder level: 1x1x1 with bias to its classes (logits)."""

    def __init__(self, channels_in: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, channels_in))
        self.bias = nn.Parameter(torch.zeros(classes))
        he_normal_(self.weight, channels_in)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, classes, D, H, W)."""
        return pointwise_conv3d(x, self.weight, self.bias)


def he_normal_(weight: Tensor, fan_in: int) -> None:
    """Fills `weight` from a normal of std sqrt(2 / fan_in) (He et al. 2015, eq. 10)."""
    nn.init.normal_(weight, std=math.sqrt(2 / fan_in))
