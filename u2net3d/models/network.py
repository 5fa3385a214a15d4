"""What every family of networks is: a trunk that domains share, and a bank for each of them.

A family that shares nothing has an empty trunk, and each bank is a whole network of its own.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from u2net3d.models.units import End
from u2net3d.spec import DomainSpec, Level, ModelSpec, Plan
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

    def ends(self) -> tuple[str, ...]:
        """How the names of what belongs to stem and heads begin."""
        return tuple(f"{name}." for name, part in self.named_modules() if isinstance(part, End))

    def adapters(self) -> int:
        """Weights of the bank that adapt the trunk to the domain: without its stem and heads."""
        ends = self.ends()
        named = self.named_parameters()
        return sum(weight.numel() for name, weight in named if not name.startswith(ends))


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

    @classmethod
    def margin(cls, _model: ModelSpec, _plan: Plan) -> Triple:
        """Voxels on each side of a patch that the network must see besides to answer for all of it.

        0 where its answer is as large as what it sees.
        """
        return (0, 0, 0)

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

    def learning(self, domain: str) -> set[str]:
        """Names of the parameters that a step of a domain moves: its bank, and its trunk's part.

        A trunk is laid out as the banks are: a module of it serves those that have one of its name.
        """
        own = {name for name, _ in self.bank(domain).named_modules()}
        parts = {f"banks.{domain}.{name}": w for name, w in self.bank(domain).named_parameters()}
        for name, weight in self.trunk.named_parameters():
            if name.rpartition(".")[0] in own:
                parts[f"trunk.{name}"] = weight
        return {name for name, weight in parts.items() if weight.requires_grad}

    def freeze_trunk(self) -> None:
        """From now on no step changes the trunk; `train()` does not undo it."""
        self.trunk.requires_grad_(False)
        self.trunk.zero_grad(set_to_none=True)  # a gradient left over would still be stepped along

    def forward(self, x: Tensor, domain: str) -> list[Tensor]:
        """Logits (B, classes, D, H, W) of a batch (B, C, D, H, W), full resolution first.

        In `train()` all that deep supervision judges, in `eval()` the answer alone.
        """
        raise NotImplementedError

    def levels(self, domain: str) -> int:
        """At how many depths the network can answer for a domain; 0 where at the full one alone.

        Raises KeyError for a domain that has no bank.
        """
        self.bank(domain)
        return 0

    def answer(self, x: Tensor, domain: str, level: Level | None = None) -> Tensor:
        """The logits alone; level: at a depth from 1 on, or the mean of all. None: the deepest.

        Raises ValueError for a level that there is not.
        """
        if level is not None:
            raise ValueError(f"networks of the family {self.model.family} have no levels")
        logits: Tensor = self(x, domain)[0]
        return logits


def changing(net: nn.Module) -> dict[str, Tensor]:
    """What a training changes, by name: weights that require gradients, and running statistics."""
    weights = [pair for pair in net.named_parameters() if pair[1].requires_grad]
    return {name: tensor.detach() for name, tensor in [*weights, *net.named_buffers()]}
