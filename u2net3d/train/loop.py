"""The training loop: one step per domain in turn, validation, best and last state.

`train` and `add-domain` both run through it; a frozen trunk is the only difference.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from u2net3d.errors import TrainingError
from u2net3d.io.dataset import Case, Dataset
from u2net3d.losses import LOSSES, supervised
from u2net3d.models.universal import UniversalNet
from u2net3d.ops.memory import keep_freed_memory
from u2net3d.patches.loader import Batch, DomainLoader, Prefetcher, round_robin
from u2net3d.spec import DomainSpec, TrainSpec
from u2net3d.train import checkpoint
from u2net3d.train.checkpoint import Checkpoint
from u2net3d.train.history import History
from u2net3d.train.interrupt import held_back
from u2net3d.train.schedule import (
    Progress,
    class_balance,
    learning_rate,
    may_validate,
    share_done,
    validations_passed,
)
from u2net3d.train.validate import DomainScore, judge

CHECKPOINT_EVERY_S = 120.0
_ENDLESS = 2**62  # steps of a run that ends by the clock


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
    validation was the best, while the network holds that state.
    """

    spec: TrainSpec
    learners: tuple[Learner, ...]
    folder: Path
    identity: str
    device: torch.device
    keep: Callable[[UniversalNet, Result], None] = lambda _net, _result: None


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


def train(net: UniversalNet, run: Run, listener: Listener, *, resume: bool) -> Result:
    """Trains what of `net` requires gradients; on return `net` holds the best state, in eval().

    Best is the step with the highest mean Dice over the domains; without validation cases the
    last. Raises TrainingError when the loss is no longer finite.
    """
    keep_freed_memory()
    net.to(run.device)
    state = _Loop(net, run, listener)
    if resume:
        state.restore(checkpoint.load(run.folder, run.identity))
    try:
        state.go()
    except KeyboardInterrupt:
        state.save()
        raise
    return state.finish()


class _Loop:
    """The moving parts of a run."""

    def __init__(self, net: UniversalNet, run: Run, listener: Listener) -> None:
        self.net, self.run, self.listener = net, run, listener
        self.optimiser = _optimiser(net, run.spec)
        self.history = History(run.folder)
        self.at = Progress(0, 0.0)
        self.validations = 0
        self.best_step, self.best_scores = -1, dict[str, DomainScore]()
        self.best_net: dict[str, Any] = {}
        self.saved_at = 0.0
        self.began = time.perf_counter()

    def go(self) -> None:
        """Steps until the budget is used up, the last validation included."""
        spec = self.run.spec
        self.began = time.perf_counter() - self.at.elapsed_s
        loaders = [learner.loader for learner in self.run.learners]
        last = spec.steps if spec.time_s is None else _ENDLESS
        self.net.train()
        with Prefetcher(round_robin(loaders, self.at.step, last)) as batches:
            self._look_after()  # the run may have been stopped between a step and its validation
            while (share := share_done(spec, self.at)) < 1:
                batch = next(batches)
                with held_back():
                    self._step(batch, share)
                self._look_after()

    def _look_after(self) -> None:
        spec = self.run.spec
        due = validations_passed(spec, share_done(spec, self.at)) > self.validations
        if due and may_validate(spec, self.at):
            self._validate()
        elif self.at.elapsed_s - self.saved_at > CHECKPOINT_EVERY_S:
            self.save()

    def _step(self, batch: Batch, share: float) -> None:
        rate = learning_rate(self.run.spec, self.at.step, share)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        balance = class_balance(self.run.spec, share)
        loss = _learn(self.net, self.optimiser, batch, self.run.spec, balance, self.run.device)
        if not math.isfinite(loss):
            what = f"loss or gradient of {batch.domain} became {loss} at step {self.at.step}"
            mend = "look for extreme values in its images, or begin anew with another --seed"
            raise TrainingError(self.run.folder, what, mend)
        self.history.step(self.at.step, batch.domain, loss, rate, self._elapsed())
        self.at = replace(self.at, step=self.at.step + 1, elapsed_s=self._elapsed())
        self.listener.stepped(self.at, share_done(self.run.spec, self.at), batch.domain, loss)

    def _validate(self) -> None:
        started = time.perf_counter()
        scores = {
            learner.spec.name: judge(
                self.net, learner.spec, learner.dataset, learner.validation, self.run.device
            )
            for learner in self.run.learners
            if learner.validation
        }
        self.net.train()
        with held_back():
            self._keep(scores, time.perf_counter() - started)

    def _keep(self, scores: dict[str, DomainScore], seconds: float) -> None:
        best = not scores or self.best_step < 0 or _mean(scores) > _mean(self.best_scores)
        if best:
            self.best_step, self.best_scores = self.at.step, scores
            self.best_net = copy.deepcopy(self._weights())
        for name, score in scores.items():
            self.history.validation(self.at.step, name, score, self._elapsed())
        self.history.draw()
        now = self._elapsed()
        self.at = Progress(self.at.step, now, validated_at_s=now, validation_s=seconds)
        self.validations = validations_passed(self.run.spec, share_done(self.run.spec, self.at))
        self.listener.validated(self.at, scores, best)
        self.save()
        if best:
            self.run.keep(self.net, self._result())

    def finish(self) -> Result:
        """The best state goes back into the network."""
        self.net.load_state_dict(self.best_net, strict=False)
        self.net.eval()
        return self._result()

    def _result(self) -> Result:
        return Result(self.best_step, self.at.step, self.at.elapsed_s, self.best_scores)

    def save(self) -> None:
        """Writes the checkpoint."""
        self.saved_at = self._elapsed()
        checkpoint.save(
            self.run.folder,
            Checkpoint(
                identity=self.run.identity,
                step=self.at.step,
                elapsed_s=self.saved_at,
                validated_at_s=self.at.validated_at_s,
                validation_s=self.at.validation_s,
                validations=self.validations,
                net=self._weights(),
                optimiser=self.optimiser.state_dict(),
                best_net=self.best_net,
                best_step=self.best_step,
                best_scores={
                    name: [list(judged.dice) for judged in score.cases]
                    for name, score in self.best_scores.items()
                },
            ),
        )

    def restore(self, saved: Checkpoint) -> None:
        """Takes up the run where a checkpoint left it."""
        self.net.load_state_dict(saved.net, strict=False)  # the rest of it is not of this run
        self.optimiser.load_state_dict(saved.optimiser)
        self.at = Progress(saved.step, saved.elapsed_s, saved.validated_at_s, saved.validation_s)
        self.saved_at, self.validations = saved.elapsed_s, saved.validations
        self.best_net, self.best_step = saved.best_net, saved.best_step
        self.best_scores = {
            learner.spec.name: DomainScore.of(
                learner.spec, learner.validation, saved.best_scores[learner.spec.name]
            )
            for learner in self.run.learners
            if learner.spec.name in saved.best_scores
        }
        self.history.forget_after(saved.step)

    def _weights(self) -> dict[str, Tensor]:
        """What is being trained, by name; a frozen trunk and the other banks are left out."""
        named = self.net.named_parameters()
        return {name: weight.detach() for name, weight in named if weight.requires_grad}

    def _elapsed(self) -> float:
        return time.perf_counter() - self.began


def _learn(
    net: UniversalNet,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    spec: TrainSpec,
    balance: float,
    device: torch.device,
) -> float:
    """The loss of one step on one batch; what the domain does not use does not move.

    Where loss or gradient are not finite nothing moves at all, and what is returned is not either.
    """
    optimiser.zero_grad(set_to_none=True)
    outputs = net(batch.image.to(device), batch.domain)
    loss = supervised(LOSSES[spec.loss], outputs, batch.label.to(device), balance)
    value = loss.item()
    if math.isfinite(value):
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(_trained(net), spec.clip_norm).item()
        if not math.isfinite(norm):
            return norm
        optimiser.step()
    return value


def _optimiser(net: UniversalNet, spec: TrainSpec) -> torch.optim.Optimizer:
    weights = _trained(net)
    if spec.optimiser == "adamw":
        return torch.optim.AdamW(weights, spec.learning_rate, weight_decay=spec.weight_decay)
    return torch.optim.SGD(
        weights, spec.learning_rate, momentum=0.99, nesterov=True, weight_decay=spec.weight_decay
    )


def _trained(net: UniversalNet) -> Sequence[Tensor]:
    return [weight for weight in net.parameters() if weight.requires_grad]


def _mean(scores: dict[str, DomainScore]) -> float:
    return sum(score.mean for score in scores.values()) / max(len(scores), 1)
