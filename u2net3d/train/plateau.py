"""Halving the learning rate when the loss stalls, as the official code of 3D U2-Net does.

There an epoch is 300 steps over all tasks. After each one the mean loss of the last 20 epochs is
compared with what it was an epoch before; where it fell by less than 1e-4 the rate is halved.
Nothing is compared before 20 epochs are over.
"""

from __future__ import annotations

from typing import Any

EPOCH_STEPS = 300
WINDOW = 20  # epochs
LEAST_GAIN = 1e-4
HALF = 0.5


class Plateau:
    """Hears the loss of every step; scale: what the learning rate is to be multiplied with."""

    def __init__(self) -> None:
        self.scale = 1.0
        self._epoch: list[float] = []  # losses of the epoch so far
        self._means: list[float] = []  # of the last epochs
        self._before: float | None = None  # their mean, an epoch ago

    def after(self, loss: float) -> None:
        """Takes in the loss of a step that moved the weights."""
        self._epoch.append(loss)
        if len(self._epoch) < EPOCH_STEPS:
            return
        self._means = [*self._means, sum(self._epoch) / EPOCH_STEPS][-WINDOW:]
        self._epoch = []
        if len(self._means) < WINDOW:
            return
        mean = sum(self._means) / WINDOW
        if self._before is not None and self._before - mean < LEAST_GAIN:
            self.scale *= HALF
        self._before = mean

    def state(self) -> dict[str, Any]:
        """All that is remembered, for a checkpoint."""
        return {
            "scale": self.scale,
            "epoch": self._epoch,
            "means": self._means,
            "before": self._before,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave; an empty state, of an older checkpoint, changes nothing."""
        if state:
            self.scale, self._epoch = state["scale"], list(state["epoch"])
            self._means, self._before = list(state["means"]), state["before"]
