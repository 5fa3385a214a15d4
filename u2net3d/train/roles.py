"""What a run is made of: its domains, what stays the same, what comes out, and who listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from u2net3d.io.dataset import Case, Dataset
from u2net3d.models.network import Network
from u2net3d.patches.loader import DomainLoader
from u2net3d.spec import DomainSpec, TrainSpec
from u2net3d.train.schedule import Progress
from u2net3d.train.validate import DomainScore


@dataclass(frozen=True)
class Learner:
    """One domain in training: what it is, where its patches come from, what it is judged by."""

    spec: DomainSpec
    dataset: Dataset
    loader: DomainLoader
    validation: tuple[Case, ...]


@dataclass(frozen=True)
class Run:
    """What stays the same over a run.

    identity: see `Checkpoint`; keep: called with the network and the result so far whenever a
    validation was the best, while the network holds that state; said: what run.json holds besides.
    """

    spec: TrainSpec
    learners: tuple[Learner, ...]
    folder: Path
    identity: str
    device: torch.device
    keep: Callable[[Network, Result], None] = lambda _net, _result: None
    said: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The best state of a run (one step for trunk and all banks) and its validation."""

    step: int
    steps: int
    seconds: float
    scores: dict[str, DomainScore]


class Listener(Protocol):
    """Who wants to know how the run goes on."""

    def stepped(self, at: Progress, share: float, domain: str, loss: float) -> None:
        """After every step; `share` of the budget is used up."""

    def validated(self, at: Progress, scores: dict[str, DomainScore], best: bool) -> None:
        """After every validation."""

    def told(self, text: str) -> None:
        """A line about what is out of the ordinary: a skipped step, a damaged checkpoint."""
