"""A domain's bank: everything of the network that belongs to one domain alone."""

from __future__ import annotations

from itertools import pairwise

from pydantic import BaseModel, ConfigDict
from torch import nn

from u2net3d.models.units import Head, Stem, UnitBank
from u2net3d.spec import DomainSpec
from u2net3d.volume import Triple


class BankShape(BaseModel):
    """What decides the shapes of a bank. strides and kernels as in `Plan`, one per stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int
    classes: int
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]

    @classmethod
    def of(cls, spec: DomainSpec) -> BankShape:
        """The bank that a domain's specification asks for."""
        return cls(
            channels=len(spec.channels),
            classes=len(spec.labels),
            strides=spec.plan.strides,
            kernels=spec.plan.kernels,
        )

    @property
    def stages(self) -> int:
        """Encoder stages of the trunk that the bank runs through."""
        return len(self.strides)


class Bank(nn.Module):
    """Stem, depthwise kernels, norms and heads of one domain, laid out as the trunk's stages.

    encoder[i] holds the two units of stage i, down[i] the strided unit from stage i to i + 1;
    up[i] the unit from stage i + 1 to i, decoder[i] the two units of stage i, heads[i] its head.
    """

    def __init__(self, shape: BankShape, base_channels: int) -> None:
        super().__init__()
        self.shape = shape
        width = [base_channels * 2**stage for stage in range(shape.stages)]
        levels = list(enumerate(pairwise(width)))  # (i, (channels of i, channels of i + 1))
        kernels, strides = shape.kernels, shape.strides
        self.stem = Stem(shape.channels, base_channels, kernels[0])
        self.encoder = nn.ModuleList(
            nn.ModuleList([UnitBank(c, c, kernel), UnitBank(c, c, kernel)])
            for c, kernel in zip(width, kernels, strict=True)
        )
        self.down = nn.ModuleList(
            UnitBank(fine, coarse, kernels[i + 1], strides[i + 1]) for i, (fine, coarse) in levels
        )
        self.up = nn.ModuleList(UnitBank(coarse, fine, kernels[i]) for i, (fine, coarse) in levels)
        self.decoder = nn.ModuleList(
            nn.ModuleList([UnitBank(2 * c, c, kernels[i]), UnitBank(c, c, kernels[i])])
            for i, (c, _) in levels
        )
        self.heads = nn.ModuleList(Head(c, shape.classes) for _, (c, _) in levels)

    def adapters(self) -> int:
        """Weights of the bank without stem and heads, found by type."""
        units = (module for module in self.modules() if isinstance(module, UnitBank))
        return sum(weight.numel() for unit in units for weight in unit.parameters())
