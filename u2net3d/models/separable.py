"""Separable convolution by itself: its weights, its multiply-adds, and the ways to put it together.

A convolution of k_D x k_H x k_W from C to N channels costs C N k weights, k = k_D k_H k_W. Taken
apart into a spatial half in g groups and a pointwise half that costs C M k / g + M N (spatial half
first, M channels between), with g = C = M a share of 1/N + 1/k:

- Howard et al., "MobileNets" (2017, arXiv 1704.04861), section 3: depthwise first, the width
  multiplier alpha and the resolution multiplier rho;
- Chollet, "Xception" (CVPR 2017, arXiv 1610.02357), section 1: pointwise first, and the way from
  one group (a whole convolution behind a pointwise one) over a few (Inception) to depthwise;
  section 4.7: nothing between the halves is better there.

It is not a dense convolution computed faster. Without anything between the halves it is the dense
convolution whose matrix, taken as (N k, C), has rank M at most and blocks of zeros between groups:
a low-rank approximation of what a dense one may be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from u2net3d.models.units import SLOPE, he_normal_
from u2net3d.volume import Triple


class Separable(BaseModel):
    """A separable convolution as a choice; two dimensions are kernels of 1 x k x k.

    groups: of the spatial half, 1 to `between`; None for as many as it has channels. between:
    channels from the first half to the second; None for channels_in where the spatial half is
    first, channels_out where it is second. activation: LeakyReLU between the halves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels_in: int = Field(ge=1)
    channels_out: int = Field(ge=1)
    kernel: Triple = (3, 3, 3)
    stride: Triple = (1, 1, 1)
    groups: int | None = Field(default=None, ge=1)
    between: int | None = Field(default=None, ge=1)
    first: Literal["depthwise", "pointwise"] = "depthwise"
    activation: bool = False

    @model_validator(mode="after")
    def _even_groups(self) -> Self:
        if self.spatial[0] % self.spatial_groups or self.spatial[1] % self.spatial_groups:
            raise ValueError(f"{self.spatial_groups} groups do not divide {self.spatial} channels")
        return self

    @property
    def channels_between(self) -> int:
        """What goes from the first half to the second."""
        given = self.channels_in if self.first == "depthwise" else self.channels_out
        return self.between or given

    @property
    def spatial(self) -> tuple[int, int]:
        """Channels into and out of the spatial half."""
        if self.first == "depthwise":
            return self.channels_in, self.channels_between
        return self.channels_between, self.channels_out

    @property
    def pointwise(self) -> tuple[int, int]:
        """Channels into and out of the pointwise half."""
        if self.first == "depthwise":
            return self.channels_between, self.channels_out
        return self.channels_in, self.channels_between

    @property
    def spatial_groups(self) -> int:
        """1: every channel sees all others; as many as channels: depthwise."""
        return self.groups or math.gcd(*self.spatial)

    @property
    def weights(self) -> tuple[int, int]:
        """Of the spatial and of the pointwise half; no biases."""
        inputs, outputs = self.spatial
        spatial = inputs * outputs // self.spatial_groups * math.prod(self.kernel)
        return spatial, math.prod(self.pointwise)

    def multiply_adds(self, grid: Triple) -> tuple[int, int]:
        """Of the spatial and of the pointwise half for a result of `grid`, padding included.

        A pointwise half that comes first works before the stride.
        """
        voxels = math.prod(grid)
        before = voxels * (math.prod(self.stride) if self.first == "pointwise" else 1)
        spatial, pointwise = self.weights
        return spatial * voxels, pointwise * before

    @property
    def dense_weights(self) -> int:
        """Of the whole convolution from channels_in to channels_out."""
        return self.channels_in * self.channels_out * math.prod(self.kernel)

    def scaled(self, alpha: float) -> Self:
        """Every number of channels times the width multiplier, one at least (MobileNets, 3.3).

        As many groups as channels stay that; a stated number of groups stays as it is.
        """

        def wide(channels: int) -> int:
            return max(1, round(alpha * channels))

        between = None if self.between is None else wide(self.between)
        ends = {"channels_in": wide(self.channels_in), "channels_out": wide(self.channels_out)}
        return self.__class__(**{**self.model_dump(), **ends, "between": between})


def scaled_grid(grid: Triple, rho: float) -> Triple:
    """A grid by the resolution multiplier, one voxel at least: an axis of one voxel stays (3.4).

    Cost goes with rho^3, on a single slice with rho^2; with alpha as well nearly with alpha^2
    rho^3: the pointwise half exactly so, the depthwise one with alpha rho^3.
    """
    d, h, w = (max(1, round(rho * n)) for n in grid)
    return d, h, w


def analytic_ratio(channels_out: int, kernel: Sequence[int]) -> float:
    """1/N + 1/k: depthwise and pointwise against dense, in weights as in multiply-adds.

    MobileNets, section 3.1, with k = 27 for 3x3x3 in place of 9.
    """
    return 1 / channels_out + 1 / math.prod(kernel)


class SeparableConv(nn.Module):
    """A separable convolution, odd kernels, padding kernel // 2, no biases, no norms.

    (B, C, D, H, W) -> (B, N, ceil(D / stride_D), ...). He initialisation of each half by its own
    fan-in (a depthwise half: the voxels of its kernel).
    """

    def __init__(self, form: Separable) -> None:
        super().__init__()
        self.form = form
        d, h, w = form.kernel
        padding = (d // 2, h // 2, w // 2)
        spatial = nn.Conv3d(
            *form.spatial, form.kernel, form.stride, padding, groups=form.spatial_groups, bias=False
        )
        pointwise = nn.Conv3d(*form.pointwise, 1, bias=False)
        for half in (spatial, pointwise):
            he_normal_(half.weight, math.prod(half.weight.shape[1:]))
        between = [nn.LeakyReLU(SLOPE)] if form.activation else []
        halves = [spatial, pointwise] if form.first == "depthwise" else [pointwise, spatial]
        self.steps = nn.Sequential(halves[0], *between, halves[1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, N, ...)."""
        result: Tensor = self.steps(x)
        return result
