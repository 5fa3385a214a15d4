"""The levels that one trained network can be cut down to (UNet++)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from u2net3d.infer.predict import Options
from u2net3d.models.network import Network

_KNOWN = "level" in {field.name for field in fields(Options)}


def levels_of(net: Network, domains: Iterable[str]) -> range:
    """All levels that one of the domains has but the deepest, which is the network as a whole."""
    return range(1, max(net.levels(domain) for domain in domains) if _KNOWN else 0)


def options_at(level: int | None) -> Options:
    """For `segment`; None: as a whole."""
    asked: dict[str, Any] = {} if level is None else {"level": level}
    return Options(**asked)
