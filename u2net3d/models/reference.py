"""The network of the official code of 3D U2-Net, with each of its ways to share weights.

Huang et al., "3D U2-Net: A 3D Universal U-Net for Multi-Domain Medical Image Segmentation", MICCAI
2019 (arXiv 1909.06012), as in github.com/huangmozhilv/u2net_torch (models/u2net3d.py), written
anew from what that computes. Its norms, kernels and counts are kept; strides and depth are the
domain's, and odd sizes, which it cannot take, are padded and cropped. docs/design.md lists where
it differs from the families `universal`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Self

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from u2net3d.models.network import Bank, BankShape, Network
from u2net3d.models.reference_units import (
    UNITS,
    AdapterKind,
    Convolution,
    PlainUnit,
    SeparableUnit,
    pending,
    repeated,
    whole,
    without_bias,
)
from u2net3d.models.units import LINEAR, SLOPE, End, Entry, Head, NormAct, Triple
from u2net3d.ops import layers
from u2net3d.ops.pending import Features
from u2net3d.spec import ModelSpec

SUPERVISED = (1, 2)  # the stages whose logits are added to those of the full resolution


class ReferenceOptions(BaseModel):
    """adapter: what a domain adds to the shared convolutions.

    separable: all but the strided ones are pointwise, and the depthwise kernels are the domain's;
    series, parallel: a 1x1x1 convolution of the domain's behind or beside each; shared: norms
    alone; independent: nothing is shared, every domain has a network of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: AdapterKind = "separable"


class ReferenceTrunk(nn.Module):
    """The convolutions of the network, dense but for those of separable units."""

    def __init__(self, base_channels: int, stages: int, adapter: AdapterKind) -> None:
        super().__init__()
        width = [base_channels * 2**stage for stage in range(stages)]
        levels = list(pairwise(width))
        three = 1 if adapter == "separable" else 3
        self.encoder = nn.ModuleList(
            nn.ModuleList([Convolution(c, c, three), Convolution(c, c, three)]) for c in width
        )
        self.down = nn.ModuleList(Convolution(fine, coarse, 3) for fine, coarse in levels)
        self.up = nn.ModuleList(Convolution(coarse, fine, three) for fine, coarse in levels)
        self.decoder = nn.ModuleList(
            nn.ModuleList([Convolution(2 * c, c, three), Convolution(c, c, 1)]) for c, _ in levels
        )


class ReferenceStem(Entry):
    """A domain's entry: dense 3x3x3 convolution from its image channels; norm and activation."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.convolution = Convolution(channels_in, channels_out, 3)
        self.norm = NormAct(channels_out)

    def forward(self, image: Tensor) -> Features:
        """(B, channels, D, H, W) -> (B, C, D, H, W)."""
        return layers.stem(image, self.convolution.weight, self.norm.pending(SLOPE))


class Supervision(End):
    """Logits of a coarser decoder level, normed and activated, to be added to the finer ones."""

    def __init__(self, channels_in: int, classes: int) -> None:
        super().__init__()
        self.convolution = Convolution(channels_in, classes, 1)
        self.norm = NormAct(classes)

    def forward(
        self, source: Features, coarser: Tensor | None, stride: Triple, grid: Triple
    ) -> Tensor:
        """(B, C, d, h, w), with what came from the level below, to (B, classes, D, H, W)."""
        own = pending(without_bias(source, self.convolution), self.norm, SLOPE)
        logits = whole([own], _grid(own))
        return repeated(logits if coarser is None else logits + coarser, stride, grid)


class ReferenceBank(Bank):
    """All that is a domain's: stem, adapters and norms, supervision and head.

    Laid out as the trunk's stages; own: its whole trunk where nothing is shared. Kernels are 3x3x3
    whatever the plan says. Raises ValueError for fewer than two stages.
    """

    def __init__(self, shape: BankShape, base_channels: int, adapter: AdapterKind) -> None:
        super().__init__(shape)
        if shape.stages < 2:
            raise ValueError("the reference network has two stages at least")
        width = [base_channels * 2**stage for stage in range(shape.stages)]
        levels, unit = list(pairwise(width)), UNITS[adapter]
        self.own = None
        if adapter == "independent":
            self.own = ReferenceTrunk(base_channels, shape.stages, adapter)
        self.stem = ReferenceStem(shape.channels, base_channels)
        self.encoder = nn.ModuleList(nn.ModuleList([unit(c, c, 3), unit(c, c, 3)]) for c in width)
        self.down = nn.ModuleList(PlainUnit(fine, coarse, 3) for fine, coarse in levels)
        self.up = nn.ModuleList(unit(coarse, fine, 3) for fine, coarse in levels)
        self.decoder = nn.ModuleList(
            nn.ModuleList([unit(2 * c, c, 3), unit(c, c, 1)]) for c, _ in levels
        )
        supervised = [stage for stage in SUPERVISED if stage < len(levels)]
        self.supervision = nn.ModuleList(Supervision(width[i], shape.classes) for i in supervised)
        self.head = Head(base_channels, shape.classes)


class ReferenceNet(Network):
    """The official network; `options` as in `ReferenceOptions`."""

    def __init__(self, model: ModelSpec) -> None:
        """Raises ValueError for options that there are not."""
        super().__init__(model)
        self.adapter = ReferenceOptions.model_validate(model.options).adapter
        self.trunk = nn.ModuleDict()
        if self.adapter != "independent":
            self.trunk = ReferenceTrunk(model.base_channels, model.stages, self.adapter)

    @classmethod
    def of(cls, model: ModelSpec) -> Self:
        """The network of a model, without a bank yet."""
        return cls(model)

    def bank(self, domain: str) -> ReferenceBank:
        """The bank of a domain. Raises KeyError when there is none."""
        found = self.banks[domain]
        assert isinstance(found, ReferenceBank)
        return found

    def make_bank(self, shape: BankShape) -> ReferenceBank:
        """Raises ValueError for a bank of one stage."""
        return ReferenceBank(shape, self.model.base_channels, self.adapter)

    def forward(self, x: Tensor, domain: str) -> list[Tensor]:
        """A list of one, in `train()` too: logits (B, classes, D, H, W) of (B, C, D, H, W).

        What supervises the coarser levels is added to them.
        """
        bank = self.bank(domain)
        trunk = self.trunk if bank.own is None else bank.own
        assert isinstance(trunk, ReferenceTrunk)
        skips: list[Features] = []
        features = bank.stem(x)
        for i, units in enumerate(bank.encoder):
            if i:
                grid, stride = _grid(features), bank.shape.strides[i]
                features = bank.down[i - 1]([features], trunk.down[i - 1], grid, SLOPE, stride)
            features = _encoded(features, units, trunk.encoder[i])
            skips.append(features)
        added: Tensor | None = None
        for i in reversed(range(len(bank.decoder))):
            coarse = features._replace(up=bank.shape.strides[i + 1])
            features = bank.up[i]([coarse], trunk.up[i], _grid(skips[i]))
            features = _decoded([features, skips[i]], bank.decoder[i], trunk.decoder[i])
            if i in SUPERVISED:
                stride, finer = bank.shape.strides[i], _grid(skips[i - 1])
                added = bank.supervision[SUPERVISED.index(i)](features, added, stride, finer)
        logits = bank.head(features, x.shape[2:])
        return [logits if added is None else logits + added]


def _encoded(features: Features, units: nn.Module, shared: nn.Module) -> Features:
    """Two units and a residual sum, the last activation behind it."""
    (first, first_shared), (second, second_shared) = _pairs(units, shared)
    inner = first([features], first_shared, _grid(features))
    outer = second([inner], second_shared, _grid(features), LINEAR)
    return layers.summed([outer, features], SLOPE)


def _decoded(sources: list[Features], units: nn.Module, shared: nn.Module) -> Features:
    """Two units, without a residual sum."""
    grid = _grid(sources[-1])
    for unit, convolution in _pairs(units, shared):
        sources = [unit(sources, convolution, grid)]
    return sources[0]


def _grid(features: Features) -> Triple:
    depth, height, width = features.x.shape[2:]
    return depth, height, width


def _pairs(
    units: nn.Module, shared: nn.Module
) -> list[tuple[PlainUnit | SeparableUnit, Convolution]]:
    assert isinstance(units, nn.ModuleList)
    assert isinstance(shared, nn.ModuleList)
    pairs = []
    for unit, convolution in zip(units, shared, strict=True):
        assert isinstance(unit, PlainUnit | SeparableUnit)
        assert isinstance(convolution, Convolution)
        pairs.append((unit, convolution))
    return pairs
