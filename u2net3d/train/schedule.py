"""How far a run is, and the learning rate that goes with it."""

from __future__ import annotations

from dataclasses import dataclass

from u2net3d.spec import TrainSpec

REST = 5  # training time between two validations, in durations of a validation


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done, seconds spent; when its last validation ended, how long it
    took."""

    step: int
    elapsed_s: float
    validated_at_s: float = 0.0
    validation_s: float = 0.0


def share_done(spec: TrainSpec, at: Progress) -> float:
    """Part of the budget that is used up, 0 to 1: by steps, or by the clock where a time is given.

    By the clock one validation is reserved for the end, of at most half the time.
    """
    if spec.time_s is None:
        return min(at.step / spec.steps, 1.0)
    reserved = min(at.validation_s, spec.time_s / 2)
    return min(at.elapsed_s / (spec.time_s - reserved), 1.0)


def learning_rate(spec: TrainSpec, step: int, share: float) -> float:
    """Linear warm-up over `warmup_steps`, times polynomial decay (1 - share) ** decay_power.

    Without the decay where the schedule is "plateau", see `plateau.py`.

    step: over all domains, counted from 0; the decay is Chen et al.'s (DeepLab, arXiv 1606.00915,
    section 4.1).
    """
    warm = min((step + 1) / spec.warmup_steps, 1.0) if spec.warmup_steps else 1.0
    if spec.schedule == "plateau":
        return spec.learning_rate * warm
    left: float = (1 - min(share, 1.0)) ** spec.decay_power
    return spec.learning_rate * warm * left


def class_balance(spec: TrainSpec, share: float) -> float:
    """How far the classes weigh the same in the loss: 1 at first, 0 from `balanced_share` on.

    By size alone a network answers background for its first hundred steps where labels are small
    (docs/log.md, 2026-11-21); by class alone it would draw them too large.
    """
    return max(0.0, 1 - share / spec.balanced_share) if spec.balanced_share else 0.0


def validations_passed(spec: TrainSpec, share: float) -> int:
    """How many of the `spec.validations` evenly spread validations are due by now.

    The last is due when the budget is used up; a validation so long that it passes the moment of
    the next one replaces it.
    """
    return int(share * spec.validations + 1e-9)


def may_validate(spec: TrainSpec, at: Progress) -> bool:
    """Whether a validation may begin: by the clock, training gets `REST` times its last cost.

    A budget in steps is not touched by time, so that the same steps give the same run.
    """
    if spec.time_s is None or share_done(spec, at) >= 1:
        return True
    return at.elapsed_s - at.validated_at_s >= REST * at.validation_s
