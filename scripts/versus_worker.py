"""One run of a peer, in a process of its own: trains, predicts, and leaves its rows in a file.

All of it lies in one folder: job.json (what was asked), what the peer keeps of its training,
trained.json once that is over, and at the end rows.json. A worker that finds a checkpoint there
goes on from it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from long_runs import as_worker
from versus_rows import Asked, LabelScore, Outcome, Row, Trained, command

from u2net3d import files
from u2net3d.errors import TrainingError
from u2net3d.evaluate.report import Report, evaluate_folder
from u2net3d.io import stem
from u2net3d.io.dataset import Dataset, find_datasets, split
from u2net3d.spec import Frozen

TOLERANCE_MM = 2.0  # of NSD, as `u2net3d evaluate` has it


class Job(Frozen):
    """What a worker is to do.

    data: the folder of data sets; domains as typed, name=PATH too; tta: how it is to be judged,
    once for each.
    """

    asked: Asked
    data: Path
    domains: tuple[str, ...]
    tta: tuple[bool, ...]
    machine: str
    versions: dict[str, str]


def work(job: Job, folder: Path) -> list[Row]:
    """Does the job in `folder`, or goes on with it; its rows, which lie in rows.json too.

    Raises what training raises; Stopped after a checkpoint.
    """
    asked = job.asked
    datasets = find_datasets(job.data, job.domains)
    peer = peer_of(asked)
    done = folder / "trained.json"
    if not done.exists():
        trained = peer.train(asked, datasets, folder)
        trained = trained.model_copy(update={"peak_gib": peak_gib(asked.device)})
        files.write_json(done, trained.model_dump(mode="json"))
    trained = Trained.model_validate_json(done.read_text())
    rows = [_row(job, peer, datasets, folder, trained, tta) for tta in job.tta]
    files.write_json(folder / "rows.json", [row.model_dump(mode="json") for row in rows])
    return rows


def peer_of(asked: Asked) -> ModuleType:
    """The module that trains and predicts."""
    import versus_ours
    import versus_theirs

    return versus_theirs if asked.ours is None else versus_ours


def _row(
    job: Job,
    peer: ModuleType,
    datasets: Sequence[Dataset],
    folder: Path,
    trained: Trained,
    tta: bool,
) -> Row:
    asked = job.asked
    outcomes = {}
    for dataset in datasets:
        report, seconds = judged(asked, peer, dataset, folder, tta=tta)
        patch, batch = trained.plans[dataset.domain]
        outcomes[dataset.domain] = outcome_of(
            report,
            training_cases=len(split(dataset, asked.fold).training),
            patch=patch,
            batch=batch,
            volume_s=round(seconds / len(report.cases), 3),
        )
    peaks = [peak for peak in (trained.peak_gib, peak_gib(asked.device)) if peak is not None]
    return Row(
        asked=asked,
        tta=tta,
        steps=trained.steps,
        seconds=trained.seconds,
        step_s=round(trained.seconds / trained.steps, 4),
        weights=trained.weights,
        how=trained.how,
        outcomes=outcomes,
        peak_gib=max(peaks, default=None),
        versions=job.versions,
        machine=job.machine,
        command=command(asked, asked.domains, [asked.seed], tta=tta),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def judged(
    asked: Asked, peer: ModuleType, dataset: Dataset, folder: Path, *, tta: bool
) -> tuple[Report, float]:
    """The scores of all validation cases, from files to files, and the seconds of predicting them.

    The same for every peer. Raises TrainingError where a case cannot be scored.
    """
    cases = split(dataset, asked.fold).validation
    out = folder / ("mirrored" if tta else "plain") / dataset.domain
    reference = folder / "reference" / dataset.domain
    for place in (out, reference):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    for case in cases:
        assert case.label is not None
        suffix = case.label.name.removeprefix(stem(case.label))
        (reference / f"{case.name}{suffix}").symlink_to(case.label.resolve())
    seconds = peer.predict(asked, dataset, cases, folder, out, tta=tta)
    report = evaluate_folder(
        out, reference, dataset.labels, TOLERANCE_MM, _nobody, ignore=dataset.ignore_label
    )
    for failure in report.failures:
        raise TrainingError(f"{dataset.domain}, {failure.case}", failure.why, "see output.txt")
    if report.without_prediction:
        missing = ", ".join(report.without_prediction)
        raise TrainingError(dataset.domain, f"no prediction of {missing}", "see output.txt")
    return report, seconds


def outcome_of(
    report: Report, *, training_cases: int, patch: tuple[int, ...], batch: int, volume_s: float
) -> Outcome:
    """What `u2net3d evaluate` finds, as a row keeps it."""
    said = report.to_json()
    labels = {
        name: LabelScore(**{k: _rounded(means[k]) for k in ("dice", "hd95_mm", "nsd")})
        for name, means in said["labels"].items()
    }
    cases = {
        case: {label: _rounded(score["dice"]) for label, score in scores.items()}
        for case, scores in said["cases"].items()
    }
    return Outcome(
        dice=_rounded(said["mean"]["dice"]) or 0.0,
        labels=labels,
        cases=cases,
        training_cases=training_cases,
        patch=patch,
        batch=batch,
        volume_s=volume_s,
    )


def peak_gib(device: str) -> float | None:
    """The most memory that this process has held; on a GPU what torch reserved there.

    Loader processes are not counted. None where the system does not say.
    """
    if device != "cpu":
        import torch

        return round(torch.cuda.max_memory_reserved() / 2**30, 3)
    from compare_judge import peak_gib as held

    return held()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _nobody(done: int, total: int) -> None: ...


def main() -> None:
    folder = Path(sys.argv[1])
    job = Job.model_validate_json((folder / "job.json").read_text())
    as_worker(folder, job.asked.budget.threads, job.asked.name, lambda: work(job, folder))


if __name__ == "__main__":
    main()
