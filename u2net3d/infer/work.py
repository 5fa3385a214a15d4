"""Case after case: what was done before is left alone, what fails stops nothing.

A case has three parts: reading, the network's answer, the files. Only the middle one is of the
thread that calls (`ahead`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from u2net3d.errors import DataError, DiskError, U2Net3dError, UsageError
from u2net3d.infer.ahead import Conveyor
from u2net3d.infer.faults import error_of
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


Finish = Callable[[], Outcome]  # writes what is left to be written


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

    Of several cases the next one is read and the last one written while the network works. A disk
    that cannot be written ends the iteration: no case after it would fare better.
    stopped: asked before each case, True ends the iteration when what was begun is written; waits:
    called once for a case that another run, named in words, is still at, when nothing else is left.
    """
    run = _Run(model, model.spec(domain), options, wishes or Wishes(), Watch())
    conveyor = Conveyor(run.read_ahead, run.begin, run.finish, lambda begun: begun.held.close())
    left, told, halts = list(jobs), set[Path](), list[bool]()
    model.engine(domain, options)  # made here, not by the first of two threads that ask for it

    def halted() -> bool:
        halts.append(stopped())
        return halts[-1]

    while left:
        others = []
        with closing(conveyor.run(left, halted)) as found:
            for each in found:
                if isinstance(each, Job):
                    others.append(each)
                    continue
                yield each
                if isinstance(each.error, DiskError):
                    return
        if halts[-1]:
            return
        if len(others) == len(left):
            for job in others:
                if job.lock not in told:
                    waits(job, run.watch.holder(job.lock))
                    told.add(job.lock)
            time.sleep(POLL_S)
        left = others


@dataclass(frozen=True)
class _Reading:
    """What was read of a case; image and source where it needs the network."""

    content: Content
    pair: tuple[Volume, Source] | None = None


@dataclass(frozen=True)
class _Begun:
    """A case at which the network was. left: its outcome, or what is to be done for it.

    seconds: spent on it, without those in which it waited; held: the lock, while there is more to
    do.
    """

    job: Job
    seconds: float
    left: Outcome | Finish
    held: ExitStack


@dataclass(frozen=True)
class _Run:
    """What stays the same from case to case, and the three things that are done to each."""

    model: Model
    spec: DomainSpec
    options: Options
    wishes: Wishes
    watch: Watch

    def read_ahead(self, job: Job) -> _Reading | None:
        """What the case will need, as far as can be seen without its lock."""
        there = job.output.exists()
        if job.lock.exists() or (there and self.wishes.existing != "replace"):
            return None
        content = _content(job)
        before = read_record(job.sidecar) if there else None
        if before and not before.difference(self.expected(content)):
            return _Reading(content)
        return _Reading(content, read_image(job.images))

    def begin(self, job: Job, read: _Reading | None) -> _Begun | None:
        """All but the case's files; None while another run is at it. Errors are its outcome."""
        began = time.perf_counter()
        left: Outcome | Finish
        try:
            with ExitStack() as held:
                lock = self.watch.acquire(job.lock)
                if lock is None:
                    return None
                held.enter_context(lock)
                left = _answered(self, job, lock, read)
                kept = ExitStack() if isinstance(left, Outcome) else held.pop_all()
        except Exception as failure:
            del read, held  # this frame is one of those that the error keeps
            left, kept = Outcome(job, error=error_of(job, failure, self.model.device)), ExitStack()
        return _Begun(job, time.perf_counter() - began, left, kept)

    def finish(self, begun: _Begun) -> Outcome:
        """The outcome of a case whose files are in their places; its lock is given back."""
        began, outcome = time.perf_counter(), begun.left
        if not isinstance(outcome, Outcome):
            try:
                with begun.held:
                    outcome = outcome()
            except Exception as failure:
                error = error_of(begun.job, failure, self.model.device)
                outcome = Outcome(begun.job, error=error)
        return replace(outcome, seconds=begun.seconds + time.perf_counter() - began)

    def expected(self, content: Content) -> Record:
        """The record of a case as it would be made now."""
        model, name, options = self.model, self.spec.name, self.options
        return expected_record(
            content.sha256, self.spec, model.origin(name), options, model.engine(name, options),
            model.packages(name, options),
        )  # fmt: skip


def _answered(run: _Run, job: Job, lock: Lock, read: _Reading | None) -> Outcome | Finish:
    """What becomes of a case that this run holds the lock of, up to the network's answer."""
    wishes, began = run.wishes, time.perf_counter()
    if wishes.existing == "skip" and job.output.exists():
        return _kept(run, job)
    read = read or _Reading(_content(job))
    expected, before = run.expected(read.content), read_record(job.sidecar)
    found = hindrance(job, before, expected, wishes.kinds)
    if found and wishes.existing != "replace":
        mend = "give --overwrite to replace it, or --skip to keep it"
        raise UsageError(found[0], f"is there already and {found[1]}", mend)
    if before and not found and _is_there(run, job):
        return _kept(run, job) if _is_drawn(run, job) else _drawn(run, job, before, lock)
    image, source = read.pair or read_image(job.images)
    read.content.require_unchanged()
    answer = run.model.answer(
        image, source.path, run.spec.name, run.options, probabilities=wishes.probabilities
    )
    record = run.expected(read.content).model_copy(  # anew: an image may have changed the engine
        update={
            "device": run.model.device,
            "spacing_mm": image.spacing_mm,
            "seconds": round(time.perf_counter() - began, 2),
            "notes": (*source.notes, *answer.notes),
        }
    )

    def finish() -> Outcome:
        remove_stale(job, before, wishes.kinds)
        put(job, record, _writers(run, job, image, answer, source), lock)
        notes = (*record.notes, DIED) if lock.inherited else record.notes
        return Outcome(job, notes=notes, statistics=_statistics(run, image, answer.label))

    return finish


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


def _drawn(run: _Run, job: Job, record: Record, lock: Lock) -> Finish:
    """A case that lacks its preview alone."""
    image, source, label = _read_again(run, job)
    writers = _writers(run, job, image, Answer(label), source)

    def finish() -> Outcome:
        put(job, record, {PREVIEW: writers[PREVIEW]}, lock)
        return Outcome(job, skipped=True, statistics=_statistics(run, image, label))

    return finish


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
