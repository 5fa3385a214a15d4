"""What a comparison leaves behind: a row of JSON per finished run, added behind the others.

A row is written at once when its run is over; a last line that a kill cut off is left out by the
reader and taken away by the next writer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from u2net3d import files
from u2net3d.errors import DataError
from u2net3d.io.dataset import find_datasets, split
from u2net3d.spec import Frozen, ModelSpec

ROWS = Path("comparison.jsonl")
R = TypeVar("R", bound=Frozen)
Terciles = tuple[float | None, float | None, float | None]


class Budget(Frozen):
    """How long a run may train on one domain; a run of several domains together has their sum.

    steps; seconds by the clock (`time`); or processor seconds (`cpu`) of all threads for the
    network's own steps. threads: None where they decide about the time alone.
    """

    kind: Literal["steps", "time", "cpu"]
    amount: float = Field(gt=0)
    threads: int | None = None

    def __str__(self) -> str:
        threads = f" on {self.threads} thread{'s' if self.threads != 1 else ''}"
        if self.kind == "steps":
            return f"{self.amount:g} steps"
        minutes = f"{self.amount / 60:g} min" if self.amount >= 60 else f"{self.amount:g} s"
        return f"{minutes} {'by the clock' if self.kind == 'time' else 'of processor'}{threads}"


class Asked(Frozen):
    """A run: what makes it another than all others; versions and machine are not part of it.

    preset: as typed, with its changes (`unetpp:stages=3`); model: what they come to; training: what
    differs from the recipe, by field of TrainSpec; cases: patients to learn from, None for all;
    data: names the data sets and the fold (`data_of`).
    """

    data: str
    preset: str
    model: ModelSpec
    recipe: Literal["default", "own"] = "default"
    training: dict[str, Any] = Field(default_factory=dict)
    domains: tuple[str, ...] = Field(min_length=1)
    seed: int = 0
    fold: int = 0
    budget: Budget
    cases: int | None = None
    validations: int = 1
    device: str = "cpu"

    @property
    def key(self) -> str:
        """Names the run: equal for equal runs, whatever the preset is called."""
        said = self.model_dump(mode="json", exclude={"preset": True, "model": {"preset"}})
        said["domains"] = sorted(said["domains"])
        return files.sha256_json(said)[:16]

    @property
    def elastic(self) -> bool:
        """Whether the images are bent as U-Net's were, on top of the ordinary augmentation."""
        return any(bool(v) for name, v in self.training.items() if name.startswith("elastic"))


class Macs(Frozen):
    """Multiply-adds of the answer to one patch, by kind of convolution (`compare_macs.py`).

    as_dense: what the separable pairs, depthwise and then pointwise, would cost as dense
    convolutions of the same kernel; pairs: what they do cost; analytic: 1/N + 1/k³ of the pairs, N
    output channels, k³ the voxels of the kernel, weighted by as_dense.
    """

    dense: int
    depthwise: int
    pointwise: int
    as_dense: int = 0
    pairs: int = 0
    analytic: float | None = None

    @property
    def total(self) -> int:
        return self.dense + self.depthwise + self.pointwise


class LabelOutcome(Frozen):
    """Dice of a label, mean over the cases that have it in either mask; None where none has.

    terciles: the same over the thirds of the cases by the reference's voxels, smallest first;
    voxels: the median of each third.
    """

    dice: float | None
    terciles: Terciles
    voxels: Terciles


class Outcome(Frozen):
    """One domain of a run. Dice on whole validation volumes, mean over labels of the case-averages.

    weights: of the bank; step_s: processor seconds of one step of the network, volume_s: of one
    validation volume, preparing included (by the clock on a GPU); curve: (step, Dice) of every
    validation.
    """

    dice: float
    labels: dict[str, LabelOutcome]
    training_cases: int
    validation_cases: int
    patch: tuple[int, int, int]
    batch: int
    stages: int
    weights: int
    macs: Macs | None
    step_s: float
    volume_s: float
    curve: tuple[tuple[int, float], ...] = ()

    def tercile(self, third: int) -> float | None:
        """Mean over labels of their Dice on a third of the cases, 0 the smallest objects."""
        known = [label.terciles[third] for label in self.labels.values()]
        there = [value for value in known if value is not None]
        return sum(there) / len(there) if there else None


class Row(Frozen):
    """A finished run, or with a level the answer of that level of a finished run's network.

    state: of which step the weights are; seconds: of training by the clock, validations included;
    trunk: weights that its domains share; peak_gib: the most memory that the process held.
    """

    asked: Asked
    level: int | None = None
    state: str
    steps: int
    seconds: float
    trunk: int
    outcomes: dict[str, Outcome]
    peak_gib: float | None
    date: str
    versions: dict[str, str]
    machine: str

    @property
    def block(self) -> str:
        """What its stages are made of: `plain`, `residual` or `separable`."""
        family, options = self.asked.model.family, self.asked.model.options
        if family == "reference":  # its adapters are the question there
            return "separable" if options.get("adapter") == "separable" else "residual"
        own = "separable" if family == "universal" else "plain"
        return str(options.get("block", own))

    @property
    def together(self) -> bool:
        """Whether one network learnt several domains."""
        return len(self.asked.domains) > 1

    @property
    def weights(self) -> int:
        """All weights of the network, the trunk and every bank."""
        return self.trunk + sum(outcome.weights for outcome in self.outcomes.values())

    @property
    def contestant(self) -> str:
        """What tables and pictures call the run."""
        asked = self.asked
        parts = [
            asked.preset,
            "(together)" if self.together else "",
            *(f"{k}={as_typed(v)}" for k, v in asked.training.items() if k[:7] != "elastic"),
            "+ own recipe" if asked.recipe == "own" else "",
            "+ elastic" if asked.elastic else "",
        ]
        return " ".join(part for part in parts if part)

    @property
    def name(self) -> str:
        """The run and, where it was cut down, the level that answers."""
        return self.contestant + (f" cut to L{self.level}" if self.level is not None else "")


def read_rows(path: Path, kind: type[R] = Row) -> list[R]:  # type: ignore[assignment]
    """All rows of a file, each a `kind`; a last line that was cut off is left out, no file: none.

    Raises DataError, naming the line, where another line is no row.
    """
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            rows.append(kind.model_validate_json(line))
        except ValueError as error:
            what = f"line {number} is no row of a comparison"
            raise DataError(path, what, "correct or remove that line") from error
    return rows


def append_rows(path: Path, rows: Sequence[Frozen]) -> None:
    """Adds rows with one write, behind the last line that is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        files.write_bytes(path, content[: content.rfind(b"\n") + 1])
    files.append_line(path, "\n".join(row.model_dump_json() for row in rows), flush=True)


def keys_of(rows: Iterable[Row]) -> set[str]:
    """The runs that need not be run again."""
    return {row.asked.key for row in rows}


def data_of(data: Path, texts: Iterable[str], fold: int) -> str:
    """Names data sets and their fold: labels, channels and the cases' names, but no file's content.

    data, texts: as of `find_datasets`, and what it raises.
    """
    said = {}
    for each in find_datasets(data, [*texts]):
        sides = split(each, fold)
        cases = [sorted(case.name for case in side) for side in (sides.training, sides.validation)]
        said[each.domain] = [each.labels, each.channels, cases]
    return files.sha256_json(said)[:12]


def told(runs: Collection[object], todo: Collection[object], path: Path) -> str:
    """How much of what was asked for is there already."""
    return f"{len(runs) - len(todo)} of {len(runs)} runs have their row already, in {path}"


def as_typed(value: Any) -> str:
    """A setting as it stands on a command line."""
    return value if isinstance(value, str) else json.dumps(value)
