"""Contenders in processes of their own, measured once each in turn, round after round."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_contenders import FASTER, WHOLE, Contender, Job

WORKER = Path(__file__).resolve().parent / "bench_worker.py"
START_S = 300.0  # to build, to compile and for the first steps
WHOLE_S = 2400.0  # for a prediction of a large volume
COUNTS_S = 15.0  # the first prediction of a volume is a measurement where it takes longer
LONGEST_STEP_S = 60.0
FAR = 1.25  # a form this many times slower than its family's fastest is not the best one
LEAST_S = 1.0  # a shorter step is repeated
TIGHT = 0.25  # of all memory: with less than this free, those that wait give theirs back
# What users have not set: allocators, and threads that torch is told of anyway.
_FOREIGN = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_", "KMP_", "GOMP_", "MKL_")
Say = Callable[[str], None]


class WorkerFailed(Exception):
    """A worker ended, or gave no answer in time; the text says why."""


@dataclass
class Worker:
    """A contender's process. values: seconds, one a round; note: why it left, if it did.

    said: what its first step showed beside its time.
    """

    job: Job
    values: list[float] = field(default_factory=list)
    trial: float = math.inf
    weights: int | None = None
    repeats: int = 1
    note: str = ""
    said: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    errors: Any = None

    @property
    def contender(self) -> Contender:
        return self.job.contender

    @property
    def timeout_s(self) -> float:
        """How long an answer may take."""
        return WHOLE_S if self.job.kind in WHOLE else START_S

    @property
    def running(self) -> bool:
        return self.process is not None

    def ask(self, message: str, timeout_s: float) -> dict[str, Any]:
        """The worker's answer to a line. Raises WorkerFailed; the worker is then gone."""
        process = self.process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(message.encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended: the answer, or its last words, say why
        ready, _, _ = select.select([process.stdout], [], [], timeout_s)
        line = process.stdout.readline() if ready else b""
        answer = json.loads(line) if line else {"error": self._why(bool(ready))}
        if "error" in answer:
            self.close()
            raise WorkerFailed(answer["error"])
        return answer

    def start(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Begins the process with its job. Raises WorkerFailed."""
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment(self.job.threads, ours=self.contender.family == "ours"),
        )
        return self.ask(self.job.model_dump_json(), timeout_s or self.timeout_s)

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.errors.close()
            self.process = None

    def leave(self, note: str) -> None:
        """Takes no part in further rounds."""
        self.note = note
        self.close()

    def _why(self, ended: bool) -> str:
        assert self.process is not None
        if not ended:
            return "no answer in time"
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return "killed: memory may have run out"
        self.errors.seek(0)
        said = [line for line in self.errors.read().decode(errors="replace").splitlines() if line]
        return said[-1][:200] if said else f"ended with code {code}"


def environment(threads: int, *, ours: bool = False) -> dict[str, str]:
    """Ours without settings that change speed; the packages of this process are the worker's.

    ours: threads that wait soon sleep, as our command line has it.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    paths = [path for path in (str(WORKER.parents[1]), os.environ.get("PYTHONPATH")) if path]
    kept["PYTHONPATH"] = os.pathsep.join(paths)
    waiting = {"GOMP_SPINCOUNT": "20000"} if ours else {}
    return {**kept, "OMP_NUM_THREADS": str(threads), **waiting, "PYTHONWARNINGS": "ignore"}


def measure(jobs: Sequence[Job], rounds: int, deadline: float, say: Say) -> list[Worker]:
    """Seconds a step of every contender, each round all of them once in turn.

    Rounds end early where the next one would pass `deadline` (of time.monotonic); there is always
    one. A contender that fails, or need not go on, has a note that says so.
    """
    workers: list[Worker] = []
    try:
        for job in jobs:
            _make_room(workers)
            workers.append(Worker(_settled(job, workers)))
            _start(workers[-1], say)
        for turn in range(rounds):
            for worker in [worker for worker in workers if worker.running]:
                if len(worker.values) > turn:
                    continue  # its first step was its first measurement
                _once(worker, workers)
                say(f"round {turn + 1} of {rounds}: {worker.contender.name} {_said(worker)}")
            _dismiss_the_slow(workers)
            next_s = sum(w.values[-1] * w.repeats for w in workers if w.running)
            if turn + 1 < rounds and time.monotonic() + next_s > deadline:
                _note_all(workers, f"{turn + 1} of {rounds} rounds: the time was used up")
                break
    finally:
        for worker in workers:
            worker.close()
    return workers


def _start(worker: Worker, say: Say) -> None:
    try:
        answer = worker.start()
    except WorkerFailed as failure:
        worker.note = str(failure)
        say(f"{worker.contender.name}: {worker.note}")
        return
    worker.trial, worker.weights = answer.pop("seconds"), answer.pop("weights")
    worker.said = answer
    worker.repeats = 1 if worker.job.quick else max(1, math.ceil(LEAST_S / worker.trial))
    say(f"built: {worker.contender.name}, trial step {worker.trial:.3g} s")
    if worker.job.kind in WHOLE and worker.trial > COUNTS_S:
        worker.values.append(worker.trial)
        _leave_if_long(worker)


def _settled(job: Job, others: Sequence[Worker]) -> Job:
    """The job with the precision of the family's faster trial step, where it has that one."""
    contender = job.contender
    if contender.precision != FASTER:
        return job
    family = [other for other in others if other.contender.family == contender.family]
    family = [other for other in family if other.contender.channels_last]
    fastest = min(family, key=lambda other: other.trial, default=None)
    precision = fastest.contender.precision if fastest else "fp32"
    settled = contender.model_copy(update={"precision": precision})
    return job.model_copy(update={"contender": settled})


def _once(worker: Worker, workers: Sequence[Worker]) -> None:
    _make_room([other for other in workers if other is not worker])
    message = json.dumps({"do": "go", "repeats": worker.repeats})
    try:
        worker.values.append(worker.ask(message, worker.timeout_s)["seconds"])
    except WorkerFailed as failure:
        worker.note = str(failure)
        return
    _leave_if_long(worker)


def _leave_if_long(worker: Worker) -> None:
    if worker.values[-1] > LONGEST_STEP_S:
        worker.leave(f"a step takes over {LONGEST_STEP_S:.0f} s: measured {len(worker.values)}×")


def _dismiss_the_slow(workers: Sequence[Worker]) -> None:
    """Forms that are clearly not their family's best are measured no more."""
    for worker in workers:
        if worker.contender.every_round or not worker.running:
            continue
        family = [w for w in workers if _kin(w, worker) and w.values]
        times = statistics.median(worker.values) / min(statistics.median(w.values) for w in family)
        if times > FAR:
            worker.leave(f"{times:.2f}× the best form: measured {len(worker.values)}×")


def _kin(one: Worker, other: Worker) -> bool:
    """Whether two are forms of one family in one engine."""
    a, b = one.contender, other.contender
    return (a.family, a.engine) == (b.family, b.engine)


def _note_all(workers: Sequence[Worker], note: str) -> None:
    for worker in workers:
        if worker.running:
            worker.note = note


def _make_room(waiting: Sequence[Worker]) -> None:
    """Where memory is tight, those that wait give freed memory back; they warm up again later."""
    for worker in waiting:
        if worker.running and worker.contender.keeps_memory and free_share() < TIGHT:
            try:
                worker.ask(json.dumps({"do": "trim"}), START_S)
            except WorkerFailed as failure:
                worker.note = str(failure)


def free_share() -> float:
    """Part of the machine's memory that is available; 1 where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 1.0
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return kib["MemAvailable"] / kib["MemTotal"]


def _said(worker: Worker) -> str:
    return f"{worker.values[-1]:.3g} s" if worker.running or worker.values else worker.note
