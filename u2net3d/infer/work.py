"""Case after case: what was done before is left alone, what fails stops nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from u2net3d.errors import DataError, DiskError, U2Net3dError, UsageError, is_out_of_memory
from u2net3d.infer.jobs import LABEL, PREVIEW, PROBABILITIES, Job
from u2net3d.infer.locks import Lock, Watch
from u2net3d.infer.predict import Answer, Model, Options
from u2net3d.infer.results import Writer, hindrance, put, remove_stale
from u2net3d.infer.sidecar import Content, Record, expected_record, read_record
from u2net3d.infer.statistics import LabelStatistics, label_statistics
from u2net3d.io import read_image, read_label, require_same_grid
from u2net3d.io.dataset import require_channels
from u2net3d.io.nifti import Source, unreadable, write_label
from u2net3d.io.probabilities import write_probabilities
from u2net3d.spec import DomainSpec
from u2net3d.volume import Array, Volume

POLL_S = 0.5  # between looks at cases that other runs are at
DIED = "a run died at this case before; if it happens again, the machine may be short of memory"
Draw = Callable[[Volume, Array, DomainSpec, str], bytes]  # image, label, domain, case -> PNG


@dataclass(frozen=True)
class Wishes:
    """What is wanted beside the labels, and what becomes of labels that are there already.

    existing: `refuse` leaves a label that would not come out the same as it is and calls the case
    failed, `replace` replaces it, `skip` leaves any label as it is. draw: makes the preview.
    """

    existing: Literal["refuse", "replace", "skip"] = "refuse"
    draw: Draw | None = None
    probabilities: bool = False
    statistics: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The results that every case gets, the label first."""
        preview = (PREVIEW,) if self.draw else ()
        return (LABEL, *preview, *((PROBABILITIES,) if self.probabilities else ()))


@dataclass(frozen=True)
class Outcome:
    """A case that is done, that was done before (skipped), or that failed (error).

    notes: what was mended while reading, and whether a run died at this case before.
    """

    job: Job
    seconds: float = 0.0
    error: U2Net3dError | None = None
    skipped: bool = False
    notes: tuple[str, ...] = ()
    statistics: tuple[LabelStatistics, ...] | None = None


def run_jobs(
    model: Model,
    jobs: Sequence[Job],
    domain: str,
    options: Options,
    wishes: Wishes | None = None,
    *,
    stopped: Callable[[], bool] = lambda: False,
    waits: Callable[[Job, str], None] = lambda _job, _holder: None,
) -> Iterator[Outcome]:
    """Every case once, also where several runs share the output folder; cases of others come last.

    A disk that cannot be written ends the iteration: no case after it would fare better.
    stopped: asked before each case, True ends the iteration; waits: called once for a case that
    another run, named in words, is still at, when nothing else is left to do.
    """
    run = _Run(model, model.spec(domain), options, wishes or Wishes(), Watch())
    left, told = list(jobs), set[Path]()
    while left:
        others = []
        for job in left:
            if stopped():
                return
            outcome = _attempt(run, job)
            if outcome is None:
                others.append(job)
            else:
                yield outcome
                if isinstance(outcome.error, DiskError):
                    return
        if len(others) == len(left):
            for job in others:
                if job.lock not in told:
                    waits(job, run.watch.holder(job.lock))
                    told.add(job.lock)
            time.sleep(POLL_S)
        left = others


@dataclass(frozen=True)
class _Run:
    """What stays the same from case to case."""

    model: Model
    spec: DomainSpec
    options: Options
    wishes: Wishes
    watch: Watch


def _attempt(run: _Run, job: Job) -> Outcome | None:
    """The outcome of a case, its errors included; None while another run is at it."""
    began = time.perf_counter()
    try:
        lock = run.watch.acquire(job.lock)
        if lock is None:
            return None
        with lock:
            outcome = _outcome(run, job, lock)
    except U2Net3dError as failure:
        outcome = Outcome(job, error=failure)
    except OSError as failure:
        where, what = failure.filename or job.output, failure.strerror or str(failure)
        outcome = Outcome(job, error=DataError(where, what, "check the place and its rights"))
    except Exception as failure:
        outcome = Outcome(job, error=_fault(job, failure, run.model.device))
    return replace(outcome, seconds=time.perf_counter() - began)


def _outcome(run: _Run, job: Job, lock: Lock) -> Outcome:
    """What becomes of a case that this run holds the lock of."""
    wishes, began = run.wishes, time.perf_counter()
    if wishes.existing == "skip" and job.output.exists():
        return _kept(run, job)
    content = _content(job)
    origin = run.model.origin(run.spec.name)
    engine = run.model.engine(run.spec.name)
    expected = expected_record(content.sha256, run.spec, origin, run.options, engine)
    before = read_record(job.sidecar)
    found = hindrance(job, before, expected, wishes.kinds)
    if found and wishes.existing != "replace":
        mend = "give --overwrite to replace it, or --skip to keep it"
        raise UsageError(found[0], f"is there already and {found[1]}", mend)
    if before and not found and _is_there(run, job):
        return _kept(run, job) if _is_drawn(run, job) else _drawn(run, job, before, lock)
    image, source = read_image(job.images)
    content.require_unchanged()
    answer = run.model.answer(
        image, source.path, run.spec.name, run.options, probabilities=wishes.probabilities
    )
    record = expected.model_copy(
        update={
            "device": run.model.device,
            "engine": answer.engine,
            "spacing_mm": image.spacing_mm,
            "seconds": round(time.perf_counter() - began, 2),
            "notes": (*source.notes, *([answer.note] if answer.note else [])),
        }
    )
    remove_stale(job, before, wishes.kinds)
    put(job, record, _writers(run, job, image, answer, source), lock)
    notes = (*record.notes, DIED) if lock.inherited else record.notes
    return Outcome(job, notes=notes, statistics=_statistics(run, image, answer.label))


def _content(job: Job) -> Content:
    try:
        return Content(job.images)
    except OSError as error:
        raise unreadable(job.images[0], error) from error


def _is_there(run: _Run, job: Job) -> bool:
    """Whether there is all that takes the network to make."""
    kinds = [kind for kind in run.wishes.kinds if kind != PREVIEW]
    return all(job.place(kind).exists() for kind in kinds)


def _is_drawn(run: _Run, job: Job) -> bool:
    return run.wishes.draw is None or job.place(PREVIEW).exists()


def _kept(run: _Run, job: Job) -> Outcome:
    """A case whose label stays as it is."""
    pair = _read_again(run, job)[::2] if run.wishes.statistics else None
    return Outcome(job, skipped=True, statistics=_statistics(run, *pair) if pair else None)


def _drawn(run: _Run, job: Job, record: Record, lock: Lock) -> Outcome:
    """A case that lacks its preview alone."""
    image, source, label = _read_again(run, job)
    writers = _writers(run, job, image, Answer(label), source)
    put(job, record, {PREVIEW: writers[PREVIEW]}, lock)
    return Outcome(job, skipped=True, statistics=_statistics(run, image, label))


def _read_again(run: _Run, job: Job) -> tuple[Volume, Source, Array]:
    """Image, its source and the label (D, H, W) that was written before."""
    image, source = read_image(job.images)
    require_channels(image, source.path, run.spec.channels)
    label, label_source = read_label(job.output)
    require_same_grid(label, label_source, image, source)
    values = label.array
    if not 0 <= int(values.min()) <= int(values.max()) < len(run.spec.labels):
        what = f"holds label values from {values.min()} to {values.max()}"
        mend = f"{run.spec.name} has 0 to {len(run.spec.labels) - 1}; give --overwrite"
        raise DataError(job.output, what, mend)
    return image, source, values[0]


def _writers(
    run: _Run, job: Job, image: Volume, answer: Answer, source: Source
) -> dict[str, Writer]:
    """Who makes each of the results that are wanted, the label first."""
    writers: dict[str, Writer] = {LABEL: lambda path: write_label(path, answer.label, source)}
    if draw := run.wishes.draw:
        writers[PREVIEW] = lambda path: _write_picture(
            path, draw(image, answer.label, run.spec, job.case)
        )
    shares = answer.probabilities
    if shares is not None:
        writers[PROBABILITIES] = lambda path: write_probabilities(path, shares, source)
    return writers


def _write_picture(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _statistics(run: _Run, image: Volume, label: Array) -> tuple[LabelStatistics, ...] | None:
    return label_statistics(image, label, run.spec.labels) if run.wishes.statistics else None


def _fault(job: Job, failure: Exception, device: str) -> DataError:
    """What a case failed of that is no fault of its file: memory, or this program."""
    reason = (str(failure).splitlines() or [type(failure).__name__])[0]
    if not is_out_of_memory(failure):
        mend = "give it alone with --debug for the traceback, and report it"
        error = DataError(job.images[0], f"could not be segmented ({reason})", mend)
        error.__cause__ = failure
        return error
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        mend = "give it alone with --device cpu, or crop it to the part of the body"
    else:
        mend = "give it alone on a machine with more memory, or crop it to the part of the body"
    return DataError(job.images[0], f"is too large for the memory here ({reason})", mend)
