"""From data sets to a trained model: what `u2net3d train` does."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from u2net3d import files, store
from u2net3d.errors import UsageError
from u2net3d.io.dataset import Dataset, Split, source_hashes, split
from u2net3d.losses import BORDERED
from u2net3d.models import network
from u2net3d.models.network import BankShape, Network
from u2net3d.patches.loader import DomainLoader
from u2net3d.prep.cache import PreparedCase, prepare_cases
from u2net3d.prep.plan import Say
from u2net3d.spec import DomainSpec, ModelSpec, TrainSpec
from u2net3d.train import checkpoint
from u2net3d.train.cleanup import helpful_cleanup
from u2net3d.train.estimate import patch_seconds, step_seconds, tiles_of
from u2net3d.train.interrupt import held_back
from u2net3d.train.levels import levels_of
from u2net3d.train.loop import train
from u2net3d.train.memory import expected_gib
from u2net3d.train.pictures import draw_cases
from u2net3d.train.planned import planned
from u2net3d.train.roles import Learner, Listener, Result, Run
from u2net3d.train.running import Mark, running

Counted = Callable[[int, int], None]  # cases done, of how many
Prepared = Callable[[str, str, int, int], None]  # domain, what was done, to how many of all cases
_PACKAGES = ("u2net3d", "torch", "numpy", "nibabel", "nnunetv2", "monai")


@dataclass(frozen=True)
class Request:
    """What a training command asked for. model: the folder; cache: None keeps cases in memory."""

    model: Path
    spec: TrainSpec
    device: torch.device
    cache: Path | None
    resume: bool
    overwrite: bool
    command: str


def train_model(
    datasets: Sequence[Dataset],
    model: ModelSpec,
    request: Request,
    listener: Listener,
    say: Say,
    prepared: Prepared,
) -> tuple[Result, store.Manifest]:
    """Plans, trains and saves a new model; its run is kept in <model>/runs/train.

    model.stages is the most a trunk may have; it gets as many as its deepest domain. Raises
    UsageError where a model is there already, and what data, plans and training raise.
    """
    folder = request.model / "runs" / "train"
    require_free(request.model, folder, request, [dataset.domain for dataset in datasets])
    with running(request.model, folder.name, say) as mark:
        return _train_model(datasets, model, request, listener, say, prepared, folder, mark)


def _train_model(
    datasets: Sequence[Dataset],
    model: ModelSpec,
    request: Request,
    listener: Listener,
    say: Say,
    prepared: Prepared,
    folder: Path,
    mark: Mark,
) -> tuple[Result, store.Manifest]:
    splits = {dataset.domain: split(dataset, request.spec.fold) for dataset in datasets}
    specs = {
        dataset.domain: planned(
            dataset,
            splits[dataset.domain].training,
            model,
            request.spec.cube,
            counted(dataset, prepared, "measured"),
            say,
        )
        for dataset in datasets
    }
    model = model.model_copy(update={"stages": max(spec.plan.stages for spec in specs.values())})
    net = fresh_net(model, specs, request.spec.seed)
    learners = tuple(
        learner(dataset, specs[dataset.domain], splits[dataset.domain], request, prepared)
        for dataset in datasets
    )
    data = {each.spec.name: data_sha256(each) for each in learners}
    decided: dict[str, dict[str, Any]] = {}  # what is decided at the end, for the cards

    def keep(net: Network, result: Result) -> None:
        cards = {
            each.spec.name: card(each, result, request.spec) | decided.get(each.spec.name, {})
            for each in learners
        }
        store.save_model(request.model, net, model, specs, cards, data)

    run = Run(
        spec=request.spec,
        learners=learners,
        folder=folder,
        identity=identity(model, learners, request.spec, "train"),
        device=request.device,
        keep=keep,
    )
    begin(run, model, request, say, net, mark)
    result = train(net, run, listener, resume=request.resume)
    decided |= {each.spec.name: of_the_end(net, each, run.device) for each in learners}
    with held_back():  # a model is several files
        keep(net, result)  # the card of the end: steps and seconds of the whole run
    draw_cases(net, run, result)
    return result, store.read_manifest(request.model)


def fresh_net(model: ModelSpec, specs: dict[str, DomainSpec], seed: int) -> Network:
    """A network with He-initialised trunk and banks; the same seed gives the same weights.

    Raises UsageError for a domain whose patches are never halved under a preset that begins there.
    """
    for name, spec in specs.items():
        if spec.plan.stages <= model.design.first_stage:
            what = f"the patches of {name} are too small to be halved even once"
            raise UsageError("--preset", what, "train with --preset paper")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network(model)
        for name, spec in specs.items():
            net.add_bank(name, BankShape.of(spec))
    return net


def learner(
    dataset: Dataset, spec: DomainSpec, cases: Split, request: Request, prepared: Prepared
) -> Learner:
    """A domain with its training cases prepared (or taken from the cache)."""
    ready = prepare_cases(
        dataset, cases.training, spec.plan, request.cache, counted(dataset, prepared, "prepared")
    )
    loader = loader_of(spec, ready, request.spec)
    return Learner(spec, dataset, loader, cases.validation)


def loader_of(spec: DomainSpec, cases: Sequence[PreparedCase], training: TrainSpec) -> DomainLoader:
    """The batches of a domain as this training wants them."""
    return DomainLoader(
        spec,
        cases,
        training.seed,
        training.foreground_share,
        border=training.loss in BORDERED,
        elastic=training.elastic,
    )


def require_free(model: Path, folder: Path, request: Request, domains: Sequence[str]) -> None:
    """Raises UsageError where work would be overwritten, or cannot be written at all.

    Asked before any case is read; TrainingError where there is no checkpoint to resume from.
    """
    store.require_own(model)
    files.require_writable(model, "--model")
    holds_model = (model / store.MANIFEST).exists() and folder.name == "train"
    if request.resume:
        checkpoint.require(folder)
        later = set[str]()
        if holds_model:
            later = {*(set(store.read_domains(model)) - {*domains}), *store.not_of_training(model)}
        if later:
            what = f"{', '.join(sorted(later))} stands on the trunk that would be trained on"
            raise UsageError("--resume", what, "begin anew in another --model")
    if request.resume or request.overwrite:
        return
    if holds_model:
        mend = "add to it with `u2net3d add-domain`, go on with --resume, or give --overwrite"
        raise UsageError("--model", f"{model} holds a model already", mend)
    if checkpoint.generations(folder):
        mend = "go on with --resume, or begin anew with --overwrite"
        raise UsageError("--model", f"{folder} holds an earlier run", mend)


def identity(model: ModelSpec, learners: Sequence[Learner], spec: TrainSpec, kind: str) -> str:
    """Hash of all that must be the same for a run to be taken up again."""
    return files.sha256_json(
        {
            "kind": kind,
            "model": model.model_dump(mode="json"),
            "training": spec.model_dump(mode="json"),
            "domains": [learner.spec.model_dump(mode="json") for learner in learners],
            "cases": [_contents(learner) for learner in learners],
        }
    )


def data_sha256(learner: Learner) -> str:
    """Hash of the content of all that a domain learns from and is judged by; no name is in it."""
    return files.sha256_json([sorted(side.values()) for side in _contents(learner)])


def _contents(learner: Learner) -> list[dict[str, str]]:
    """name -> hash of the content, of the cases to learn from and of those to judge by."""
    return [
        {case.name: case.content for case in learner.loader.cases},
        {case.name: files.sha256_json(source_hashes(case)) for case in learner.validation},
    ]


def begin(run: Run, model: ModelSpec, request: Request, say: Say, net: Network, mark: Mark) -> None:
    """Clears what an overwritten run left, writes run.json, and says how long it will take.

    A resumed run keeps its first run.json: one that is about to be refused must not rewrite it.
    """
    if not request.resume:
        checkpoint.clear(run.folder)
        for name in ("history.jsonl", "progress.png"):
            (run.folder / name).unlink(missing_ok=True)
        files.write_json(run.folder / "run.json", description(run, model, request))
    for each in run.learners:
        plan = each.spec.plan
        size = "×".join(map(str, plan.patch_size))
        say(
            f"{each.spec.name}: {len(each.loader.cases)} cases to learn from, "
            f"{len(each.validation)} to judge by; patch {size} × {plan.batch_size}, "
            f"{plan.stages} stages"
        )
    memory = expected_gib(run.learners, model)
    mark.says(memory)
    say(f"memory: about {memory:.1f} GiB")
    if request.resume:
        say("going on from the last checkpoint")
    elif run.spec.time_s is None:
        say("timing a trial step of each domain")
        minutes = expected_seconds(net, run) / 60
        say(f"{run.spec.steps} steps, about {minutes:.0f} min with their validations")


def description(run: Run, model: ModelSpec, request: Request) -> dict[str, Any]:
    """What run.json holds: command, versions, machine, seed, split, plans."""
    return {
        "command": request.command,
        "versions": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": str(run.device),
        "identity": run.identity,
        "model": model.model_dump(mode="json"),
        "training": run.spec.model_dump(mode="json"),
        "domains": {
            learner.spec.name: {
                "specification": learner.spec.model_dump(mode="json"),
                "training": [case.name for case in learner.loader.cases],
                "validation": _names(learner),
            }
            for learner in run.learners
        },
        **run.said,
    }


def expected_seconds(net: Network, run: Run) -> float:
    """Seconds of a run's steps and validations, from a trial step and patch of each domain."""
    net.to(run.device)
    steps = [step_seconds(net, each.spec, run.spec.loss, run.device) for each in run.learners]
    validation = sum(_validation_seconds(net, each, run.device) for each in run.learners)
    net.train()
    validations = min(run.spec.validations, run.spec.steps)
    return sum(steps) / len(steps) * run.spec.steps + validation * validations


def _validation_seconds(net: Network, each: Learner, device: torch.device) -> float:
    """Of one validation: its cases are taken to be as large as those to learn from."""
    sizes = [tiles_of(case.label.shape, each.spec) for case in each.loader.cases]
    tiles = float(np.median(sizes)) * len(each.validation)
    return patch_seconds(net, each.spec, device) * tiles if tiles else 0.0


def card(learner: Learner, result: Result, spec: TrainSpec) -> dict[str, Any]:
    """How a bank was trained and how well it did, as stored in its file."""
    score = result.scores.get(learner.spec.name)
    return {
        "dataset": dict(learner.dataset.facts),
        "training_cases": len(learner.loader.cases),
        "largest_image_mm": largest_image_mm(learner),
        "validation_cases": len(learner.validation),
        "fold": spec.fold,
        "seed": spec.seed,
        "steps": result.steps,
        "best_step": result.step,
        "seconds": round(result.seconds),
        "validation_dice": score.per_label() if score else {},
        "dice_of_cases": score.of_cases() if score else {},
        "largest_component": [],
    }


def largest_image_mm(learner: Learner) -> list[float]:
    """The most that the cases to learn from measure (D, H, W), without margins of zeros."""
    shapes = np.array([case.label.shape for case in learner.loader.cases])
    return [round(float(mm), 1) for mm in shapes.max(0) * learner.spec.plan.spacing_mm]


def of_the_end(net: Network, learner: Learner, device: torch.device) -> dict[str, Any]:
    """What a card says besides when training is over, by the whole validation volumes.

    largest_component: the labels of which `predict` keeps the largest component alone; levels: of a
    network that answers at several depths.
    """
    said: dict[str, Any] = {"largest_component": helpful_cleanup(net, learner, device)}
    levels = levels_of(net, learner, device)
    return said if levels is None else said | {"levels": levels.model_dump(mode="json")}


def counted(dataset: Dataset, prepared: Prepared, what: str) -> Counted:
    """Tells `prepared` of a domain's cases as they are done."""
    return lambda done, total: prepared(dataset.domain, what, done, total)


def _names(learner: Learner) -> list[str]:
    return [case.name for case in learner.validation]


def _version(package: str) -> str | Literal["unknown"]:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "unknown"
