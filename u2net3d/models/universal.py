"""The universal network: one trunk of pointwise convolutions, one bank per domain.

Huang et al., "3D U2-Net: A 3D Universal U-Net for Multi-Domain Medical Image Segmentation",
MICCAI 2019 (arXiv 1909.06012); topology per domain and separable down-sampling are ours.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from u2net3d.models.banks import Bank, BankShape
from u2net3d.models.units import LINEAR, SLOPE, Pointwise, UnitBank


class Trunk(nn.Module):
    """The shared weights: a pointwise matrix for every unit of `Bank`, in the same layout."""

    def __init__(self, base_channels: int, stages: int) -> None:
        super().__init__()
        width = [base_channels * 2**stage for stage in range(stages)]
        levels = list(pairwise(width))
        self.encoder = nn.ModuleList(
            nn.ModuleList([Pointwise(c, c), Pointwise(c, c)]) for c in width
        )
        self.down = nn.ModuleList(Pointwise(fine, coarse) for fine, coarse in levels)
        self.up = nn.ModuleList(Pointwise(coarse, fine) for fine, coarse in levels)
        self.decoder = nn.ModuleList(
            nn.ModuleList([Pointwise(2 * c, c), Pointwise(c, c)]) for c, _ in levels
        )


class UniversalNet(nn.Module):
    """One network for many domains; a domain's bank chooses how deep it runs through the trunk."""

    def __init__(self, base_channels: int = 16, stages: int = 6) -> None:
        super().__init__()
        self.base_channels, self.stages = base_channels, stages
        self.trunk = Trunk(base_channels, stages)
        self.banks = nn.ModuleDict()

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains that have a bank."""
        return tuple(self.banks)

    def bank(self, domain: str) -> Bank:
        """The bank of a domain. Raises KeyError when there is none."""
        found = self.banks[domain]
        assert isinstance(found, Bank)
        return found

    def add_bank(self, domain: str, shape: BankShape) -> Bank:
        """Gives a new domain a fresh bank, drawn from torch's generator; the rest stays as it is.

        Raises ValueError for a name that is there already and for a bank deeper than the trunk.
        """
        if domain in self.banks:
            raise ValueError(f"domain {domain} has a bank already")
        if shape.stages > self.stages:
            raise ValueError(f"{shape.stages} stages asked of a trunk of {self.stages}")
        bank = Bank(shape, self.base_channels)
        bank.train(self.training)
        self.banks[domain] = bank
        return bank

    def freeze_trunk(self) -> None:
        """From now on no step changes the trunk; `train()` does not undo it."""
        self.trunk.requires_grad_(False)
        self.trunk.zero_grad(set_to_none=True)  # a gradient left over would still be stepped along

    def forward(self, x: Tensor, domain: str) -> list[Tensor]:
        """Logits (B, classes, D, H, W) of a batch (B, C, D, H, W), full resolution first.

        In `train()` one entry per decoder level, each half as fine as the one before along the
        axes that were strided; in `eval()` the first alone.
        """
        bank = self.bank(domain)
        last = bank.shape.stages - 1
        skips: list[Tensor] = []
        x = bank.stem(x)
        for stage in range(last + 1):
            if stage:
                x = bank.down[stage - 1](x, self.trunk.down[stage - 1])
            x = _residual(x, bank.encoder[stage], self.trunk.encoder[stage])
            skips.append(x)
        outputs: list[Tensor] = []
        for stage in reversed(range(last)):
            x = _nearest_up(x, bank.shape.strides[stage + 1], skips[stage])
            x = bank.up[stage](x, self.trunk.up[stage])
            x = torch.cat([x, skips[stage]], 1)
            for unit, pointwise in _pairs(bank.decoder[stage], self.trunk.decoder[stage]):
                x = unit(x, pointwise)
            if self.training or stage == 0:
                outputs.append(bank.heads[stage](x))
        return outputs[::-1]


def _residual(x: Tensor, units: nn.Module, pointwises: nn.Module) -> Tensor:
    (first, first_shared), (second, second_shared) = _pairs(units, pointwises)
    inner = second(first(x, first_shared), second_shared, LINEAR)
    return F.leaky_relu(inner + x, SLOPE)


def _pairs(units: nn.Module, pointwises: nn.Module) -> list[tuple[UnitBank, Pointwise]]:
    assert isinstance(units, nn.ModuleList)
    assert isinstance(pointwises, nn.ModuleList)
    pairs = []
    for unit, pointwise in zip(units, pointwises, strict=True):
        assert isinstance(unit, UnitBank)
        assert isinstance(pointwise, Pointwise)
        pairs.append((unit, pointwise))
    return pairs


def _nearest_up(x: Tensor, stride: tuple[int, int, int], like: Tensor) -> Tensor:
    """Repeats every voxel `stride` times and crops to the skip, whose size may be odd.

    Written as one expand over channels-last rows, so that the result is channels_last_3d.
    """
    d, h, w = stride
    batch, channels, depth, height, width = x.shape
    rows = x.permute(0, 2, 3, 4, 1)[:, :, None, :, None, :, None]
    repeated = rows.expand(batch, depth, d, height, h, width, w, channels)
    fine = repeated.reshape(batch, depth * d, height * h, width * w, channels)
    fine = fine[:, : like.shape[2], : like.shape[3], : like.shape[4]]
    return fine.permute(0, 4, 1, 2, 3)
