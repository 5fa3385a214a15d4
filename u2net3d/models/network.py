"""What every family of networks is: a trunk that domains share, and a bank for each of them.

A family that shares nothing has an empty trunk, and each bank is a whole network of its own.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from u2net3d.models.units import Adapter
from u2net3d.spec import DomainSpec, ModelSpec
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
    """All of a network that belongs to one domain alone; each family has its own."""

    def __init__(self, shape: BankShape) -> None:
        super().__init__()
        self.shape = shape

    def adapters(self) -> int:
        """Weights of the bank that adapt the trunk to the domain: without its stem and heads."""
        units = (module for module in self.modules() if isinstance(module, Adapter))
        return sum(weight.numel() for unit in units for weight in unit.parameters())


class Network(nn.Module):
    """A network for many domains. A family gives `trunk`, `make_bank` and `forward`.

    of: the network of a model, without a bank yet; raises ValueError for options that the family
    does not know.
    """

    trunk: nn.Module

    def __init__(self, model: ModelSpec) -> None:
        super().__init__()
        self.model = model
        self.banks = nn.ModuleDict()

    @classmethod
    def of(cls, model: ModelSpec) -> Self:
        """The network of a model, without a bank yet."""
        return cls(model)

    @property
    def stages(self) -> int:
        """How deep a bank may be."""
        return self.model.stages

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains that have a bank."""
        return tuple(self.banks)

    def bank(self, domain: str) -> Bank:
        """The bank of a domain. Raises KeyError when there is none."""
        found = self.banks[domain]
        assert isinstance(found, Bank)
        return found

    def make_bank(self, shape: BankShape) -> Bank:
        """A fresh bank, drawn from torch's generator; it is not the network's yet.

        Raises ValueError for a shape that the family cannot have.
        """
        raise NotImplementedError

    def add_bank(self, domain: str, shape: BankShape) -> Bank:
        """Gives a new domain a fresh bank, drawn from torch's generator; the rest stays as it is.

        Raises ValueError for a name that is there already, and for a bank that is deeper than the
        trunk or ends before it begins.
        """
        if domain in self.banks:
            raise ValueError(f"domain {domain} has a bank already")
        if shape.stages > self.stages:
            raise ValueError(f"{shape.stages} stages asked of a trunk of {self.stages}")
        bank = self.make_bank(shape)
        bank.train(self.training)
        self.banks[domain] = bank
        return bank

    def freeze_trunk(self) -> None:
        """From now on no step changes the trunk; `train()` does not undo it."""
        self.trunk.requires_grad_(False)
        self.trunk.zero_grad(set_to_none=True)  # a gradient left over would still be stepped along

    def forward(self, x: Tensor, domain: str) -> list[Tensor]:
        """Logits (B, classes, D, H, W) of a batch (B, C, D, H, W), full resolution first.

        In `train()` all that deep supervision judges, in `eval()` the answer alone.
        """
        raise NotImplementedError
