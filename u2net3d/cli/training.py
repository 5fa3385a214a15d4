"""The verbs `train` and `add-domain`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from u2net3d import store
from u2net3d.cli.places import begin
from u2net3d.cli.progress import listener, show_prepared
from u2net3d.cli.say import say
from u2net3d.cli.typed import without_paths
from u2net3d.errors import UsageError
from u2net3d.infer.predict import choose_device
from u2net3d.io.dataset import Dataset, find_dataset, find_datasets, split
from u2net3d.losses import LOSSES
from u2net3d.models.named import model_of
from u2net3d.prep.cache import default_cache
from u2net3d.spec import (
    PRESET_STEPS,
    RECIPES,
    STEPS_PER_DOMAIN,
    TrainSpec,
    bank_recipe,
)
from u2net3d.train.add_domain import add_domain as add
from u2net3d.train.folds import each_fold, require_folds
from u2net3d.train.roles import Result
from u2net3d.train.run import Request, train_model
from u2net3d.train.update_domain import Update
from u2net3d.train.update_domain import update_domain as update_bank

MOST_FOLDS = 99  # of a splits_final.json; without one there are five
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Options:
    """The options that `train` and `add-domain` share, as typed."""

    model: Path
    steps: int | None
    time: str | None
    fold: str
    device: str
    resume: bool
    overwrite: bool
    seed: int
    cache: Path | None
    elastic: bool = False
    loss: str | None = None


def train(names: list[str], data: Path, preset: str, options: Options) -> None:
    """Trains a new model, or one per fold, and says where it is."""
    if not all(name.strip() for name in names):
        raise UsageError("--domains", f"'{','.join(names)}' holds an empty name", "write a,b,c")
    asked = model_of(preset)
    folds = folds_of(options.fold)
    request = _request(options, _recipe(asked.preset, len(names)))
    datasets = find_datasets(data, names)
    if (edge := request.spec.cube) and request.device.type == "cpu":
        say(f"{preset}: two patches of {edge}³ voxels a step, as published; it is meant for a GPU")

    def one(request: Request) -> None:
        with listener([dataset.domain for dataset in datasets]) as watching:
            result, manifest = train_model(datasets, asked, request, watching, say, show_prepared)
        _report(request.model, request.model / "runs" / "train", result, manifest)

    if folds:
        _require_sides(datasets, folds)
        each_fold(folds, "train", request, say, one)
        return
    if known := store.read_folds(options.model):
        there = ",".join(map(str, known.folds))
        raise UsageError("--model", f"{options.model} holds folds", f"use --fold {there}")
    one(request)


def add_domain(
    name: str,
    data: Path,
    patients: int | None,
    init: str | None,
    options: Options,
    *,
    begins: bool = False,
) -> None:
    """Adds a domain to a model, or to each of its folds; says that the others did not change.

    begins: where there is no model yet, it becomes a copy of the one that ships.
    """
    source = store.default_model() if begins and not options.resume else options.model
    folds = _folds_in(source, options)
    request = _request(options, _recipe_of_bank(source))
    dataset = find_dataset(data, name)
    if source != options.model:
        begin(source, options.model, dataset.domain, replacing=options.overwrite)

    def one(request: Request) -> None:
        with listener([dataset.domain]) as watching:
            result, manifest = add(dataset, request, init, patients, watching, say, show_prepared)
        _report(request.model, request.model / "runs" / f"add-{dataset.domain}", result, manifest)
        say(f"trunk {manifest.trunk_id[:12]} and every other domain: not a byte changed")

    if folds:
        _require_sides([dataset], folds)
        each_fold(folds, f"add-{dataset.domain}", request, say, one)
    else:
        one(request)


def update_domain(name: str, data: Path, init: str | None, force: bool, options: Options) -> None:
    """Trains a domain further, or anew, and replaces its bank; the others do not change."""
    _require_one_fold(options.model, options.fold)
    recipe = _recipe_of_bank(options.model)
    if init is None:
        further = _recipe(_preset_of(options.model))
        # it has left the background long ago
        recipe = further.model_copy(update={"balanced_share": 0.0})
    request = _request(options, recipe)
    dataset = find_dataset(data, name)
    update = Update(dataset, init, force)
    with listener([dataset.domain]) as watching:
        result, manifest = update_bank(update, request, watching, say, show_prepared)
    _report(options.model, options.model / "runs", result, manifest)
    say(f"replaced; `u2net3d rollback {dataset.domain}` brings the old bank back")


def _folds_in(model: Path, options: Options) -> list[int]:
    """The folds of a model that a domain is to be added to; none of a single model."""
    known = store.read_folds(model)
    if known and options.fold == "0":
        return list(known.folds)
    if known:
        folds = folds_of(options.fold)
        require_folds(model, folds)
        return folds
    _require_one_fold(model, options.fold)
    return []


def _recipe_of_bank(model: Path) -> TrainSpec:
    """How a new bank is trained on the trunk of a model."""
    preset = _preset_of(model)
    return _of_length(bank_recipe(preset), preset)


def _recipe(preset: str, domains: int = 1) -> TrainSpec:
    """The preset's own recipe where it has one, else the default; its steps for `domains`."""
    return _of_length(RECIPES.get(preset, TrainSpec()), preset, domains)


def _of_length(recipe: TrainSpec, preset: str, domains: int = 1) -> TrainSpec:
    """As long as the preset's steps for `domains` are."""
    steps = PRESET_STEPS.get(preset, STEPS_PER_DOMAIN) * domains
    return recipe.model_copy(update={"steps": steps})


def _preset_of(model: Path) -> str:
    """The preset of a model, or of the first of its folds. Raises ModelError for no model."""
    return store.read_manifest(store.models_in(model)[0]).model.preset


def _require_one_fold(model: Path, fold: str) -> None:
    """Raises ModelError where there is no single model, UsageError for several folds of one."""
    store.read_manifest(model)
    if folds := folds_of(fold):
        require_folds(model, folds)


def _require_sides(datasets: Sequence[Dataset], folds: Sequence[int]) -> None:
    """Raises UsageError for a fold there is not, before the first one takes its hours."""
    for dataset in datasets:
        for fold in folds:
            split(dataset, fold)


def seconds_of(text: str) -> float:
    """`90s`, `30m`, `1.5h` in seconds; a bare number is minutes. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip().lower())
    if not match or float(match[1]) == 0:
        raise UsageError("--time", f"'{text}' is no duration", "write 90s, 30m or 1.5h")
    return float(match[1]) * _UNITS[match[2] or "m"]


def _request(options: Options, preset: TrainSpec) -> Request:
    if options.model.is_file():
        raise UsageError("--model", f"{options.model} is a file, not a folder", "name a folder")
    if options.steps and options.time:
        raise UsageError("--time", "--steps is given as well", "give one of the two")
    if options.loss is not None and options.loss not in LOSSES:
        what = f"there is no loss '{options.loss}'"
        raise UsageError("--loss", what, f"use one of {', '.join(LOSSES)}")
    spec = preset.model_copy(
        update={
            "steps": options.steps or preset.steps,
            "time_s": seconds_of(options.time) if options.time else None,
            "seed": options.seed,
            "fold": _fold(options.fold),
            "elastic": options.elastic or preset.elastic,
            "loss": options.loss or preset.loss,
        }
    )
    return Request(
        model=options.model,
        spec=spec,
        device=choose_device(options.device),
        cache=options.cache or default_cache(),
        resume=options.resume,
        overwrite=options.overwrite,
        command=without_paths(sys.argv[1:]),
    )


def folds_of(text: str) -> list[int]:
    """`0,2` and `0-4` as folds in order; nothing for a single one. Raises UsageError."""
    if not re.fullmatch(r"\d+-\d+|\d+(,\d+)+", text):
        return []
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if max(numbers) > MOST_FOLDS or numbers != sorted(set(numbers)):
        raise UsageError("--fold", f"'{text}' are no folds in order", "write 0-4 or 0,2")
    return [*range(numbers[0], numbers[1] + 1)] if "-" in text else numbers


def _fold(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if folds := folds_of(text):
        return folds[0]
    if not text.isdecimal():
        raise UsageError("--fold", f"'{text}' is no fold", "use 0 to 4, some (0,2 or 0-4), or all")
    return int(text)


def _report(model: Path, run: Path, result: Result, manifest: store.Manifest) -> None:
    for name, score in result.scores.items():
        values = ", ".join(
            f"{label} {value:.3f}" if value is not None else f"{label} absent"
            for label, value in score.per_label().items()
        )
        say(f"{name}: validation Dice {score.mean:.3f} on {len(score.cases)} cases ({values})")
    minutes = result.seconds / 60
    say(f"best of {result.steps} steps in {minutes:.1f} min: step {result.step}")
    say(f"model: {model} ({len(manifest.domains)} domains); curves and pictures: {run}")
