"""Which cases a bank that is trained again learns from, and which it is judged by.

New patients move others between the folds. A bank judged by a case that it, or the one before it,
has learnt from looks better than it is; so every patient keeps the side on which it was seen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from u2net3d.io.dataset import SPLITS_FILE, Case, Dataset, Split, split

_UNKNOWN = "runs/ does not say what the old bank learnt from: it may know some validation cases"


def kept_sides(
    dataset: Dataset, fold: int | Literal["all"], model: Path
) -> tuple[Split, str | None]:
    """The split of a fold with patients that a run of `model` saw on their side; a remark.

    Who was ever learnt from is learnt from again. A splits_final.json is taken as it is, and so is
    `--fold all`; so is the fold where nobody would be left to be judged by.
    """
    cases = split(dataset, fold)
    learnt, judged = _seen(dataset, model)
    if fold == "all":
        return cases, None
    if not learnt:
        return cases, _UNKNOWN
    if not (dataset.root / SPLITS_FILE).is_file():
        chosen = {case.patient for case in cases.validation}
        held = (chosen | judged) - learnt
        training = tuple(case for case in dataset.cases if case.patient not in held)
        validation = tuple(case for case in dataset.cases if case.patient in held)
        if validation:
            return Split(training, validation), None
    known = sum(case.patient in learnt for case in cases.validation)
    remark = f"{known} of the {len(cases.validation)} validation cases were learnt from before"
    return cases, remark if known else None


def judged_cases(dataset: Dataset, model: Path) -> tuple[Case, ...]:
    """The cases that the runs of a model were judged by and never learnt from."""
    _, judged = _seen(dataset, model)
    return tuple(case for case in dataset.cases if case.patient in judged)


def _seen(dataset: Dataset, model: Path) -> tuple[set[str], set[str]]:
    """Patients that the runs of a model learnt from, and those that they were judged by alone."""
    patients = {case.name: case.patient for case in dataset.cases}
    learnt: set[str] = set()
    judged: set[str] = set()
    for path in sorted(model.glob("runs/*/run.json")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))["domains"][dataset.domain]
            learnt |= {patients[name] for name in said["training"] if name in patients}
            judged |= {patients[name] for name in said["validation"] if name in patients}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of another domain, or half of a file
    return learnt, judged - learnt
