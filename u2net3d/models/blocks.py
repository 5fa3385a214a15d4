"""Blocks of two convolutions: the part of a family that a model may choose, by a name in `BLOCKS`.

A block has two halves: what is a domain's own lies in its bank, what domains share in the trunk.
Plain and residual blocks share nothing, their half in the trunk is empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from u2net3d.models.units import LINEAR, SLOPE, Pointwise, Stem, UnitBank, he_normal_
from u2net3d.ops import layers
from u2net3d.ops.pending import EPS, Features
from u2net3d.volume import Triple


class BlockOptions(BaseModel):
    """What blocks are; the options of a family are a subclass with its own beside them.

    norm: behind every convolution; slope: of the LeakyReLU below 0, 0 makes it a ReLU; bias: of a
    convolution also in front of a norm, where it does nothing but was published; without a norm
    there always is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: Literal["plain", "residual", "separable"] = "plain"
    norm: Literal["instance", "batch", "none"] = "instance"
    slope: float = Field(default=SLOPE, ge=0, le=1)
    bias: bool = False

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.block == "separable" and (self.norm, self.slope, self.bias) != (
            "instance",
            SLOPE,
            False,
        ):
            raise ValueError(f"separable blocks have InstanceNorm, slope {SLOPE} and no bias")
        return self


class BlockShape(NamedTuple):
    """What a block is made for. kernel: of its convolutions, 1 or 3 per axis.

    padded: the result is as large as what is read; else every convolution takes kernel - 1 voxels
    off each axis.
    """

    channels_in: int
    channels_out: int
    kernel: Triple
    options: BlockOptions
    padded: bool = True


class Block(nn.Module):
    """A domain's half of two convolutions."""

    def forward(self, sources: Sequence[Features], shared: nn.Module, grid: Triple) -> Features:
        """Reads sources of C_in channels together, side by side on `grid` (D, H, W).

        shared: the block's half in the trunk.
        """
        raise NotImplementedError


class Plain(Block):
    """Convolution, norm, activation; twice (Simonyan and Zisserman 2015 call it VGG)."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.first = Convolution(shape)
        self.second = Convolution(shape._replace(channels_in=shape.channels_out))

    def forward(self, sources: Sequence[Features], _shared: nn.Module, grid: Triple) -> Features:
        """Nothing is left pending."""
        return Features(self.second(self.first(joined(sources, grid))), None)


class Residual(Block):
    """The same with what went in added before the last activation (He et al. 2016, figure 2).

    Where the number of channels changes it goes through a 1x1x1 convolution with a norm.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.slope = shape.options.slope
        self.first = Convolution(shape)
        self.second = Convolution(shape._replace(channels_in=shape.channels_out), active=False)
        self.across: nn.Module = nn.Identity()
        if shape.channels_in != shape.channels_out:
            self.across = Convolution(shape._replace(kernel=(1, 1, 1)), active=False)

    def forward(self, sources: Sequence[Features], _shared: nn.Module, grid: Triple) -> Features:
        """Nothing is left pending."""
        x = joined(sources, grid)
        y = self.second(self.first(x))
        y = y + centre(self.across(x), y.shape[2:])
        return Features(F.leaky_relu(y, self.slope), None)


class Separable(Block):
    """Two separable units (`UnitBank`), whose pointwise matrices are the trunk's."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        _require_padded(shape)
        self.first = UnitBank(shape.channels_in, shape.channels_out, shape.kernel)
        self.second = UnitBank(shape.channels_out, shape.channels_out, shape.kernel)

    def forward(self, sources: Sequence[Features], shared: nn.Module, grid: Triple) -> Features:
        """The second unit's norm is left pending."""
        first, second = _pointwise(shared)
        inner: Features = self.first(sources, first, grid)
        outer: Features = self.second([inner], second, grid)
        return outer


class SeparableEntry(Block):
    """A dense stem from the image's channels, which are the domain's own, then a separable unit."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        _require_padded(shape)
        self.stem = Stem(shape.channels_in, shape.channels_out, shape.kernel)
        self.unit = UnitBank(shape.channels_out, shape.channels_out, shape.kernel)

    def forward(self, sources: Sequence[Features], shared: nn.Module, grid: Triple) -> Features:
        """Reads the image alone."""
        (image,), (pointwise,) = sources, _pointwise(shared)
        stem: Features = self.stem(image.x)
        found: Features = self.unit([stem], pointwise, grid)
        return found


def _no_matrix(_channels_in: int, _channels_out: int) -> nn.ModuleDict:
    return nn.ModuleDict()


def _one_matrix(_channels_in: int, channels_out: int) -> nn.ModuleDict:
    return nn.ModuleDict({"unit": Pointwise(channels_out, channels_out)})


def _two_matrices(channels_in: int, channels_out: int) -> nn.ModuleDict:
    first, second = Pointwise(channels_in, channels_out), Pointwise(channels_out, channels_out)
    return nn.ModuleDict({"first": first, "second": second})


class Kind(NamedTuple):
    """The two halves of a block. shared(C_in, C_out): for the trunk; own(shape): for a bank.

    A matrix of the one has the name of the unit of the other that it belongs to.
    """

    shared: Callable[[int, int], nn.ModuleDict]
    own: Callable[[BlockShape], Block]


class Kinds(NamedTuple):
    """The blocks of one name. entry: that which reads the image; other: all behind it.

    The trunk's half of an entry does not depend on the image's channels.
    """

    entry: Kind
    other: Kind


BLOCKS: dict[str, Kinds] = {
    "plain": Kinds(Kind(_no_matrix, Plain), Kind(_no_matrix, Plain)),
    "residual": Kinds(Kind(_no_matrix, Residual), Kind(_no_matrix, Residual)),
    "separable": Kinds(Kind(_one_matrix, SeparableEntry), Kind(_two_matrices, Separable)),
}


class Convolution(nn.Module):
    """Dense convolution, norm and LeakyReLU, each where the options have it.

    weight (C', C, kD, kH, kW), He's normal of std sqrt(2 / N) with N = C kD kH kW.
    """

    def __init__(self, shape: BlockShape, *, active: bool = True) -> None:
        super().__init__()
        options, kernel = shape.options, shape.kernel
        self.padding = tuple(k // 2 if shape.padded else 0 for k in kernel)
        self.slope = options.slope if active else LINEAR
        self.weight = nn.Parameter(torch.empty(shape.channels_out, shape.channels_in, *kernel))
        he_normal_(self.weight, shape.channels_in * math.prod(kernel))
        has_bias = options.bias or options.norm == "none"
        self.bias = nn.Parameter(torch.zeros(shape.channels_out)) if has_bias else None
        self.norm = _norm(options.norm, shape.channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C', D, H, W), without padding smaller by kernel - 1."""
        y = F.conv3d(x, self.weight, self.bias, padding=self.padding)
        if isinstance(self.norm, nn.InstanceNorm3d):  # torch's own gives up channels-last
            norm = layers.Norm(self.norm.weight, self.norm.bias, self.slope)
            return layers.summed([layers.normed(y, norm)], LINEAR).x
        y = self.norm(y)
        return y if self.slope == LINEAR else F.leaky_relu(y, self.slope)


class BatchNorm(nn.Module):
    """BatchNorm (Ioffe and Szegedy 2015): statistics of the batch in training, running ones after.

    torch's own counts its batches besides, in an integer, which a file of weights has no place for.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W); a tenth of each batch's statistics enters the running ones."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, EPS
        )


def value(features: Features) -> Tensor:
    """x (B, C, D, H, W) with its norm and activation carried out; its repetitions are not."""
    if features.norm is None:
        return features.x
    return layers.summed([features._replace(up=(1, 1, 1))], LINEAR).x


def joined(sources: Sequence[Features], grid: Sequence[int]) -> Tensor:
    """The sources side by side (B, C, D, H, W) on `grid`, repeated by their `up` and cropped."""
    d, h, w = grid
    found = []
    for source in sources:
        x = value(source)
        if source.up != (1, 1, 1):
            x = F.interpolate(x, scale_factor=tuple(map(float, source.up)), mode="nearest")
        found.append(x[:, :, :d, :h, :w] if x.shape[2:] != (d, h, w) else x)
    return torch.cat(found, 1) if len(found) > 1 else found[0]


def centre(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle (B, C, *size) of (B, C, D, H, W), half a voxel to the front where it must be."""
    for axis, (whole, kept) in enumerate(zip(x.shape[2:], size, strict=True), start=2):
        if whole != kept:
            x = x.narrow(axis, (whole - kept) // 2, kept)
    return x


def pooled(features: Features, stride: Triple) -> Features:
    """The largest of every stride_D x stride_H x stride_W voxels; a rest at the end counts too."""
    if stride == (1, 1, 1):
        return features
    return Features(F.max_pool3d(value(features), stride, stride, ceil_mode=True), None)


def grid_of(features: Features) -> Triple:
    """(D, H, W) of what lies in memory, before it is repeated."""
    depth, height, width = features.x.shape[2:]
    return depth, height, width


def _norm(name: str, channels: int) -> nn.Module:
    if name == "batch":
        return BatchNorm(channels)
    return nn.InstanceNorm3d(channels, EPS, affine=True) if name == "instance" else nn.Identity()


def _require_padded(shape: BlockShape) -> None:
    if not shape.padded:
        raise ValueError("separable blocks are padded")


def _pointwise(shared: nn.Module) -> list[Pointwise]:
    assert isinstance(shared, nn.ModuleDict)
    found = []
    for pointwise in shared.values():
        assert isinstance(pointwise, Pointwise)
        found.append(pointwise)
    return found
