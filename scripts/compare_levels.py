"""The levels that one trained network can be cut down to (UNet++), where the package has them.

Until a family knows levels there are none, and every network answers as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from u2net3d.infer.predict import Options
from u2net3d.models.network import Network
from u2net3d.spec import DomainSpec


def levels_of(net: Network, specs: Mapping[str, DomainSpec]) -> tuple[int, ...]:
    """Levels that every domain of the network has, the shallowest first."""
    del net, specs
    return ()


@dataclass(frozen=True)
class ReadyFor:
    """Has a network answer at a level; None as a whole."""

    level: int | None

    @property
    def options(self) -> Options:
        """For `segment`."""
        known = {field.name for field in fields(Options)}
        given: dict[str, Any] = {"level": self.level} if self.level is not None else {}
        return Options(**{name: value for name, value in given.items() if name in known})

    def __call__(self, net: Network) -> None:
        """Prepares a network whose answer to a patch is to be counted."""

    def weights(self, part: nn.Module) -> int:
        """Weights of the trunk or of a bank that the answer needs."""
        return sum(weight.numel() for weight in part.parameters())
