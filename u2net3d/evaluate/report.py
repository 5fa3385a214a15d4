"""A folder of predictions against its references: scores, means, and a table, JSON or CSV of them.

JSON (`Report.to_json`; a score that is not defined is null)

    {"tolerance_mm": 2.0, "domain": "liver" or null, "n": cases scored,
     "definitions": {score or rule: what it means},
     "mean":   {scores: mean over labels of the means below; counts: their sums},
     "labels": {label: {"dice", "iou", "hd95_mm", "nsd": means over the cases counted,
                        "counted", "missed", "false_alarms": numbers of cases}},
     "cases":  {case: {label: {"dice", "iou", "hd95_mm", "nsd", "outcome", "predicted_voxels",
                               "reference_voxels", "predicted_ml", "reference_ml"}}},
     "failed": {case: why}, "without_prediction": [case], "without_reference": [case]}

Errors of objects that were asked for ("pixel_error", ...) stand beside "dice" wherever it does.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2net3d.errors import DataError, U2Net3dError, UsageError
from u2net3d.evaluate import objects
from u2net3d.evaluate.metrics import DEFINITIONS, LabelScore, scores

if TYPE_CHECKING:
    from rich.table import Table

    from u2net3d.io.nifti import Source
    from u2net3d.volume import Array, Volume

PROBABILITIES = ".probabilities.nii.gz"  # as `predict --probabilities` names them


@dataclass(frozen=True)
class CaseScores:
    """One case: a score per label, in the labels' order."""

    case: str
    scores: tuple[LabelScore, ...]

    @property
    def mean_dice(self) -> float:
        """Mean over the labels that are in either mask; NaN where none is."""
        return _mean(score.dice for score in self.scores)


@dataclass(frozen=True)
class Failure:
    """A case that could not be scored, and the line that says why."""

    case: str
    why: str


@dataclass(frozen=True)
class Means:
    """Mean scores, and how many cases stand behind them.

    counted: cases with the label in either mask, of which `missed` have no prediction of it and
    `false_alarms` no reference.
    """

    dice: float
    iou: float
    hd95_mm: float
    nsd: float
    counted: int
    missed: int
    false_alarms: int
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The scores of a folder; labels without the background, cases in order of their names.

    with_probabilities: the cases whose errors of objects are those of the best threshold.
    """

    labels: tuple[str, ...]
    tolerance_mm: float
    cases: tuple[CaseScores, ...]
    failures: tuple[Failure, ...] = ()
    without_prediction: tuple[str, ...] = ()
    without_reference: tuple[str, ...] = ()
    domain: str | None = None
    with_probabilities: tuple[str, ...] = ()

    def label_means(self) -> dict[str, Means]:
        """Per label the mean over the cases that count: those with the label in either mask."""
        every = [score for case in self.cases for score in case.scores]
        return {
            label: _over_cases([score for score in every if score.label == label])
            for label in self.labels
        }

    def mean(self) -> Means:
        """The domain's figure: the mean over labels of `label_means`; the counts are sums."""
        per_label = list(self.label_means().values())
        return Means(
            dice=_mean(m.dice for m in per_label),
            iou=_mean(m.iou for m in per_label),
            hd95_mm=_mean(m.hd95_mm for m in per_label),
            nsd=_mean(m.nsd for m in per_label),
            counted=sum(m.counted for m in per_label),
            missed=sum(m.missed for m in per_label),
            false_alarms=sum(m.false_alarms for m in per_label),
            errors=_mean_errors(per_label),
        )

    @property
    def errors(self) -> tuple[str, ...]:
        """Names of the errors of objects that were asked for."""
        every = (score.errors for case in self.cases for score in case.scores)
        return tuple(next(every, ()))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON in the schema of this module; what is not defined is null."""
        return {
            "tolerance_mm": self.tolerance_mm,
            "domain": self.domain,
            "n": len(self.cases),
            "definitions": {**DEFINITIONS, **(objects.DEFINITIONS if self.errors else {})},
            "mean": _plain(self.mean()),
            "labels": {label: _plain(m) for label, m in self.label_means().items()},
            "cases": {
                case.case: {score.label: _score_row(score) for score in case.scores}
                for case in self.cases
            },
            "failed": {failure.case: failure.why for failure in self.failures},
            "without_prediction": list(self.without_prediction),
            "without_reference": list(self.without_reference),
            **({"with_probabilities": list(self.with_probabilities)} if self.errors else {}),
        }

    def to_csv(self) -> str:
        """One row per case and label under a header; what is not defined is left empty."""
        text = io.StringIO()
        own = [f.name for f in fields(LabelScore) if f.name != "errors"]
        columns = ["case", *own, *self.errors, "outcome"]
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for case in self.cases:
            for score in case.scores:
                row = {"case": case.case, "label": score.label, **_score_row(score)}
                writer.writerow(row)
        return text.getvalue()

    def to_table(self) -> Table:
        """A rich table: a row per case and label, then the mean per label and over labels."""
        from u2net3d.evaluate.table import table

        return table(self)


def evaluate_folder(
    pred: Path,
    ref: Path,
    labels: Sequence[str] | None,
    tolerance_mm: float,
    progress: Callable[[int, int], None],
    *,
    ignore: int | None = None,
    domain: str | None = None,
    metrics: Sequence[str] = (),
) -> Report:
    """Scores every case that has a file of the same name, whatever the suffix, in both folders.

    labels: names by value, labels[0] the background; None names what is found ("label 1", ...) and
    leaves absent labels out; ignore: the reference's value for voxels that nobody judged;
    progress(done, total) is called before the first case and after each; metrics: errors of objects
    to be measured as well, of `objects.METRICS`.
    A case that cannot be read, lies on another grid than its reference or holds a value without a
    name goes into `Report.failures`; the others go on. Raises UsageError where a folder is missing,
    holds two files of one name, or no name is in both.
    """
    predictions, references = _by_name(pred, "--pred"), _by_name(ref, "--ref")
    names = sorted(predictions.keys() & references.keys())
    if not names:
        what = f"no file has a name of {ref} ({some(predictions)} against {some(references)})"
        raise UsageError(f"--pred {pred}", what, "name predictions like their references")
    cases, failures = [], []
    progress(0, len(names))
    for done, name in enumerate(names, start=1):
        pair = predictions[name], references[name]
        try:
            found = _score_case(*pair, labels, tolerance_mm, ignore, metrics)
            cases.append(CaseScores(name, found))
        except U2Net3dError as error:
            failures.append(Failure(name, _without_folders(str(error), *pair)))
        progress(done, len(names))
    return Report(
        labels=tuple(labels[1:]) if labels is not None else _labels_of(cases),
        tolerance_mm=tolerance_mm,
        cases=tuple(cases),
        failures=tuple(failures),
        without_prediction=tuple(sorted(references.keys() - predictions.keys())),
        without_reference=tuple(sorted(predictions.keys() - references.keys())),
        domain=domain,
        with_probabilities=tuple(
            case.case for case in cases if metrics and _beside(predictions[case.case]).is_file()
        ),
    )


def _without_folders(text: str, prediction: Path, reference: Path) -> str:
    """A message that may be stored: folders can name people."""
    beside = _beside(prediction)
    for path, option in ((beside, "--pred"), (prediction, "--pred"), (reference, "--ref")):
        text = text.replace(str(path), f"{option} {path.name}")
    return text


def _score_case(
    prediction_path: Path,
    reference_path: Path,
    labels: Sequence[str] | None,
    tolerance_mm: float,
    ignore: int | None,
    metrics: Sequence[str],
) -> tuple[LabelScore, ...]:
    from u2net3d.io import read_label, require_same_grid

    prediction, source = read_label(prediction_path)
    reference, reference_source = read_label(reference_path)
    require_same_grid(prediction, source, reference, reference_source)
    p, r = prediction.array[0], reference.array[0]
    names = labels
    if names is None:
        values = [int(array[array != ignore].max(initial=0)) for array in (p, r)]
        names = ["background", *(f"label {n}" for n in range(1, max(values) + 1))]
    found = scores(p, r, reference.spacing_mm, names, tolerance_mm=tolerance_mm, ignore=ignore)
    if metrics:
        shares = _probabilities(prediction_path, prediction, source, len(names))
        rows = objects.errors(p, r, len(names), metrics, ignore=ignore, shares=shares)
        found = [replace(one, errors=row) for one, row in zip(found, rows, strict=True)]
    return tuple(score for score in found if labels is not None or score.outcome != "absent")


def _probabilities(path: Path, label: Volume, source: Source, classes: int) -> Array | None:
    """The probabilities (classes, D, H, W) that `predict --probabilities` wrote beside a label."""
    from u2net3d.io import read_image, require_same_grid

    beside = _beside(path)
    if not beside.is_file():
        return None
    shares, its_source = read_image([beside])
    require_same_grid(shares, its_source, label, source)
    if len(shares.array) < classes:
        what = f"holds {len(shares.array)} classes, the labels go to {classes - 1}"
        raise DataError(beside, what, "predict label and probabilities together")
    return shares.array


def _beside(path: Path) -> Path:
    """Where the probabilities of a predicted label would lie."""
    from u2net3d.io import stem

    return path.with_name(f"{stem(path)}{PROBABILITIES}")


def _by_name(folder: Path, option: str) -> dict[str, Path]:
    """The image files of a folder by the name of their case."""
    from u2net3d.io import IMAGE_SUFFIXES, stem

    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{option} {folder}", what, "name a folder of label files")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith(IMAGE_SUFFIXES):
            continue
        if path.name.endswith(PROBABILITIES):
            continue  # of `predict --probabilities`, beside the labels
        twin = found.setdefault(stem(path), path)
        if twin is not path:
            what = f"{twin.name} and {path.name} are two files of one case"
            raise UsageError(f"{option} {folder}", what, "keep one of them")
    return found


def _labels_of(cases: Iterable[CaseScores]) -> tuple[str, ...]:
    """The labels found ("label 3"), each once, by value."""
    found = {score.label for case in cases for score in case.scores}
    return tuple(sorted(found, key=lambda label: int(label.removeprefix("label "))))


def _over_cases(every: Iterable[LabelScore]) -> Means:
    counted = [score for score in every if score.outcome != "absent"]
    return Means(
        dice=_mean(score.dice for score in counted),
        iou=_mean(score.iou for score in counted),
        hd95_mm=_mean(score.hd95_mm for score in counted),
        nsd=_mean(score.nsd for score in counted),
        counted=len(counted),
        missed=sum(score.outcome == "missed" for score in counted),
        false_alarms=sum(score.outcome == "false alarm" for score in counted),
        errors=_mean_errors(counted),
    )


def _mean_errors(every: Sequence[LabelScore | Means]) -> dict[str, float]:
    names = dict.fromkeys(name for one in every for name in one.errors)
    return {name: _mean(one.errors.get(name, nan) for one in every) for name in names}


def _mean(values: Iterable[float]) -> float:
    """The mean of what is not NaN; NaN of nothing."""
    there = [value for value in values if isfinite(value)]
    return sum(there) / len(there) if there else nan


def _score_row(score: LabelScore) -> dict[str, Any]:
    row = _plain(score)
    del row["label"]
    return {**row, "outcome": score.outcome}


def _plain(given: LabelScore | Means) -> dict[str, Any]:
    """Its values by name; NaN becomes None: NaN is not JSON."""
    row = asdict(given)
    row |= row.pop("errors")
    return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in row.items()}


def some(names: Iterable[str]) -> str:
    """The first five names, and how many more there are."""
    every = sorted(names)
    more = f" and {len(every) - 5} more" if len(every) > 5 else ""
    return (", ".join(every[:5]) or "nothing") + more
