"""Changes of the training that the package does not offer, each made for the length of one run.

They replace functions or constants of the package; a trial that wins is to be built there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.optim import Optimizer

from u2net3d.losses import supervised
from u2net3d.models.network import Network
from u2net3d.patches import augment
from u2net3d.patches.loader import Batch, DomainLoader
from u2net3d.train import loop

SMOOTHING = 0.98  # of a domain's loss, from one of its steps to the next
LEAST_LOSS = 0.05  # a domain that is learnt still has its turns
_ALWAYS = ("P_MIRROR", "P_CHANNEL")

Trial = Callable[[], AbstractContextManager[None]]

as_it_is: Trial = nullcontext


@contextmanager
def finest_level_alone() -> Iterator[None]:
    """No deep supervision: the loss of the full resolution."""

    def finest(loss: Callable[..., Tensor], outputs: Sequence[Tensor], *others: Any) -> Tensor:
        return supervised(loss, outputs[:1], *others)

    with patch.object(loop, "supervised", finest):
        yield


def augmented(factor: float) -> Trial:
    """Every change of a patch but its reflections `factor` times as often."""

    @contextmanager
    def trial() -> Iterator[None]:
        chances = [name for name in vars(augment) if name.startswith("P_") and name not in _ALWAYS]
        with ExitStack() as stack:
            for name in chances:
                chance = min(1.0, factor * getattr(augment, name))
                stack.enter_context(patch.object(augment, name, chance))
            yield

    return trial


@contextmanager
def by_size() -> Iterator[None]:
    """A domain has turns in proportion to its cases."""

    def batches(loaders: Sequence[DomainLoader], first: int, last: int) -> Iterator[Batch]:
        return _weighed(loaders, lambda: [float(len(each.cases)) for each in loaders], first, last)

    with patch.object(loop, "round_robin", batches):
        yield


@contextmanager
def by_loss() -> Iterator[None]:
    """A domain has turns in proportion to its smoothed loss, 0 being the least that Dice and
    cross-entropy can sum up to; patches are read ahead, so the loss is that of some steps ago."""
    learn, of = loop._learn, dict[str, float]()

    def heard(net: Network, optimiser: Optimizer, batch: Batch, *others: Any) -> tuple[float, bool]:
        loss, moved = learn(net, optimiser, batch, *others)
        before = of.get(batch.domain, loss)
        of[batch.domain] = SMOOTHING * before + (1 - SMOOTHING) * loss
        return loss, moved

    def weights(loaders: Sequence[DomainLoader]) -> list[float]:
        if len(of) < len(loaders):
            return [1.0] * len(loaders)
        return [max(LEAST_LOSS, 1 + of[each.spec.name]) for each in loaders]

    def batches(loaders: Sequence[DomainLoader], first: int, last: int) -> Iterator[Batch]:
        return _weighed(loaders, lambda: weights(loaders), first, last)

    with patch.object(loop, "round_robin", batches), patch.object(loop, "_learn", heard):
        yield


def _weighed(
    loaders: Sequence[DomainLoader], weights: Callable[[], Sequence[float]], first: int, last: int
) -> Iterator[Batch]:
    """Always the domain that is furthest behind its share of the turns so far."""
    assert first == 0, "a trial is not taken up again"
    owed, taken = [0.0] * len(loaders), [0] * len(loaders)
    for _ in range(last):
        now = weights()
        owed = [debt + weight / math.fsum(now) for debt, weight in zip(owed, now, strict=True)]
        which = owed.index(max(owed))
        owed[which] -= 1
        yield loaders[which].batch(taken[which])
        taken[which] += 1
