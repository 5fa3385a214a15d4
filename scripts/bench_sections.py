"""The sections of scripts/bench: which jobs each has, and the rows that come of them."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from bench_contenders import (
    Contender,
    Job,
    Kind,
    Setting,
    contenders,
    domain_contenders,
    ours,
    volume_contenders,
)
from bench_measure import START_S, Worker, WorkerFailed, measure
from bench_report import Limits, Row, Section, Spread, compared, ratios, share_of
from bench_settings import settings, volume_settings

from u2net3d.infer.engines import choose_engine

# What the sections cost relative to each other: each gets that part of the time that is left.
COST: dict[Section, int] = {"forward": 3, "step": 14, "memory": 4, "operators": 1, "domains": 1}
COST |= {"predict": 12, "export": 4, "scaling": 3, "start": 2}


class Run:
    """What was asked for, and the time that is left for it."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.began = time.monotonic()
        self.deadline = self.began + 60 * asked.minutes
        self.limits: Limits | None = None
        self.place = tempfile.TemporaryDirectory(prefix="u2net3d-bench-")

    def job(
        self, section: Section, contender: Contender, setting: Setting, kind: Kind | None = None
    ) -> Job:
        """A worker's orders."""
        return Job(
            kind=kind or ("step" if section == "domains" else section),
            contender=contender,
            setting=setting,
            threads=self.asked.threads,
            device=self.asked.device,
            quick=self.asked.quick,
            folder=self.place.name,
        )

    def settings(self, section: Section) -> list[Setting]:
        """Where a section is measured; `domains` at the first setting of `step`."""
        if section == "domains":
            return self.settings("step")[:1]
        return settings(section, self.asked.quick, self.asked.device)

    def contenders(self, section: Section) -> list[Contender]:
        """Who is measured in a section."""
        if section == "domains":
            return domain_contenders(self.asked.quick)
        return contenders(section, self.asked.device, self.asked.quick)

    def say(self, text: str) -> None:
        """A line of progress on stderr."""
        left = max(0.0, self.deadline - time.monotonic()) / 60
        print(f"[at most {left:.1f} min left] {text}", file=sys.stderr, flush=True)


def measured(run: Run, sections: Sequence[Section]) -> list[Row]:
    """The rows of all sections, one after the other."""
    rows: list[Row] = []
    for n, section in enumerate(sections):
        now, later = time.monotonic(), sum(COST[each] for each in sections[n + 1 :])
        end = now + (run.deadline - now) * COST[section] / (COST[section] + later)
        rows += _SECTIONS[section](run, section, end)
    return rows


def _timed(run: Run, section: Section, end: float) -> list[Row]:
    """forward and step: every contender at every setting; a larger patch gets more of the time.

    By the root of its size, since building the contenders takes some of it whatever the size.
    """
    found, left = [], run.settings(section)
    while left:
        sizes = [math.sqrt(math.prod(setting.patch) * setting.batch) for setting in left]
        now, setting = time.monotonic(), left.pop(0)
        jobs = [run.job(section, one, setting) for one in run.contenders(section)]
        found += _in_turn(run, section, jobs, now + (end - now) * sizes[0] / sum(sizes))
    return found


def _domains(run: Run, section: Section, end: float) -> list[Row]:
    """The same model with one domain and with many."""
    (setting,) = run.settings(section)
    jobs = [run.job(section, one, setting) for one in run.contenders(section)]
    return _in_turn(run, section, jobs, end)


def _in_turn(run: Run, section: Section, jobs: Sequence[Job], end: float) -> list[Row]:
    where = f"{section}, {jobs[0].setting.name}"
    workers = measure(jobs, run.asked.rounds, end, lambda text: run.say(f"{where}: {text}"))
    return compared([row(section, worker) for worker in workers])


def _volumes(run: Run, section: Section, end: float) -> list[Row]:
    """Sections of whole volumes: every contender at every setting, the time shared evenly."""
    assert section not in ("memory", "domains")
    found, left = [], volume_settings(section, run.asked.quick, run.asked.volumes)
    while left:
        now, setting = time.monotonic(), left.pop(0)
        jobs = [run.job(section, one, setting) for one in volume_contenders(section, setting)]
        found += _in_turn(run, section, jobs, now + (end - now) / (len(left) + 1))
    return found


def _memory(run: Run, section: Section, _end: float) -> list[Row]:
    """Peak memory of a training step and of predictions, once each: it hardly varies.

    Predictions of one volume are compared with each other, whatever their number of classes.
    """
    (setting,) = run.settings(section)
    workers = [_peak(run, run.job(section, one, setting)) for one in run.contenders(section)]
    rows = compared([row("memory", worker, unit="GiB") for worker in workers])
    kind: Kind = "prediction memory"
    volumes: dict[str, list[Worker]] = {}
    for setting in volume_settings(kind, run.asked.quick, ()):
        volume = setting.name.split(" ")[0]
        for one in volume_contenders(kind, setting):
            named = one.model_copy(update={"name": f"{one.name}, {setting.classes} classes"})
            worker = _peak(run, run.job(section, named, setting, kind))
            volumes.setdefault(volume, []).append(worker)
    for volume, found in volumes.items():
        for what, key in (("whole process", "whole"), ("above its loaded model", "gib")):
            rows += _prediction_rows(f"prediction of {volume}, {what}", found, key)
    return rows


def _prediction_rows(name: str, workers: Sequence[Worker], key: str) -> list[Row]:
    found = []
    for worker in workers:
        values = [worker.said[key]] if worker.said else []
        made = row("memory", worker, unit="GiB")
        changes = {"setting": name, "values": tuple(values), "spread": Spread.of(values)}
        found.append(made.model_copy(update=changes))
    return compared(found)


def _peak(run: Run, job: Job) -> Worker:
    """A worker that has measured its peak, and is gone."""
    worker = Worker(job)
    try:
        worker.said = worker.start()
        worker.values, worker.weights = [worker.said["gib"]], worker.said["weights"]
    except WorkerFailed as failure:
        worker.note = str(failure)
    finally:
        worker.close()
    run.say(f"memory, {job.setting.name}: {job.contender.name} {worker.values or worker.note}")
    return worker


def _operators(run: Run, section: Section, _end: float) -> list[Row]:
    """Every operator in one process, ours and torch's in turn; the bandwidth in each round too."""
    worker = Worker(run.job(section, ours("all operators"), run.settings(section)[0]))
    rounds: list[dict[str, float]] = []
    try:
        least = worker.start()["least"]
        for turn in range(run.asked.rounds):
            rounds.append(worker.ask("go", START_S)["parts"])
            run.say(f"{section}: round {turn + 1} of {run.asked.rounds}")
    except WorkerFailed as failure:
        worker.note = str(failure)
        return [row(section, worker)]
    finally:
        worker.close()
    run.limits = limits(rounds)
    return [
        one
        for name, (size, macs) in least.items()
        for one in _operator_rows(name, size, macs, rounds, run.limits)
    ]


def limits(rounds: Sequence[dict[str, float]]) -> Limits:
    """Medians of the rounds' copies, triads and products."""
    copy, triad, product = (
        statistics.median(each[kind] for each in rounds) for kind in ("copy", "triad", "product")
    )
    return Limits(
        copy_gb_s=copy,
        triad_gb_s=triad,
        bandwidth_gb_s=max(copy, triad),
        product_gmac_s=product,
    )


def _operator_rows(
    name: str, size: int, macs: int, rounds: Sequence[dict[str, float]], machine: Limits
) -> list[Row]:
    """Ours and torch's row of `operator|forward or backward`."""
    found = []
    mine = [each[f"{name}|ours"] for each in rounds]
    for side in ("ours", "torch"):
        values = [each[f"{name}|{side}"] for each in rounds]
        spread = Spread.of(values)
        assert spread is not None
        family = "ours" if side == "ours" else "torch"
        contender = Contender(name=side, family=family, channels_last=True, keeps_memory=True)
        found.append(
            _row(
                "operators",
                " ".join(name.split("|")),
                contender,
                values=values,
                times_ours=ratios(values, mine),
                least_bytes=size,
                share_of_bandwidth=share_of(machine.bandwidth_gb_s, size, spread.median),
                macs=macs,
                share_of_product=share_of(machine.product_gmac_s, macs, spread.median),
            )
        )
    return found


def row(section: Section, worker: Worker, unit: str = "s") -> Row:
    """What a worker's measurements come to; the ratio to ours is still open."""
    of, asked = worker.job.setting, worker.contender.engine
    return _row(
        section,
        worker.job.setting.name,
        worker.contender,
        values=worker.values,
        weights=worker.weights,
        unit=unit,
        repeats=worker.repeats,
        note="; ".join(text for text in (worker.said.get("note"), worker.note) if text),
        agreement=worker.said.get("agreement"),
        megavoxels=math.prod(of.volume) / 1e6 if section == "scaling" else None,
        tiles=of.tiles if section == "scaling" else None,
        engine=choose_engine(asked, worker.job.device) if asked == "auto" else asked,
    )


def _row(
    section: Section, setting: str, contender: Contender, values: Sequence[float], **more: object
) -> Row:
    content = {
        "section": section,
        "setting": setting,
        "contender": contender.name,
        "family": contender.family,
        "precision": contender.precision,
        "memory_format": "channels-last" if contender.channels_last else "contiguous",
        "compiled": contender.compiled,
        "allocator": "thresholds raised" if contender.keeps_memory else "as it comes",
        "as_users_run_it": contender.as_users_run_it,
        "best_form": False,
        "weights": None,
        "unit": "s",
        "repeats": 1,
        "values": tuple(values),
        "spread": Spread.of(values),
        "times_ours": None,
        "times_ours_alike": None,
        "agreement": None,
        "megavoxels": None,
        "tiles": None,
        "engine": "torch",
        "least_bytes": None,
        "share_of_bandwidth": None,
        "macs": None,
        "share_of_product": None,
        "note": "",
    }
    return Row.model_validate({**content, **more})


_SECTIONS: dict[Section, Callable[[Run, Section, float], list[Row]]] = {
    "forward": _timed,
    "step": _timed,
    "memory": _memory,
    "operators": _operators,
    "domains": _domains,
    "predict": _volumes,
    "export": _volumes,
    "scaling": _volumes,
    "start": _volumes,
}
