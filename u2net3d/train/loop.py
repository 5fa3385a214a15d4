"""The training loop: one step per domain in turn, validation, best and last state.

`train` and `add-domain` both run through it; a frozen trunk is the only difference.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from u2net3d.errors import DataError, DiskError, Stopped, TrainingError
from u2net3d.losses import LOSSES, supervised
from u2net3d.models.network import Network, changing
from u2net3d.ops.memory import keep_freed_memory
from u2net3d.patches.loader import Batch, Prefetcher, round_robin
from u2net3d.train import checkpoint, memory
from u2net3d.train.checkpoint import Checkpoint
from u2net3d.train.guard import MOST_RETURNS, Guard
from u2net3d.train.history import History
from u2net3d.train.interrupt import held_back, stopping
from u2net3d.train.optimiser import optimiser_for, trained
from u2net3d.train.plateau import Plateau
from u2net3d.train.roles import Listener, Result, Run
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


def train(net: Network, run: Run, listener: Listener, *, resume: bool) -> Result:
    """Trains what of `net` requires gradients; on return `net` holds the best state, in eval().

    Best is the step with the highest mean Dice over the domains; without validation cases the
    last. Ctrl-C and SIGTERM let the step end, write a checkpoint and raise Stopped. Raises
    TrainingError when losses stay no numbers, memory runs out or the disk is full, and what the
    loaders raise, after a checkpoint.
    """
    keep_freed_memory()
    net.to(run.device)
    state = _Loop(net, run, listener)
    if resume:
        state.restore(checkpoint.load(run.folder, run.identity, listener.told))
    try:
        with stopping():
            _go(state)
    except DiskError as error:
        mend = f"make room; {checkpoint.how_to_go_on(run.folder)}"
        raise TrainingError(error.where, error.what, mend) from error
    return state.finish()


def _go(state: _Loop) -> None:
    """Runs to the end; a state that is whole is kept, whatever ends the run."""
    try:
        state.go()
    except KeyboardInterrupt as stop:
        given = stop if isinstance(stop, Stopped) else Stopped()
        if state.whole:
            state.save()
        where = f"stopped at step {state.at.step}" if state.whole else "stopped at once"
        mend = checkpoint.how_to_go_on(state.run.folder)
        raise Stopped(given.number, f"{where} — {mend}") from stop
    except (DataError, TrainingError):
        if state.whole:
            state.save()
        raise


class _Loop:
    """The moving parts of a run."""

    def __init__(self, net: Network, run: Run, listener: Listener) -> None:
        self.net, self.run, self.listener = net, run, listener
        self.optimiser = optimiser_for(net, run.spec)
        self.guard = Guard(net, self.optimiser, tuple(each.spec.name for each in run.learners))
        self.plateau = Plateau()
        self.history = History(run.folder)
        self.at = Progress(0, 0.0)
        self.validations = 0
        self.best_step, self.best_scores = -1, dict[str, DomainScore]()
        self.best_net: dict[str, Any] = {}
        self.saved_at = 0.0
        self.whole = True  # not in the middle of a change of the state
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
                self._step(batch, share)
                self._look_after()
        for domain in self.guard.never_learnt():
            what = f"no step of {domain} could be learnt from: loss or gradient were no numbers"
            raise TrainingError(self.run.folder, what, "look for extreme values in its images")

    def _look_after(self) -> None:
        spec = self.run.spec
        due = validations_passed(spec, share_done(spec, self.at)) > self.validations
        if due and may_validate(spec, self.at):
            self._validate()
        elif self.at.elapsed_s - self.saved_at > CHECKPOINT_EVERY_S:
            self.save()

    def _step(self, batch: Batch, share: float) -> None:
        rate = learning_rate(self.run.spec, self.at.step, share) * self.guard.scale
        if self.run.spec.schedule == "plateau":
            rate *= self.plateau.scale
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.guard.before(self.at.step)
        size = "×".join(str(n) for n in batch.image.shape)
        work = f"a step of {batch.domain} (patches of {size})"
        balance = class_balance(self.run.spec, share)
        with self._changing(), memory.named(self.run.folder, work):
            loss, moved = _learn(self.net, self.optimiser, batch, self.run, balance, self.guard)
            row = (self.at.step, batch.domain, loss, rate, self._elapsed())
            self.history.step(*row) if moved else self.history.skipped(*row)
            notes = self._judge(batch, loss, moved)
            if moved:
                self.plateau.after(loss)
            self.at = replace(self.at, step=self.at.step + 1, elapsed_s=self._elapsed())
        for note in notes:
            self.listener.told(note)
        if moved:
            done = share_done(self.run.spec, self.at)
            self.listener.stepped(self.at, done, batch.domain, loss)

    def _judge(self, batch: Batch, loss: float, moved: bool) -> list[str]:
        """Lets the guard see the step, and goes back where it says so; lines for a person."""
        step, verdict = self.at.step, self.guard.after(batch.domain, loss, moved)
        if verdict == "good":
            return []
        what = f"loss or gradient of {batch.domain} was {loss:.3g} ({', '.join(batch.cases)})"
        notes = [f"step {step} skipped: {what}"]
        if verdict == "return":
            if self.guard.returns >= MOST_RETURNS:
                mend = "look for extreme values in these images, or begin anew with another --seed"
                count = f"after {self.guard.returns} returns to a good state"
                raise TrainingError(self.run.folder, f"{what} at step {step}, {count}", mend)
            good = self.guard.go_back()
            self.history.returned(step, batch.domain, good, self.guard.scale, self._elapsed())
            scale = f"learning rate now × {self.guard.scale:g}"
            notes.append(f"step {step}: weights and optimiser of step {good} restored, {scale}")
        return notes

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """What happens inside is one change of the state: a signal waits for its end."""
        with held_back(self.listener.told):
            self.whole = False
            yield
            self.whole = True

    def _validate(self) -> None:
        started = time.perf_counter()
        scores = {}
        for each in self.run.learners:
            if each.validation:
                with memory.named(self.run.folder, f"the validation of {each.spec.name}"):
                    scores[each.spec.name] = judge(
                        self.net, each.spec, each.dataset, each.validation, self.run.device
                    )
        self.net.train()
        self._keep(scores, time.perf_counter() - started)

    def _keep(self, scores: dict[str, DomainScore], seconds: float) -> None:
        best = not scores or self.best_step < 0 or _mean(scores) > _mean(self.best_scores)
        with self._changing():
            if best:
                self.best_step, self.best_scores = self.at.step, scores
                self.best_net = copy.deepcopy(self._weights())
            for name, score in scores.items():
                self.history.validation(self.at.step, name, score, self._elapsed())
            now = self._elapsed()
            self.at = Progress(self.at.step, now, validated_at_s=now, validation_s=seconds)
            self.validations = validations_passed(self.run.spec, share_done(self.run.spec, self.at))
        self.history.draw()
        self.listener.validated(self.at, scores, best)
        with held_back(self.listener.told):  # a model is several files
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
                guard=self.guard.state(),
                plateau=self.plateau.state(),
            ),
        )

    def restore(self, saved: Checkpoint) -> None:
        """Takes up the run where a checkpoint left it."""
        self.net.load_state_dict(saved.net, strict=False)  # the rest of it is not of this run
        self.optimiser.load_state_dict(saved.optimiser)
        self.guard.restore(saved.guard)
        self.plateau.restore(saved.plateau)
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
        return changing(self.net)

    def _elapsed(self) -> float:
        return time.perf_counter() - self.began


def _learn(
    net: Network,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    run: Run,
    balance: float,
    guard: Guard,
) -> tuple[float, bool]:
    """The loss of one step on one batch, and whether it moved the weights.

    What the domain does not use does not move. Where the guard does not accept the loss, or the
    gradient is not finite (it is then what is returned), nothing moves at all.
    """
    optimiser.zero_grad(set_to_none=True)
    outputs = net(batch.image.to(run.device), batch.domain)
    target = batch.label.to(run.device)
    border = None if batch.border is None else batch.border.to(run.device)
    loss = supervised(LOSSES[run.spec.loss], outputs, target, balance, border)
    value = loss.item()
    if not guard.is_acceptable(batch.domain, value):
        return value, False
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(trained(net), run.spec.clip_norm).item()
    if not math.isfinite(norm):
        return norm, False
    optimiser.step()
    return value, True


def _mean(scores: dict[str, DomainScore]) -> float:
    return sum(score.mean for score in scores.values()) / max(len(scores), 1)
