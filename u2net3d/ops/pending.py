"""A norm that is not applied yet: its statistics travel with the raw tensor to whoever reads it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Triple = tuple[int, int, int]
EPS = 1e-5  # added to the variance before the root, as in torch's InstanceNorm


class Pending(NamedTuple):
    """What turns a raw x (B, C, D, H, W) into LeakyReLU((x - mean) * rstd * weight + bias).

    mean and rstd = 1 / sqrt(variance + EPS) are (B, C), of that very x over its voxels; weight and
    bias (C,); slope of the LeakyReLU below 0, 0 to 1; 1 for none.
    """

    mean: Tensor
    rstd: Tensor
    weight: Tensor
    bias: Tensor
    slope: float

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All but the slope."""
        return self.mean, self.rstd, self.weight, self.bias


class Features(NamedTuple):
    """What an operator reads: x (B, C, D, H, W), raw, with its pending norm (None: x as it is).

    up: how often each voxel is repeated along D, H and W (1 or 2) where it is read, nearest
    up-sampling as an index; what lies beyond the reader's grid is cropped.
    """

    x: Tensor
    norm: Pending | None
    up: Triple = (1, 1, 1)
