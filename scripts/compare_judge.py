"""What a trained network of a comparison can do: Dice by label and size, seconds, multiply-adds."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_levels import options_at
from compare_macs import needed
from compare_rows import LabelOutcome, Outcome, Terciles

from u2net3d.evaluate.metrics import dice
from u2net3d.infer.predict import segment
from u2net3d.io.dataset import Case, Dataset, Split, read_case
from u2net3d.models.network import Network
from u2net3d.spec import DomainSpec, ModelSpec
from u2net3d.train.validate import DomainScore, Judged

TIMED = 3  # validation volumes whose seconds are measured, the first ones


@dataclass(frozen=True)
class Judge:
    """A network to be judged by one domain's cases; level: of those it can be cut down to."""

    net: Network
    model: ModelSpec
    spec: DomainSpec
    dataset: Dataset
    device: torch.device
    clock: Callable[[], float]
    level: int | None

    def judged(self, cases: Sequence[Case]) -> tuple[DomainScore, list[float]]:
        """Dice of each case as training's validation has it, and the seconds of each volume."""
        found, seconds = [], []
        for case in cases:
            loaded = read_case(self.dataset, case)
            began = self.clock()
            label = segment(self.net, self.spec, loaded.image, self.device, options_at(self.level))
            seconds.append(self.clock() - began)
            reference = loaded.label.array[0]
            classes = len(self.spec.labels)
            values = dice(label, reference, classes, self.dataset.ignore_label)
            found.append(Judged(case, tuple(float(value) for value in values)))
        return DomainScore(self.spec.labels[1:], tuple(found)), seconds

    def voxels(self, cases: Sequence[Case]) -> list[list[int]]:
        """Voxels of each foreground label in the reference of each case."""
        classes = len(self.spec.labels)
        labels = (read_case(self.dataset, case).label.array.ravel() for case in cases)
        counts = (np.bincount(np.maximum(label, 0), minlength=classes) for label in labels)
        return [[int(n) for n in count[1:classes]] for count in counts]


@dataclass(frozen=True)
class Trained:
    """What training has found out already: the last validation's Dice; seconds of a step; rows of
    history.jsonl."""

    score: DomainScore | None
    step_s: float
    history: Sequence[Mapping[str, Any]]


def outcome_of(judge: Judge, sides: Split, trained: Trained) -> tuple[Outcome, int]:
    """How a network does on one domain, and the weights of its trunk that answer there.

    Without a score every case is judged anew.
    """
    spec, cases = judge.spec, sides.validation
    again, seconds = judge.judged(cases if trained.score is None else cases[:TIMED])
    score = trained.score or again
    sizes = judge.voxels(cases)
    labels = {
        label: label_outcome([case.dice[n] for case in score.cases], [size[n] for size in sizes])
        for n, label in enumerate(spec.labels[1:])
    }
    counted = needed(judge.model, spec, judge.level)
    outcome = Outcome(
        dice=round(score.mean, 5),
        labels=labels,
        training_cases=len(sides.training),
        validation_cases=len(cases),
        patch=spec.plan.patch_size,
        batch=spec.plan.batch_size,
        stages=spec.plan.stages,
        weights=counted.bank,
        macs=counted.macs,
        step_s=trained.step_s,
        volume_s=round(statistics.median(seconds[:TIMED]), 4) if seconds else 0.0,
        curve=curve_of(trained.history, spec.name),
    )
    return outcome, counted.trunk


def label_outcome(values: Sequence[float], voxels: Sequence[int]) -> LabelOutcome:
    """Of one label, by the Dice (NaN: in neither mask) and the reference's voxels of every case.

    Cases are sorted by voxels and cut into thirds, the middle one taking what is left over; cases
    without a reference have no size and are in none.
    """
    known = [value for value in values if not isnan(value)]
    sized = sorted((n, value) for value, n in zip(values, voxels, strict=True) if n)
    third = len(sized) // 3
    parts = (sized[:third], sized[third : len(sized) - third], sized[len(sized) - third :])
    means = [_mean([value for _, value in part]) for part in parts]
    middles = [statistics.median(n for n, _ in part) if part else None for part in parts]
    return LabelOutcome(dice=_mean(known), terciles=_three(means), voxels=_three(middles))


def curve_of(history: Sequence[Mapping[str, Any]], domain: str) -> tuple[tuple[int, float], ...]:
    """(step, Dice) of every validation of a domain, by the rows of history.jsonl."""
    rows = [row for row in history if row["kind"] == "validation" and row["domain"] == domain]
    return tuple((row["step"], round(row["mean_dice"], 4)) for row in rows)


def peak_gib() -> float | None:
    """The most memory that this process has held, as Linux counts it; None elsewhere."""
    # not getrusage: what it gives begins with what the parent held
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return round(int(found[1]) / 2**20, 3) if found else None


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 5) if values else None


def _three(values: Sequence[float | None]) -> Terciles:
    small, middle, large = values
    return small, middle, large
