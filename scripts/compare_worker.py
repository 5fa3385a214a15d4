"""One run of a comparison, in a process of its own: trains, judges, and leaves its rows in a file.

All of it lies in one folder: job.json (what was asked, and what was settled before the first step),
the model with its checkpoints, and at the end rows.json. A worker that finds a checkpoint there
goes on from it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from compare_judge import Judge, Trained, outcome_of, peak_gib
from compare_levels import levels_of
from compare_rows import Asked, Row

from u2net3d import files, spec, store
from u2net3d.errors import TrainingError, U2Net3dError, UsageError
from u2net3d.infer.predict import choose_device
from u2net3d.io.dataset import Dataset, find_dataset, find_datasets, split
from u2net3d.losses import LOSSES, supervised
from u2net3d.models.network import Network
from u2net3d.ops.memory import keep_freed_memory
from u2net3d.prep.cache import default_cache
from u2net3d.prep.plan import domain_spec
from u2net3d.spec import DomainSpec, Frozen, TrainSpec
from u2net3d.train import checkpoint
from u2net3d.train.history import History
from u2net3d.train.optimiser import optimiser_for
from u2net3d.train.roles import Result
from u2net3d.train.run import Request, fresh_net, train_model
from u2net3d.train.schedule import Progress
from u2net3d.train.validate import DomainScore

ROUNDS = 5  # measured steps before a run begins, behind one that pays for memory
MOST_S = 60.0  # of measuring: a network whose step is dearer has fewer


class Settled(Frozen):
    """What a run decided before its first step, so that it is the same when it is taken up again.

    step_s: seconds of a step of each domain; steps: where the budget is processor time.
    """

    step_s: dict[str, float]
    steps: int | None
    peak_gib: float | None = None


class Job(Frozen):
    """What a worker is to do. data: the folder of data sets; domains as typed, name=PATH too."""

    asked: Asked
    data: Path
    domains: tuple[str, ...]
    machine: str
    versions: dict[str, str]
    keep_quiet: bool = False


def work(job: Job, folder: Path) -> list[Row]:
    """Does the job in `folder`, or goes on with it; its rows, which lie in rows.json too.

    Raises what training raises; Stopped after a checkpoint.
    """
    keep_freed_memory()
    asked = job.asked
    device = choose_device(asked.device)
    datasets = [_few(each, asked, folder) for each in find_datasets(job.data, job.domains)]
    settled = _settled(datasets, asked, folder, device)
    try:
        result = _trained(datasets, asked, settled, folder, device, job)
    finally:
        peak = max(settled.peak_gib or 0.0, peak_gib() or 0.0) or None
        files.write_json(
            folder / "settled.json", {**settled.model_dump(mode="json"), "peak_gib": peak}
        )
    rows = _rows(job, datasets, settled.model_copy(update={"peak_gib": peak}), result, folder)
    files.write_json(folder / "rows.json", [row.model_dump(mode="json") for row in rows])
    return rows


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


def _few(dataset: Dataset, asked: Asked, folder: Path) -> Dataset:
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


def _settled(datasets: list[Dataset], asked: Asked, folder: Path, device: torch.device) -> Settled:
    """The time of a step of every domain, measured once, and the steps that a budget makes."""
    path = folder / "settled.json"
    if path.exists():
        return Settled.model_validate_json(path.read_text())
    specs = {
        each.domain: domain_spec(each, split(each, asked.fold).training, asked.model.stages)
        for each in datasets
    }
    stages = max(found.plan.stages for found in specs.values())
    net = fresh_net(asked.model.model_copy(update={"stages": stages}), specs, asked.seed).to(device)
    taken = {name: step_seconds(net, found, recipe(asked, 1)) for name, found in specs.items()}
    rounds = asked.budget.amount * len(specs) / sum(taken.values())
    steps = max(1, round(rounds * len(specs))) if asked.budget.kind == "cpu" else None
    found = Settled(step_s={name: round(s, 5) for name, s in taken.items()}, steps=steps)
    files.write_json(path, found.model_dump(mode="json"))
    return found


def step_seconds(net: Network, found: DomainSpec, training: TrainSpec) -> float:
    """Seconds of one training step of a domain on noise, the median of some; the net is spent."""
    device = next(net.parameters()).device
    optimiser = optimiser_for(net.train(), training)
    plan = found.plan
    seen = getattr(plan, "seen", plan.patch_size)  # with what lies around the patch
    image = torch.randn((plan.batch_size, len(found.channels), *seen), device=device)
    size = (plan.batch_size, *plan.patch_size)
    label = torch.randint(len(found.labels), size, device=device)
    times: list[float] = []
    while len(times) <= ROUNDS and sum(times) < MOST_S:
        began = clock(device)()
        optimiser.zero_grad(set_to_none=True)
        loss = supervised(LOSSES[training.loss], net(image, found.name), label)
        loss.backward()
        optimiser.step()
        loss.item()  # waits for a GPU
        times.append(clock(device)() - began)
    return statistics.median(times[1:] or times)


def clock(device: torch.device) -> Callable[[], float]:
    """Processor seconds of all threads, which other programs do not change; on a GPU the clock."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def _trained(
    datasets: list[Dataset],
    asked: Asked,
    settled: Settled,
    folder: Path,
    device: torch.device,
    job: Job,
) -> Result:
    """Trains by the package's own door; from the checkpoint where there is one that fits."""
    request = Request(
        model=folder / "model",
        spec=recipe(asked, settled.steps),
        device=device,
        cache=default_cache(),
        resume=bool(checkpoint.generations(folder / "model" / "runs" / "train")),
        overwrite=False,
        command=f"scripts/compare {asked.preset}",
    )
    listener = Listener(asked, quiet=job.keep_quiet)
    plain = (asked.model, listener, _nothing, _nothing)
    if request.resume:
        try:
            return _train(datasets, request, *plain)
        except TrainingError as error:
            listener.told(f"begun anew: {error}")
    begun = {field.name: getattr(request, field.name) for field in fields(request)}
    anew = Request(**{**begun, "resume": False, "overwrite": True})
    return _train(datasets, anew, *plain)


def _train(datasets: list[Dataset], request: Request, model: Any, *rest: Any) -> Result:
    return train_model(datasets, model, request, *rest)[0]


def _rows(
    job: Job, datasets: list[Dataset], settled: Settled, result: Result, folder: Path
) -> list[Row]:
    """The run's row, and one for every level that its network can be cut down to."""
    asked = job.asked
    net, model, specs = store.load(folder / "model")
    device = choose_device(asked.device)
    net.to(device)
    history = History(folder / "model" / "runs" / "train").rows()
    state = "last" if asked.validations == 1 else f"best of {asked.validations} validations"
    shared: dict[str, Any] = {
        "asked": asked, "state": state, "steps": result.steps, "seconds": round(result.seconds, 1),
        "peak_gib": settled.peak_gib, "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": job.versions, "machine": job.machine,
    }  # fmt: skip
    rows = []
    for level in (None, *levels_of(net, specs)):
        outcomes, trunk = {}, 0
        for each in datasets:
            name = each.domain
            if level is not None and level not in levels_of(net, [name]):
                continue
            judge = Judge(net, model, specs[name], each, device, clock(device), level)
            training = Trained(
                score=result.scores.get(name) if level is None else None,
                step_s=settled.step_s[name],
                history=history if level is None else [],
            )
            outcomes[name], part = outcome_of(judge, split(each, asked.fold), training)
            trunk = max(trunk, part)
        rows.append(Row(level=level, trunk=trunk, outcomes=outcomes, **shared))
    return rows


class Listener:
    """Says a line a minute, each validation, and what is out of the ordinary."""

    def __init__(self, asked: Asked, *, quiet: bool) -> None:
        self.asked, self.quiet, self.said_at = asked, quiet, time.monotonic()

    def stepped(self, at: Progress, share: float, domain: str, loss: float) -> None:
        if time.monotonic() - self.said_at > 60:
            self.said_at = time.monotonic()
            self.told(f"{share:.0%}, step {at.step}, {domain} loss {loss:.3f}")

    def validated(self, at: Progress, scores: dict[str, DomainScore], best: bool) -> None:
        del best
        dice = ", ".join(f"{name} {score.mean:.3f}" for name, score in scores.items())
        self.told(f"step {at.step}: Dice {dice}")

    def told(self, text: str) -> None:
        if not self.quiet:
            print(f"{self.asked.preset}, seed {self.asked.seed}: {text}", file=sys.stderr)


def _nothing(*_: object) -> None: ...


def main() -> None:
    folder = Path(sys.argv[1])
    job = Job.model_validate(json.loads((folder / "job.json").read_text()))
    torch.set_num_threads(job.asked.budget.threads or torch.get_num_threads())
    try:
        work(job, folder)
    except U2Net3dError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        print(f"{job.asked.preset}: {stop}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
