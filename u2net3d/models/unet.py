"""The U-Net: an encoder and a decoder of equal depth, joined by a skip at every stage.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015
(arXiv 1505.04597); in 3-D Çiçek et al., MICCAI 2016 (arXiv 1606.06650). Without padding, as
published, the answer is smaller than the image and skips are cropped; with it, it is as large.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from u2net3d.models.blocks import (
    BLOCKS,
    BlockOptions,
    BlockShape,
    centre,
    grid_of,
    pooled,
    value,
)
from u2net3d.models.network import Bank, BankShape, Network
from u2net3d.models.units import Head, Pointwise, UnitBank, he_normal_
from u2net3d.ops.pending import Features
from u2net3d.spec import ModelSpec, Plan
from u2net3d.volume import Triple


class UNetOptions(BlockOptions):
    """padded: convolutions keep the size; False: as published, see `Network.margin`."""

    padded: bool = True

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.block == "separable" and not self.padded:
            raise ValueError("separable blocks are padded")
        return self


class Trunk(nn.Module):
    """The matrices of separable blocks, in the layout of `UNetBank`; of other blocks nothing."""

    def __init__(self, model: ModelSpec, options: UNetOptions) -> None:
        super().__init__()
        kinds, width = BLOCKS[options.block], _width(model, model.stages)
        levels = list(pairwise(width))
        self.encoder = nn.ModuleList([kinds.entry.shared(1, width[0])])
        self.encoder.extend(kinds.other.shared(fine, coarse) for fine, coarse in levels)
        self.up = nn.ModuleList()
        if options.block == "separable":
            self.up.extend(Pointwise(coarse, fine) for fine, coarse in levels)
        self.decoder = nn.ModuleList(kinds.other.shared(2 * c, c) for c in width[:-1])


class UNetBank(Bank):
    """encoder[i] and decoder[i] are the blocks of stage i, up[i] the way from stage i + 1 to i."""

    def __init__(self, shape: BankShape, model: ModelSpec, options: UNetOptions) -> None:
        super().__init__(shape)
        kinds, width = BLOCKS[options.block], _width(model, shape.stages)
        separable = options.block == "separable"

        def block(channels_in: int, stage: int) -> BlockShape:
            kernel = shape.kernels[stage]
            return BlockShape(channels_in, width[stage], kernel, options, options.padded)

        self.encoder = nn.ModuleList([kinds.entry.own(block(shape.channels, 0))])
        self.encoder.extend(kinds.other.own(block(c, i + 1)) for i, c in enumerate(width[:-1]))
        self.up = nn.ModuleList(
            UnitBank(coarse, fine, shape.kernels[i + 1])
            if separable
            else UpConvolution(coarse, fine, shape.strides[i + 1])
            for i, (fine, coarse) in enumerate(pairwise(width))
        )
        self.decoder = nn.ModuleList(
            kinds.other.own(block(2 * c, i)) for i, c in enumerate(width[:-1])
        )
        self.head = Head(width[0], shape.classes)


class UpConvolution(nn.Module):
    """Every voxel becomes a block of stride_D x stride_H x stride_W of half the channels.

    A transposed convolution whose kernel is its stride; weight (C, C', *stride).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: Triple) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels_in, channels_out, *stride))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        he_normal_(self.weight, channels_in)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C', D * stride_D, ...)."""
        return F.conv_transpose3d(x, self.weight, self.bias, self.stride)


class UNet(Network):
    """A U-Net of its own for every domain; with separable blocks they share the matrices."""

    trunk: Trunk

    def __init__(self, model: ModelSpec) -> None:
        super().__init__(model)
        self.options = UNetOptions.model_validate(model.options)
        self.trunk = Trunk(model, self.options)

    @classmethod
    def margin(cls, model: ModelSpec, plan: Plan) -> Triple:
        """Without padding the least that leaves an answer of a patch or, by a few voxels, more.

        Raises ValueError for a patch that the strides do not divide.
        """
        if UNetOptions.model_validate(model.options).padded:
            return (0, 0, 0)
        axes = []
        for axis, patch in enumerate(plan.patch_size):
            margin, divisor = 0, math.prod(stride[axis] for stride in plan.strides)
            if patch % divisor:
                raise ValueError(f"a patch of {patch} voxels is no multiple of {divisor}")
            while _answered(patch + 2 * margin, plan.strides, plan.kernels, axis) < patch:
                margin += 1
            axes.append(margin)
        return axes[0], axes[1], axes[2]

    def make_bank(self, shape: BankShape) -> UNetBank:
        """A fresh bank."""
        return UNetBank(shape, self.model, self.options)

    def bank(self, domain: str) -> UNetBank:
        """The bank of a domain. Raises KeyError when there is none."""
        found = self.banks[domain]
        assert isinstance(found, UNetBank)
        return found

    def forward(self, x: Tensor, domain: str) -> list[Tensor]:
        """One entry; without padding smaller than the image, about the same middle.

        Raises ValueError for an image of which a network without padding cannot halve a stage.
        """
        bank, trunk, padded = self.bank(domain), self.trunk, self.options.padded
        if not padded:
            _require_answer(x, bank.shape)
        features, skips = Features(x, None), list[Features]()
        for i, block in enumerate(bank.encoder):
            features = pooled(features, bank.shape.strides[i])
            features = block([features], trunk.encoder[i], grid_of(features))
            skips.append(features)
        for i in reversed(range(len(bank.decoder))):
            features, skip = self._up(features, bank, i), skips[i]
            if not padded:
                skip = Features(centre(skip.x, features.x.shape[2:]), None)
            features = bank.decoder[i]([features, skip], trunk.decoder[i], grid_of(skip))
        return [bank.head(features, x.shape[2:])]

    def _up(self, features: Features, bank: UNetBank, i: int) -> Features:
        """On the grid of stage i, or by a voxel more where the pooling took an odd rest."""
        up = bank.up[i]
        if isinstance(up, UpConvolution):
            return Features(up(value(features)), None)
        found: Features = up([features], self.trunk.up[i], grid_of(features))
        return found._replace(up=bank.shape.strides[i + 1])


def _width(model: ModelSpec, stages: int) -> list[int]:
    return [model.base_channels * 2**stage for stage in range(stages)]


def _answered(
    size: int, strides: tuple[Triple, ...], kernels: tuple[Triple, ...], axis: int
) -> int:
    """Voxels of the answer to `size` voxels of an axis without padding; 0 where there is none."""
    for stride, kernel in zip(strides, kernels, strict=True):
        if size % stride[axis]:
            return 0
        size = size // stride[axis] - 2 * (kernel[axis] - 1)
        if size < 1:
            return 0
    for stride, kernel in reversed(list(zip(strides[1:], kernels[:-1], strict=True))):
        size = size * stride[axis] - 2 * (kernel[axis] - 1)
    return max(size, 0)


def _require_answer(x: Tensor, shape: BankShape) -> None:
    for axis, size in enumerate(x.shape[2:]):
        if not _answered(size, shape.strides, shape.kernels, axis):
            raise ValueError(f"{size} voxels along axis {axis} have no answer without padding")
