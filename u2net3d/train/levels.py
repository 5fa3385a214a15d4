"""What the levels of a network are worth, and the smallest that will do."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from u2net3d import store
from u2net3d.infer.predict import Options
from u2net3d.models.network import Network
from u2net3d.train.roles import Learner
from u2net3d.train.validate import judge

WITHIN = 0.01  # validation Dice of the deepest level


def levels_of(net: Network, learner: Learner, device: torch.device) -> store.Levels | None:
    """The levels of a domain by whole validation volumes; None for a network that has none."""
    spec, count = learner.spec, net.levels(learner.spec.name)
    if not count:
        return None
    if not learner.validation:
        return store.Levels(count=count)
    net.to(device)
    found = [
        judge(net, spec, learner.dataset, learner.validation, device, Options(level=level)).mean
        for level in range(1, count + 1)
    ]
    return store.Levels(count=count, auto=smallest(found), validation_dice=tuple(found))


def smallest(dice: Sequence[float]) -> int:
    """The first level, from 1 on, that is within `WITHIN` of the last."""
    good = [level for level, value in enumerate(dice, start=1) if value >= dice[-1] - WITHIN]
    return good[0]
