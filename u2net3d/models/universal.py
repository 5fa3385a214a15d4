"""The universal network: one trunk of pointwise convolutions, one bank per domain.

Huang et al., "3D U2-Net: A 3D Universal U-Net for Multi-Domain Medical Image Segmentation",
MICCAI 2019 (arXiv 1909.06012); topology per domain and separable down-sampling are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from u2net3d.models.banks import DenseUnit, UniversalBank
from u2net3d.models.network import BankShape, Network
from u2net3d.models.units import LINEAR, SLOPE, Pointwise, UnitBank
from u2net3d.ops import layers
from u2net3d.ops.pending import Features
from u2net3d.spec import Design, ModelSpec


class UniversalOptions(BaseModel):
    """block: separable, as the network is; or dense units, of which nothing is shared, plain or
    with the residual sum in the encoder, whatever the design says of sum and inner norm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: Literal["plain", "residual", "separable"] = "separable"


class Nothing(nn.Module):
    """What a dense unit has in the trunk."""

    def __init__(self, _channels_in: int, _channels_out: int) -> None:
        super().__init__()


class Trunk(nn.Module):
    """The shared weights: a pointwise matrix for every unit of `Bank`, in the same layout.

    dense: none.
    """

    def __init__(
        self, base_channels: int, stages: int, design: Design, *, dense: bool = False
    ) -> None:
        super().__init__()
        part = Nothing if dense else Pointwise
        width = [base_channels * 2**stage for stage in range(design.first_stage, stages)]
        levels = list(pairwise(width))
        self.encoder = nn.ModuleList(nn.ModuleList([part(c, c), part(c, c)]) for c in width)
        self.down = nn.ModuleList(part(fine, coarse) for fine, coarse in levels)
        self.up = nn.ModuleList(part(coarse, fine) for fine, coarse in levels)
        self.decoder = nn.ModuleList(nn.ModuleList([part(2 * c, c), part(c, c)]) for c, _ in levels)


class UniversalNet(Network):
    """One network for many domains; a domain's bank chooses how deep it runs through the trunk."""

    trunk: Trunk

    def __init__(
        self,
        base_channels: int = 16,
        stages: int = 6,
        design: Design | None = None,
        options: Mapping[str, bool | int | float | str] | None = None,
    ) -> None:
        """options: as in `UniversalOptions`; raises ValueError for others."""
        design, options = design or Design(), dict(options or {})
        super().__init__(
            ModelSpec(base_channels=base_channels, stages=stages, design=design, options=options)
        )
        block = UniversalOptions.model_validate(options).block
        self.base_channels, self.design, self.dense = base_channels, design, block != "separable"
        self.residual = block == "residual" if self.dense else design.residual
        self.trunk = Trunk(base_channels, stages, design, dense=self.dense)

    @classmethod
    def of(cls, model: ModelSpec) -> Self:
        """The network of a model, without a bank yet."""
        return cls(model.base_channels, model.stages, model.design, model.options)

    def bank(self, domain: str) -> UniversalBank:
        """The bank of a domain. Raises KeyError when there is none."""
        found = self.banks[domain]
        assert isinstance(found, UniversalBank)
        return found

    def make_bank(self, shape: BankShape) -> UniversalBank:
        """Raises ValueError for a bank that ends before the trunk begins."""
        return UniversalBank(shape, self.base_channels, self.design, dense=self.dense)

    def forward(self, x: Tensor, domain: str) -> list[Tensor]:
        """Logits (B, classes, D, H, W) of a batch (B, C, D, H, W), full resolution first.

        In `train()` one entry per decoder level, from the second on each half as fine as the one
        before along the axes that were strided; in `eval()` the first alone.
        """
        bank, trunk = self.bank(domain), self.trunk
        skips: list[Features] = []
        features = bank.stem(x)
        for i, units in enumerate(bank.encoder):
            if i:
                features = bank.down[i - 1]([features], trunk.down[i - 1], _grid(features))
            features = self._encode(features, units, trunk.encoder[i])
            skips.append(features)
        outputs: list[Tensor] = []
        for i in reversed(range(len(bank.decoder))):
            features = self._decode(features, skips[i], bank, i)
            if self.training or i == 0:
                outputs.append(bank.heads[i](features, x.shape[2:]))
        return outputs[::-1] or [bank.heads[0](features, x.shape[2:])]

    def _encode(self, features: Features, units: nn.Module, pointwises: nn.Module) -> Features:
        (first, first_shared), (second, second_shared) = _pairs(units, pointwises)
        grid = _grid(features)
        inner: Features = first([features], first_shared, grid)
        slope = LINEAR if self.residual else SLOPE
        outer: Features = second([inner], second_shared, grid, slope)
        return layers.summed([outer, features], SLOPE) if self.residual else outer

    def _decode(self, features: Features, skip: Features, bank: UniversalBank, i: int) -> Features:
        stride, grid = bank.shape.strides[self.design.first_stage + i + 1], _grid(skip)
        if self.design.coarse_up:
            features = bank.up[i]([features], self.trunk.up[i], _grid(features))
            features = features._replace(up=stride)
        else:
            features = bank.up[i]([features._replace(up=stride)], self.trunk.up[i], grid)
        sources = [features, skip]
        for unit, shared in _pairs(bank.decoder[i], self.trunk.decoder[i]):
            sources = [unit(sources, shared, grid)]
        (features,) = sources
        return features


def _grid(features: Features) -> tuple[int, int, int]:
    depth, height, width = features.x.shape[2:]
    return depth, height, width


def _pairs(
    units: nn.Module, shared: nn.Module
) -> list[tuple[UnitBank | DenseUnit, Pointwise | Nothing]]:
    assert isinstance(units, nn.ModuleList)
    assert isinstance(shared, nn.ModuleList)
    pairs = []
    for unit, part in zip(units, shared, strict=True):
        assert isinstance(unit, UnitBank | DenseUnit)
        assert isinstance(part, Pointwise | Nothing)
        pairs.append((unit, part))
    return pairs
