"""From data sets to a trained model: what `u2net3d train` does."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from u2net3d import files, store
from u2net3d.errors import UsageError
from u2net3d.io.dataset import Dataset, Split, split
from u2net3d.losses import LOSSES, supervised
from u2net3d.models.banks import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.patches.loader import DomainLoader
from u2net3d.prep.cache import prepare_cases
from u2net3d.prep.plan import domain_spec, expected_memory_bytes
from u2net3d.spec import DomainSpec, ModelSpec, TrainSpec
from u2net3d.train import checkpoint
from u2net3d.train.loop import Learner, Listener, Result, Run, train
from u2net3d.train.pictures import draw_cases

Say = Callable[[str], None]
Prepared = Callable[[str, int, int], None]  # domain, cases done, of how many
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
    splits = {dataset.domain: split(dataset, request.spec.fold) for dataset in datasets}
    specs = {
        dataset.domain: domain_spec(
            dataset,
            splits[dataset.domain].training,
            model.stages,
            progress=_named(dataset, prepared),
        )
        for dataset in datasets
    }
    model = model.model_copy(update={"stages": max(spec.plan.stages for spec in specs.values())})
    net = fresh_net(model, specs, request.spec.seed)
    learners = tuple(
        learner(dataset, specs[dataset.domain], splits[dataset.domain], request, prepared)
        for dataset in datasets
    )

    def keep(net: UniversalNet, result: Result) -> None:
        cards = {learner.spec.name: card(learner, result, request.spec) for learner in learners}
        store.save_model(request.model, net, model, specs, cards)

    run = Run(
        spec=request.spec,
        learners=learners,
        folder=folder,
        identity=identity(model, learners, request.spec, "train"),
        device=request.device,
        keep=keep,
    )
    begin(run, model, request, say, net)
    result = train(net, run, listener, resume=request.resume)
    keep(net, result)  # the card of the end: steps and seconds of the whole run
    draw_cases(net, run, result)
    return result, store.read_manifest(request.model)


def fresh_net(model: ModelSpec, specs: dict[str, DomainSpec], seed: int) -> UniversalNet:
    """A network with He-initialised trunk and banks; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = UniversalNet(model.base_channels, model.stages)
        for name, spec in specs.items():
            net.add_bank(name, BankShape.of(spec))
    return net


def learner(
    dataset: Dataset, spec: DomainSpec, cases: Split, request: Request, prepared: Prepared
) -> Learner:
    """A domain with its training cases prepared (or taken from the cache)."""
    ready = prepare_cases(
        dataset, cases.training, spec.plan, request.cache, _named(dataset, prepared)
    )
    loader = DomainLoader(spec, ready, request.spec.seed, request.spec.foreground_share)
    return Learner(spec, dataset, loader, cases.validation)


def require_free(model: Path, folder: Path, request: Request, domains: Sequence[str]) -> None:
    """Raises UsageError where work would be overwritten, or cannot be written at all.

    Asked before any case is read; TrainingError where there is no checkpoint to resume from.
    """
    files.require_writable(model, "--model")
    holds_model = (model / store.MANIFEST).exists() and folder.name == "train"
    if request.resume:
        checkpoint.require(folder)
        later = set(store.read_domains(model)) - set(domains) if holds_model else set()
        if later:
            what = f"{', '.join(sorted(later))} stands on the trunk that would be trained on"
            raise UsageError("--resume", what, "begin anew in another --model")
    if request.resume or request.overwrite:
        return
    if holds_model:
        mend = "add to it with `u2net3d add-domain`, go on with --resume, or give --overwrite"
        raise UsageError("--model", f"{model} holds a model already", mend)
    if (folder / checkpoint.FILE).exists():
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
            "cases": [
                [[[case.name, case.content] for case in learner.loader.cases], _names(learner)]
                for learner in learners
            ],
        }
    )


def begin(run: Run, model: ModelSpec, request: Request, say: Say, net: UniversalNet) -> None:
    """Clears what an overwritten run left, writes run.json, and says how long it will take.

    A resumed run keeps its first run.json: one that is about to be refused must not rewrite it.
    """
    if not request.resume:
        for name in (checkpoint.FILE, "history.jsonl", "progress.png"):
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
    memory = max(
        expected_memory_bytes(
            each.spec.plan,
            base_channels=model.base_channels,
            channels=len(each.spec.channels),
            classes=len(each.spec.labels),
        )
        for each in run.learners
    )
    say(f"memory: about {memory / 2**30:.1f} GiB")
    if request.resume:
        say("going on from the last checkpoint")
    elif run.spec.time_s is None:
        seconds = expected_seconds(net, run)
        say(f"{run.spec.steps} steps, about {seconds / 60:.0f} min and the validations")


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
    }


def expected_seconds(net: UniversalNet, run: Run) -> float:
    """Seconds that the steps of a run will take, from one trial step of each domain."""
    total = 0.0
    net.to(run.device).train()
    for learner in run.learners:
        plan = learner.spec.plan
        shape = (plan.batch_size, len(learner.spec.channels), *plan.patch_size)
        image = torch.zeros(shape, device=run.device)
        target = torch.zeros(shape[0], *shape[2:], dtype=torch.int64, device=run.device)
        for _ in range(2):  # the first one pays for memory
            began = time.perf_counter()
            loss = supervised(LOSSES[run.spec.loss], net(image, learner.spec.name), target)
            loss.backward()  # type: ignore[no-untyped-call]
            last = time.perf_counter() - began
        total += last
    net.zero_grad(set_to_none=True)
    return total / len(run.learners) * run.spec.steps


def card(learner: Learner, result: Result, spec: TrainSpec) -> dict[str, Any]:
    """How a bank was trained and how well it did, as stored in its file."""
    score = result.scores.get(learner.spec.name)
    return {
        "training_cases": len(learner.loader.cases),
        "validation_cases": len(learner.validation),
        "fold": spec.fold,
        "seed": spec.seed,
        "steps": result.steps,
        "best_step": result.step,
        "seconds": round(result.seconds),
        "validation_dice": score.per_label() if score else {},
    }


def _named(dataset: Dataset, prepared: Prepared) -> Callable[[int, int], None]:
    return lambda done, total: prepared(dataset.domain, done, total)


def _names(learner: Learner) -> list[str]:
    return [case.name for case in learner.validation]


def _version(package: str) -> str | Literal["unknown"]:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "unknown"
