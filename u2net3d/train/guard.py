"""Steps that must not count: losses that are no numbers or far too high, and the way back.

A bad step moves nothing. After `BAD_IN_A_ROW` bad steps of one domain the weights and the optimiser
go back to the last state that every domain had found good, and the learning rate is halved for the
rest of the run. What is remembered for this is part of a checkpoint, so that a run that was taken
up again decides as one that was not stopped.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import nn

from u2net3d.models.network import changing

BAD_IN_A_ROW = 3
MOST_RETURNS = 4
COPY_EVERY = 50  # steps between two copies of the state
LEARNT_AFTER = 20  # steps of a domain before its level is taken for known
_NEWEST = 0.05  # share of the newest loss in the running level
_FAR_DEVIATIONS, _FAR_LOSS = 10.0, 1.0  # Dice and cross-entropy are numbers of the order of 1

Verdict = Literal["good", "bad", "return"]


class Guard:
    """Judges losses by the running level of their domain and keeps the state to return to.

    scale: what the learning rate is to be multiplied with; returns: how often the run went back.
    """

    def __init__(
        self, net: nn.Module, optimiser: torch.optim.Optimizer, domains: tuple[str, ...]
    ) -> None:
        self._net, self._optimiser = net, optimiser
        self.scale, self.returns = 1.0, 0
        self._levels = {
            name: {"count": 0, "mean": 0.0, "deviation": 0.0, "skipped": 0} for name in domains
        }
        self._bad = dict.fromkeys(domains, 0)
        self._confirmed = 0  # good steps since the copy in `_pending` was taken
        self._good: dict[str, Any] = self._copy(0)
        self._pending: dict[str, Any] | None = None

    def before(self, step: int) -> None:
        """To be called ahead of every step: now and then the state is copied, to be proved."""
        if step % COPY_EVERY == 0 and not any(self._bad.values()):
            self._pending, self._confirmed = self._copy(step), 0

    def is_acceptable(self, domain: str, loss: float) -> bool:
        """Whether a loss is a number, and not far above those of its domain so far."""
        level = self._levels[domain]
        far = _FAR_DEVIATIONS * level["deviation"] + _FAR_LOSS
        is_known = level["count"] >= LEARNT_AFTER
        return math.isfinite(loss) and not (is_known and loss > level["mean"] + far)

    def after(self, domain: str, loss: float, moved: bool) -> Verdict:
        """Takes in a step that moved the weights, or was skipped; says what is to follow."""
        if moved:
            self._learn_level(domain, loss)
            self._bad[domain] = 0
            self._confirmed += 1
            if self._pending is not None and self._confirmed >= len(self._levels):
                self._good, self._pending = self._pending, None
            return "good"
        self._bad[domain] += 1
        self._levels[domain]["skipped"] += 1
        self._pending = None
        return "return" if self._bad[domain] >= BAD_IN_A_ROW else "bad"

    def go_back(self) -> int:
        """Restores the last good state, halves the learning rate; gives the step of that state."""
        self.scale /= 2
        self.returns += 1
        self._bad = dict.fromkeys(self._bad, 0)
        good = copy.deepcopy(self._good)  # the optimiser would go on in the very tensors
        self._net.load_state_dict(good["net"], strict=False)
        self._optimiser.load_state_dict(good["optimiser"])
        return int(good["step"])

    def never_learnt(self) -> list[str]:
        """The domains that had their turn, and not one step that counted."""
        return [
            name for name, level in self._levels.items() if level["skipped"] and not level["count"]
        ]

    def state(self) -> dict[str, Any]:
        """All that is remembered, for a checkpoint."""
        return {
            "scale": self.scale,
            "returns": self.returns,
            "levels": self._levels,
            "bad": self._bad,
            "confirmed": self._confirmed,
            "good": self._good,
            "pending": self._pending,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        self.scale, self.returns = state["scale"], state["returns"]
        self._levels, self._bad = state["levels"], state["bad"]
        self._confirmed = state["confirmed"]
        self._good, self._pending = state["good"], state["pending"]

    def _learn_level(self, domain: str, loss: float) -> None:
        level = self._levels[domain]
        share = max(_NEWEST, 1 / (level["count"] + 1))  # the plain mean of the first ones
        away = abs(loss - level["mean"]) if level["count"] else 0.0
        level["mean"] += share * (loss - level["mean"])
        level["deviation"] += share * (away - level["deviation"])
        level["count"] += 1

    def _copy(self, step: int) -> dict[str, Any]:
        net = {name: tensor.clone() for name, tensor in changing(self._net).items()}
        return {"step": step, "net": net, "optimiser": copy.deepcopy(self._optimiser.state_dict())}
