"""What is settled before a run of a comparison begins: recipe, cases, plans, the budget's steps."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from compare_rows import Asked

from u2net3d import files, spec
from u2net3d.errors import UsageError
from u2net3d.io.dataset import Dataset, find_dataset, split
from u2net3d.losses import LOSSES, supervised
from u2net3d.models.network import Network
from u2net3d.prep.cache import default_cache
from u2net3d.spec import DomainSpec, Frozen, ModelSpec, TrainSpec
from u2net3d.train.optimiser import optimiser_for
from u2net3d.train.roles import Result
from u2net3d.train.run import Request, fresh_net, train_model

# What is measured before a run begins, behind one step that pays for memory: so many steps and
ROUNDS, LEAST_S, MOST_S = 8, 10.0, 40.0  # so long, where that is not too long


class Settled(Frozen):
    """What a run decided before its first step, so that it is the same when it is taken up again.

    step_s: seconds of a step of each domain; steps: where the budget is processor time.
    """

    step_s: dict[str, float]
    steps: int | None
    peak_gib: float | None = None


def recipe(asked: Asked, steps: int | None) -> TrainSpec:
    """How the run trains. Raises UsageError for a field that TrainSpec does not have."""
    own = getattr(spec, "RECIPES", {}).get(asked.preset.partition(":")[0], TrainSpec())
    base = own if asked.recipe == "own" else TrainSpec()
    many, budget = len(asked.domains), asked.budget
    by_steps = round(budget.amount) * many if budget.kind == "steps" else steps
    changes: dict[str, Any] = {
        "steps": by_steps or base.steps,
        "time_s": budget.amount * many if budget.kind == "time" else None,
        "seed": asked.seed,
        "fold": asked.fold,
        "validations": asked.validations,
        **asked.training,
    }
    if unknown := sorted(changes.keys() - TrainSpec.model_fields.keys()):
        raise UsageError("--set", f"training has no '{unknown[0]}'", "see TrainSpec in spec.py")
    return TrainSpec.model_validate({**base.model_dump(), **changes})


def few(dataset: Dataset, asked: Asked, folder: Path) -> Dataset:
    """The data set with the first patients alone to learn from, and the same cases to judge by.

    Links in `folder` and a splits_final.json of their own. The order is that of `add-domain
    --cases`: by hash, since names are often in the order of sites or scanners.
    """
    if asked.cases is None:
        return dataset
    sides = split(dataset, asked.fold)
    patients = sorted({case.patient for case in sides.training}, key=files.sha256_json)
    if asked.cases > len(patients):
        what = f"{asked.cases} asked for, {dataset.domain} has {len(patients)} patients to learn of"
        raise UsageError("--cases", what, f"use 1 to {len(patients)}")
    kept = set(patients[: asked.cases])
    view = folder / "data" / dataset.root.name
    view.mkdir(parents=True, exist_ok=True)
    for path in dataset.root.iterdir():
        link = view / path.name
        if path.name != "splits_final.json" and not link.is_symlink():
            link.symlink_to(path.resolve())
    fold = {
        "train": [case.name for case in sides.training if case.patient in kept],
        "val": [case.name for case in sides.validation],
    }
    files.write_json(view / "splits_final.json", [fold] * (asked.fold + 1))
    return find_dataset(folder, f"{dataset.domain}={view}")


def settle(datasets: list[Dataset], asked: Asked, folder: Path, device: torch.device) -> Settled:
    """The time of a step of every domain, measured once, and the steps that a budget makes."""
    path = folder / "settled.json"
    if path.exists():
        return Settled.model_validate_json(path.read_text())
    model, specs = planned(datasets, asked, folder, device)
    net = fresh_net(model, specs, asked.seed).to(device)
    taken = {name: step_seconds(net, found, recipe(asked, 1)) for name, found in specs.items()}
    rounds = asked.budget.amount * len(specs) / sum(taken.values())
    steps = max(1, round(rounds * len(specs))) if asked.budget.kind == "cpu" else None
    found = Settled(step_s={name: round(s, 5) for name, s in taken.items()}, steps=steps)
    files.write_json(path, found.model_dump(mode="json"))
    return found


class Enough(Exception):
    """A probe has seen what it was made for."""


def planned(
    datasets: list[Dataset], asked: Asked, folder: Path, device: torch.device
) -> tuple[ModelSpec, dict[str, DomainSpec]]:
    """The network and the domains as training itself plans them: it is ended behind a first step.

    So whatever a family or a recipe asks of a plan is in it; the prepared cases stay in the cache.
    """
    place = folder / "probe"
    endless = recipe(asked, 1).model_copy(update={"time_s": 1e6})
    with suppress(Enough):
        trained_by(
            datasets,
            request_of(asked, endless, place, device),
            asked.model,
            Probe(),
            nothing,
            nothing,
        )
    said = json.loads((place / "runs" / "train" / "run.json").read_text())
    shutil.rmtree(place)
    specs = {name: each["specification"] for name, each in said["domains"].items()}
    found = {name: DomainSpec.model_validate(one) for name, one in specs.items()}
    return ModelSpec.model_validate(said["model"]), found


def step_seconds(net: Network, found: DomainSpec, training: TrainSpec) -> float:
    """Seconds of one training step of a domain on noise, the median of some; the net is spent."""
    device = next(net.parameters()).device
    optimiser = optimiser_for(net.train(), training)
    plan = found.plan
    seen = getattr(plan, "seen", plan.patch_size)  # with what lies around the patch
    image = torch.randn((plan.batch_size, len(found.channels), *seen), device=device)
    label = torch.randint(len(found.labels), (plan.batch_size, *seen), device=device)
    times: list[float] = []
    while (len(times) <= ROUNDS or sum(times[1:]) < LEAST_S) and sum(times[1:]) < MOST_S:
        began = clock(device)()
        optimiser.zero_grad(set_to_none=True)
        loss = supervised(LOSSES[training.loss], net(image, found.name), label)
        loss.backward()
        optimiser.step()
        loss.item()  # waits for a GPU
        times.append(clock(device)() - began)
    return statistics.median(times[1:] or times)


def clock(device: torch.device) -> Callable[[], float]:
    """Processor seconds of all threads; on a GPU the clock.

    Other programs change both: they take caches and memory, and the core's other half.
    """
    return time.process_time if device.type == "cpu" else time.perf_counter


def request_of(asked: Asked, training: TrainSpec, model: Path, device: torch.device) -> Request:
    """A training that begins anew, whatever lies in the model's folder."""
    return Request(
        model=model,
        spec=training,
        device=device,
        cache=default_cache(),
        resume=False,
        overwrite=True,
        command=f"scripts/compare {asked.preset}",
    )


def trained_by(datasets: list[Dataset], request: Request, model: Any, *rest: Any) -> Result:
    return train_model(datasets, model, request, *rest)[0]


class Probe:
    """Ends a training behind its first step."""

    def stepped(self, *_: object) -> None:
        raise Enough

    def validated(self, *_: object) -> None: ...

    def told(self, *_: object) -> None: ...


def nothing(*_: object) -> None: ...
