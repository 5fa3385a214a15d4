"""One run on few cases, in a process of its own; `scratch` is a run of scripts/compare.

All of it lies in one folder: job.json, links to the few cases, what was settled before the first
step, a copy of the trunk's model with the new domain in it, and at the end row.json. A worker that
finds a checkpoint there goes on from it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import compare_worker
import torch
from compare_judge import peak_gib
from compare_rows import Row
from compare_settle import Settled, clock, few, nothing, recipe, request_of, step_seconds
from few_shot_rows import FewAsked, FewRow
from long_runs import as_worker

from u2net3d import files, store
from u2net3d.errors import TrainingError
from u2net3d.infer.predict import choose_device
from u2net3d.io.dataset import Dataset, find_dataset, split
from u2net3d.models.start import with_new_bank
from u2net3d.ops.memory import keep_freed_memory
from u2net3d.prep.cache import default_cache, prepare_cases
from u2net3d.spec import Frozen, TrainSpec
from u2net3d.train import checkpoint
from u2net3d.train.add_domain import add_domain
from u2net3d.train.nearest import Nearest, halves_of, nearest
from u2net3d.train.planned import planned
from u2net3d.train.roles import Result
from u2net3d.train.run import loader_of


class FewJob(compare_worker.Job):
    """What a worker is to do. trunk: the folder of the run that trained it; None: from nothing."""

    asked: FewAsked
    trunk: Path | None = None


class Begun(Frozen):
    """What was settled before the first step. choice_s: what the choice of a bank took.

    step_s: processor seconds of a step; steps, time_s: what of the budget the choice has left.
    """

    step_s: float
    steps: int | None
    time_s: float | None
    nearest: Nearest | None
    choice_s: float


def work(job: FewJob, folder: Path) -> FewRow:
    """Does the job in `folder`, or goes on with it; its row, which lies in row.json too.

    Raises what training raises; Stopped after a checkpoint.
    """
    keep_freed_memory()
    if job.trunk is None:
        row, more = compare_worker.work(job, folder)[0], dict[str, Any]()
    else:
        row, more = _added(job, job.trunk, folder)
    found = FewRow.model_validate({**dict(row), "asked": job.asked, **more})
    files.write_json(folder / "row.json", found.model_dump(mode="json"))
    return found


def _added(job: FewJob, trunk: Path, folder: Path) -> tuple[Row, dict[str, Any]]:
    """The row of a bank on a trunk, and what a comparison's row does not hold."""
    asked, device = job.asked, choose_device(job.asked.device)
    dataset = few(find_dataset(job.data, job.domains[0]), asked, folder)
    model = _copied(trunk / "model", folder / "model")
    settled = begun(dataset, asked, model, folder, device)
    listener = compare_worker.Listener(asked, quiet=job.keep_quiet)
    result = _trained(dataset, asked, settled, model, device, listener)
    cost = Settled(step_s={asked.domain: settled.step_s}, steps=settled.steps, peak_gib=peak_gib())
    row = compare_worker.rows_of_run(
        job, [dataset], cost, result, folder, run=f"add-{asked.domain}"
    )[0]
    made = Row.model_validate(json.loads((trunk / "rows.json").read_text())[0])
    return row, {
        "nearest": settled.nearest,
        "choice_s": settled.choice_s,
        "trunk_id": store.read_manifest(model).trunk_id,
        "trunk_dice": {name: outcome.dice for name, outcome in made.outcomes.items()},
        "trunk_steps": made.steps,
    }


def _copied(trunk: Path, model: Path) -> Path:
    """The trunk's model without its runs; what is added to the copy the next run does not see."""
    if not model.exists():
        beside = files.temporary_beside(model)
        shutil.copytree(trunk, beside, ignore=shutil.ignore_patterns("runs"))
        beside.rename(model)
    return model


def begun(
    dataset: Dataset, asked: FewAsked, model: Path, folder: Path, device: torch.device
) -> Begun:
    """Settled once: what a step costs, which bank is the nearest, and what that leaves to train."""
    path = folder / "begun.json"
    if path.exists():
        return Begun.model_validate_json(path.read_text())
    net, made, specs = store.load(model)
    net.to(device)
    training, cases = recipe(asked, 1), split(dataset, asked.fold).training
    spec = planned(dataset, cases, made, training.cube, nothing)
    chosen, choice_s = None, 0.0
    if asked.init == "nearest":
        ready = prepare_cases(dataset, cases, spec.plan, default_cache())
        now = clock_of(asked, device)
        began = now()
        halves = halves_of(loader_of(spec, ready, training), cases)
        chosen = nearest(net, spec, specs, [*specs], halves, asked.seed)
        choice_s = round(now() - began, 3)
    net = with_new_bank(net, spec, specs, [], asked.seed, ends=True)
    step_s = step_seconds(net, spec, training)
    left = max(asked.budget.amount - choice_s, 1.0)
    found = Begun(
        step_s=round(step_s, 5),
        steps=max(1, round(left / step_s)) if asked.budget.kind == "cpu" else None,
        time_s=left if asked.budget.kind == "time" else None,
        nearest=chosen,
        choice_s=choice_s,
    )
    files.write_json(path, found.model_dump(mode="json"))
    return found


def clock_of(asked: FewAsked, device: torch.device) -> Callable[[], float]:
    """That by which the budget is counted."""
    return time.perf_counter if asked.budget.kind == "time" else clock(device)


def _trained(
    dataset: Dataset,
    asked: FewAsked,
    settled: Begun,
    model: Path,
    device: torch.device,
    listener: compare_worker.Listener,
) -> Result:
    """Adds the domain by the package's own door; from the checkpoint where one fits."""
    spec: TrainSpec = recipe(asked, settled.steps).model_copy(update={"time_s": settled.time_s})
    request = request_of(asked, spec, model, device)
    init = settled.nearest.taken if settled.nearest else asked.init
    plain = (init, None, listener, nothing, nothing)
    if checkpoint.generations(model / "runs" / f"add-{asked.domain}"):
        try:
            again = replace(request, resume=True, overwrite=False)
            return add_domain(dataset, again, *plain)[0]
        except TrainingError as error:
            listener.told(f"begun anew: {error}")
    return add_domain(dataset, request, *plain)[0]


def main() -> None:
    folder = Path(sys.argv[1])
    job = FewJob.model_validate_json((folder / "job.json").read_text())
    as_worker(folder, job.asked.budget.threads, job.asked.domain, lambda: work(job, folder))


if __name__ == "__main__":
    main()
