"""The verb `predict`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from u2net3d import files
from u2net3d.cli.places import to_predict_with
from u2net3d.cli.say import say
from u2net3d.errors import CasesFailed, DiskError, Stopped, UsageError
from u2net3d.infer.jobs import Job, jobs_of, require_apart
from u2net3d.infer.predict import Options, load
from u2net3d.infer.scratch import bytes_of
from u2net3d.infer.statistics import LabelStatistics, require_table, write_statistics
from u2net3d.infer.work import Outcome, Wishes, run_jobs
from u2net3d.spec import DomainSpec, Level, domain_name
from u2net3d.train.interrupt import held_back, stopping
from u2net3d.volume import Array, Volume


@dataclass(frozen=True)
class Asked:
    """The options of `predict` that choose the model and what is written, as typed.

    overwrite: True replaces labels that are there, False keeps them, None keeps those that would
    come out the same and refuses the others.
    """

    domain: str
    model: Path
    device: str
    engine: str
    overwrite: bool | None
    statistics: Path | None
    preview: bool
    probabilities: bool
    max_memory: str | None = None


FAST, BEST = Options(overlap=0.25, tta=False), Options(overlap=0.5, tta=True)


def options_of(
    fast: bool,
    best: bool,
    overlap: float | None,
    tta: bool | None,
    cleanup: bool,
    level: str | None = None,
) -> Options:
    """`--fast` and `--best` choose overlap and reflections; what is typed itself is kept.

    Raises UsageError for both, and for a level that is neither a number nor a word.
    """
    if fast and best:
        raise UsageError("--fast", "and --best exclude each other", "give one of them")
    chosen = FAST if fast else BEST if best else Options()
    return Options(
        overlap=chosen.overlap if overlap is None else overlap,
        tta=chosen.tta if tta is None else tta,
        cleanup=cleanup,
        level=level_of(level),
    )


def level_of(text: str | None) -> Level | Literal["auto"] | None:
    """`2` -> 2, `auto`, `mean`. Raises UsageError for any other word."""
    words: dict[str | None, Literal["auto", "mean"] | None] = {None: None, "auto": "auto"}
    words["mean"] = "mean"
    if text in words or text is None:
        return words[text]
    if not text.isdecimal():
        raise UsageError("--level", f"'{text}' is no level", "use a number, auto or mean")
    return int(text)


def predict(images: list[Path], output: Path, asked: Asked, options: Options) -> None:
    """Segments one case or a folder; CasesFailed when some of several failed."""
    name = domain_name(asked.domain)
    max_bytes = None if asked.max_memory is None else bytes_of(asked.max_memory)
    spec = to_predict_with(asked.model, name).said.domain  # the folds of a model have the same
    jobs = jobs_of(images, output, len(spec.channels))
    wishes = _wishes(asked)
    require_apart(jobs, wishes.kinds, asked.statistics)
    files.require_writable(output, "-o")
    if asked.statistics is not None:
        require_table(asked.statistics, "--statistics")
    loaded = load(
        asked.model,
        domains=[name],
        device=asked.device,
        engine=asked.engine,
        max_memory=max_bytes,
    )
    files.sweep(jobs[0].output.parent)
    told = _Told(len(jobs), asked.overwrite)
    stop: list[str] = []
    outcomes = run_jobs(
        loaded, jobs, name, options, wishes, stopped=lambda: bool(stop), waits=_waits
    )
    # One case alone stops at once; of several the one at hand is finished first.
    pausing = stopping if len(jobs) == 1 else partial(held_back, partial(_stops, stop))
    try:
        with stopping():
            while told.cases < len(jobs):
                with pausing():
                    outcome = next(outcomes, None)  # None: stopped while it waited
                    if outcome is not None:
                        told.take(outcome)
                    for outcome in outcomes if stop else ():  # what was begun is written
                        told.take(outcome)
    except Stopped as stopped:
        text = f"stopped after {told.cases} of {len(jobs)} cases — the same command goes on"
        raise Stopped(stopped.number, text) from None
    if asked.statistics is not None:
        write_statistics(asked.statistics, spec, told.statistics, told.failed)
    if told.failed:
        what = f"{len(told.failed)} of {len(jobs)} cases failed"
        raise CasesFailed(output, what, "mend what is named above; the other labels are written")


def _wishes(asked: Asked) -> Wishes:
    return Wishes(
        existing="refuse" if asked.overwrite is None else "replace" if asked.overwrite else "skip",
        draw=_picture if asked.preview else None,
        probabilities=asked.probabilities,
        statistics=asked.statistics is not None,
    )


def _picture(image: Volume, label: Array, spec: DomainSpec, case: str) -> bytes:
    from u2net3d.evaluate.pictures import preview

    return preview(image, label, spec.labels, f"{case}: {spec.name}")


@dataclass
class _Told:
    """What was said of the cases so far, and what is kept of them for the end."""

    total: int
    overwrite: bool | None
    cases: int = 0
    failed: list[str] = field(default_factory=list)
    statistics: dict[str, tuple[LabelStatistics, ...]] = field(default_factory=dict)

    def take(self, outcome: Outcome) -> None:
        """Says a line about a case; raises its error where it is the only case, or ends the run."""
        if outcome.error and (self.total == 1 or isinstance(outcome.error, DiskError)):
            raise outcome.error
        self.cases += 1
        place = f"{self.cases} of {self.total}: {outcome.job.output}"
        if outcome.error:
            self.failed.append(outcome.job.case)
            say(f"error: {outcome.error}")
        elif outcome.skipped:
            same = "" if self.overwrite is False else " from the same image, model and options"
            say(f"{place} is there already{same}: skipped")
        else:
            say(f"{place} in {outcome.seconds:.1f} s")
        for note in outcome.notes:
            say(f"note: {outcome.job.case}: {note}")
        if outcome.statistics is not None:
            self.statistics[outcome.job.case] = outcome.statistics


def _stops(stop: list[str], _text: str) -> None:
    stop.append("a signal came")
    say("stopping when this case is done; once more stops at once")


def _waits(job: Job, holder: str) -> None:
    say(f"{job.case}: waiting for {holder}, which is at it (its lock is {job.lock.name})")
