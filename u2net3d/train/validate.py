"""Whole-volume validation: every held-out case segmented as `predict` would, on its own grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from u2net3d.evaluate.metrics import dice
from u2net3d.infer.predict import DEFAULT, Options, segment
from u2net3d.io.dataset import Case, Dataset, read_case
from u2net3d.models.network import Network
from u2net3d.spec import DomainSpec
from u2net3d.volume import Array


@dataclass(frozen=True)
class Judged:
    """Dice per foreground label of one case; NaN where neither side has the label."""

    case: Case
    dice: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the labels that are there; NaN where there is none."""
        known = [value for value in self.dice if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")


@dataclass(frozen=True)
class DomainScore:
    """Dice of one domain's validation cases."""

    labels: tuple[str, ...]  # foreground
    cases: tuple[Judged, ...]

    @classmethod
    def of(cls, spec: DomainSpec, cases: tuple[Case, ...], rows: list[list[float]]) -> DomainScore:
        """The scores of `cases`, one row of Dice per foreground label each."""
        pairs = zip(cases, rows, strict=True)
        return cls(spec.labels[1:], tuple(Judged(case, tuple(row)) for case, row in pairs))

    def per_label(self) -> dict[str, float | None]:
        """Case-averaged Dice per label; None where no case has it."""
        rows = np.array([judged.dice for judged in self.cases])
        means = {}
        for name, column in zip(self.labels, rows.T, strict=True):
            known = column[~np.isnan(column)]
            means[name] = float(known.mean()) if known.size else None
        return means

    def of_cases(self) -> dict[str, list[float]]:
        """Dice of the cases that have a label, from the lowest up: it says of none which it is."""
        columns = zip(*(judged.dice for judged in self.cases), strict=True)
        return {
            name: sorted(round(value, 4) for value in column if not np.isnan(value))
            for name, column in zip(self.labels, columns, strict=False)
        }

    @property
    def mean(self) -> float:
        """Mean over labels of the case-averaged Dice; 0 where nothing could be judged."""
        known = [value for value in self.per_label().values() if value is not None]
        return float(np.mean(known)) if known else 0.0


def judge(
    net: Network,
    spec: DomainSpec,
    dataset: Dataset,
    cases: tuple[Case, ...],
    device: torch.device,
    options: Options = DEFAULT,
) -> DomainScore:
    """Dice of `net` on whole validation cases, by default as `predict` comes."""
    judged = []
    for case in cases:
        prediction, reference = predicted(net, spec, dataset, case, device, options)[1:]
        values = dice(prediction, reference, len(spec.labels), dataset.ignore_label)
        judged.append(Judged(case, tuple(float(value) for value in values)))
    return DomainScore(spec.labels[1:], tuple(judged))


def predicted(
    net: Network,
    spec: DomainSpec,
    dataset: Dataset,
    case: Case,
    device: torch.device,
    options: Options = DEFAULT,
) -> tuple[Array, Array, Array]:
    """Image (C, D, H, W), predicted label and reference label (D, H, W) of a labelled case."""
    loaded = read_case(dataset, case)
    label = segment(net, spec, loaded.image, device, options)
    return loaded.image.array, label, loaded.label.array[0]
