"""One run of a comparison, in a process of its own: trains, judges, and leaves its rows in a file.

All of it lies in one folder: job.json (what was asked, and what was settled before the first step),
the model with its checkpoints, and at the end rows.json. A worker that finds a checkpoint there
goes on from it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from compare_judge import Judge, Trained, outcome_of, peak_gib
from compare_levels import levels_of
from compare_rows import Asked, Row
from compare_settle import (
    Settled,
    clock,
    few,
    nothing,
    recipe,
    request_of,
    settle,
    trained_by,
)
from long_runs import as_worker

from u2net3d import files, store
from u2net3d.errors import TrainingError
from u2net3d.infer.predict import choose_device
from u2net3d.io.dataset import Dataset, find_datasets, split
from u2net3d.ops.memory import keep_freed_memory
from u2net3d.spec import Frozen
from u2net3d.train import checkpoint
from u2net3d.train.history import History
from u2net3d.train.roles import Result
from u2net3d.train.schedule import Progress
from u2net3d.train.validate import DomainScore


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
    datasets = [few(each, asked, folder) for each in find_datasets(job.data, job.domains)]
    settled = settle(datasets, asked, folder, device)
    try:
        listener = Listener(asked, quiet=job.keep_quiet)
        result = trained(datasets, asked, settled.steps, folder, device, listener)
    finally:
        peak = max(settled.peak_gib or 0.0, peak_gib() or 0.0) or None
        files.write_json(
            folder / "settled.json", {**settled.model_dump(mode="json"), "peak_gib": peak}
        )
    rows = rows_of_run(job, datasets, settled.model_copy(update={"peak_gib": peak}), result, folder)
    files.write_json(folder / "rows.json", [row.model_dump(mode="json") for row in rows])
    return rows


def trained(
    datasets: list[Dataset],
    asked: Asked,
    steps: int | None,
    folder: Path,
    device: torch.device,
    listener: Listener,
) -> Result:
    """Trains by the package's own door; from the checkpoint where there is one that fits.

    steps: where the budget is processor time, what it comes to.
    """
    request = request_of(asked, recipe(asked, steps), folder / "model", device)
    plain = (asked.model, listener, nothing, nothing)
    if checkpoint.generations(request.model / "runs" / "train"):
        try:
            return trained_by(datasets, replace(request, resume=True, overwrite=False), *plain)
        except TrainingError as error:
            listener.told(f"begun anew: {error}")
    return trained_by(datasets, request, *plain)


def rows_of_run(
    job: Job,
    datasets: list[Dataset],
    settled: Settled,
    result: Result,
    folder: Path,
    run: str = "train",
) -> list[Row]:
    """The run's row, and one for every level that its network can be cut down to.

    run: what its folder in runs/ is called.
    """
    asked = job.asked
    net, model, specs = store.load(folder / "model")
    device = choose_device(asked.device)
    net.to(device)
    history = History(folder / "model" / "runs" / run).rows()
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


def main() -> None:
    folder = Path(sys.argv[1])
    job = Job.model_validate_json((folder / "job.json").read_text())
    as_worker(folder, job.asked.budget.threads, job.asked.preset, lambda: work(job, folder))


if __name__ == "__main__":
    main()
