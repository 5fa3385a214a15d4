"""What `scripts/versus-nnunet` leaves behind, a row of JSON per run, and what names a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from compare_rows import Asked as Compared
from compare_rows import Budget, as_typed
from pydantic import Field

from u2net3d import files
from u2net3d.spec import RECIPES, Frozen, ModelSpec, TrainSpec

ROWS = Path("accuracy.jsonl")
Peer = Literal["nnunet", "nnunet-adamw", "u2net3d", "universal"]
PEERS: tuple[Peer, ...] = get_args(Peer)
THEIRS: tuple[Peer, ...] = ("nnunet", "nnunet-adamw")
OURS: tuple[Peer, ...] = ("u2net3d", "universal")
# Of TrainSpec what a run says elsewhere.
_ELSEWHERE = {"steps", "time_s", "seed", "fold", "validations"}


class Ours(Frozen):
    """A network of this package and how it is trained.

    preset and settings: as typed (`base:stages=4`; of TrainSpec, by field). model and training:
    what they come to, every field of ModelSpec and TrainSpec, so that a row knows its recipe when
    the defaults are other ones.
    """

    preset: str
    settings: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any]
    training: dict[str, Any]

    @classmethod
    def of(cls, preset: str, model: ModelSpec, settings: dict[str, Any]) -> Ours:
        """By the preset's own recipe, as `u2net3d train --preset` has it, changed by `settings`.

        Raises ValueError for a setting that TrainSpec does not have or take.
        """
        own = RECIPES.get(preset.partition(":")[0], TrainSpec())
        if said := settings.keys() & _ELSEWHERE:
            raise ValueError(f"{min(said)} is no setting: it has an option of its own")
        training = TrainSpec.model_validate({**own.model_dump(), **settings})
        return cls(
            preset=preset,
            settings=settings,
            model=model.model_dump(mode="json"),
            training=training.model_dump(mode="json", exclude=_ELSEWHERE),
        )

    def identity(self) -> dict[str, Any]:
        """What decides about its weights; a field newer than a row has its default there."""
        default = TrainSpec().model_dump(mode="json", exclude=_ELSEWHERE)
        model = filled(self.model, ModelSpec().model_dump(mode="json"))
        return {"model": {**model, "preset": None}, "training": filled(self.training, default)}


class Asked(Frozen):
    """A run: what makes it another than all others; versions and machine are not part of it.

    data: names the data sets and the fold; domains: one, and several for `universal` alone; budget:
    by the clock, for each of them; ours: None for nnU-Net; compiled: nnU-Net's network by
    torch.compile.
    """

    data: str
    peer: Peer
    domains: tuple[str, ...] = Field(min_length=1)
    seed: int = 0
    fold: int = 0
    budget: Budget
    device: str = "cpu"
    ours: Ours | None = None
    compiled: bool = False

    @property
    def key(self) -> str:
        """Names the run; equal for equal runs, whatever a preset is called."""
        said = self.model_dump(mode="json", exclude={"ours"})
        said["domains"] = sorted(said["domains"])
        said["ours"] = self.ours and self.ours.identity()
        return files.sha256_json(said)[:16]

    @property
    def name(self) -> str:
        """What tables and pictures call the contestant."""
        if self.ours is None:
            plain = {"nnunet": "nnU-Net", "nnunet-adamw": "nnU-Net's net, AdamW"}[self.peer]
            return plain + (", compiled" if self.compiled else "")
        changed = "".join(f", {k}={as_typed(v)}" for k, v in self.ours.settings.items())
        several = f" ({len(self.domains)} domains)" if self.peer == "universal" else ""
        return f"{self.peer} {self.ours.preset}{changed}{several}"

    def compared(self) -> Compared:
        """The same run as `scripts/compare` knows it: for ours alone."""
        assert self.ours is not None
        return Compared(
            data=self.data,
            preset=self.ours.preset,
            model=ModelSpec.model_validate(self.ours.model),
            training=self.ours.training,
            domains=self.domains,
            seed=self.seed,
            fold=self.fold,
            budget=self.budget,
            device=self.device,
        )


class Trained(Frozen):
    """What came of a training. plans: patch and batch of each domain."""

    steps: int
    seconds: float
    weights: int
    how: str
    plans: dict[str, tuple[tuple[int, ...], int]]
    peak_gib: float | None = None


class LabelScore(Frozen):
    """Means over the cases that have a label in either mask; None where no case has.

    nsd: at the tolerance of `u2net3d evaluate`, 2 mm.
    """

    dice: float | None
    hd95_mm: float | None
    nsd: float | None


class Outcome(Frozen):
    """One domain of a run, judged on the whole volumes of its validation cases.

    dice: mean over labels of the case-averages; cases: Dice of every label in each case, None where
    neither mask has it; volume_s: seconds by the clock from file to file, the mean.
    """

    dice: float
    labels: dict[str, LabelScore]
    cases: dict[str, dict[str, float | None]]
    training_cases: int
    patch: tuple[int, ...]
    batch: int
    volume_s: float


class Row(Frozen):
    """A finished run, judged with or without averaging over reflections (tta).

    The weights are those of the last step. seconds: of training by the clock, steps: made in them;
    how: optimiser, schedule and loader in a line; peak_gib: the most memory that the process held
    (of a GPU: reserved there).
    """

    asked: Asked
    tta: bool
    steps: int
    seconds: float
    weights: int
    how: str
    outcomes: dict[str, Outcome]
    peak_gib: float | None
    versions: dict[str, str]
    machine: str
    command: str
    date: str
    step_s: float

    @property
    def run(self) -> tuple[str, bool]:
        """Names the row among all."""
        return self.asked.key, self.tta


def command(asked: Asked, domains: Sequence[str], seeds: Sequence[int], *, tta: bool) -> str:
    """What makes such rows, typed anew; DATA stands for the folder of the data sets."""
    seconds = asked.budget.amount
    time = f"{seconds / 60:g}m" if seconds >= 60 else f"{seconds:g}s"
    words = ["scripts/versus-nnunet", "--peers", asked.peer, "--data", "DATA"]
    words += ["--domains", ",".join(domains), "--seeds", ",".join(map(str, seeds))]
    words += ["--fold", str(asked.fold), "--time", time, "--threads", str(asked.budget.threads)]
    if asked.ours is not None:
        words += ["--preset", asked.ours.preset]
    if asked.ours is not None and asked.ours.settings:
        pairs = [f"{name}={as_typed(value)}" for name, value in asked.ours.settings.items()]
        words += ["--set", ",".join(pairs)]
    words += ["--device", asked.device] if asked.device != "cpu" else []
    words += ["--compile"] if asked.compiled else []
    return shlex.join(words + (["--tta"] if tta else []))


def filled(said: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """`said`, and of `default` what it does not say, in what is nested too."""
    inner = {
        name: filled(said[name], value)
        for name, value in default.items()
        if isinstance(value, Mapping) and isinstance(said.get(name), Mapping)
    }
    return {**default, **said, **inner}
