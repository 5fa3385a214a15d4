"""A process that holds one contender and runs a step whenever it is told to.

One JSON object a line. In: the job; then {"do": "go", "repeats": N} or {"do": "trim"}. Out: an
answer to each, or {"error": reason} and the end. What libraries print goes to stderr.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

Answer = dict[str, Any]
_SMALL = 64  # voxels a side of the step before memory is counted
_DENSE_NET = "dynamic_network_architectures.architectures.unet"
_NNUNET_LOSSES = (
    "nnunetv2.training.loss.compound_losses",
    "nnunetv2.training.loss.deep_supervision",
)
_QUICK_S = 5.0  # a first step under this is repeated, so that the trial step is a warm one


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        _serve(answers)
    except Exception as error:  # whatever a contender raises is its result
        said = " ".join(str(error).split())[:200]
        _tell(answers, {"error": f"{type(error).__name__}: {said}"})


def _serve(answers: TextIO) -> None:
    from bench_contenders import Job

    job = Job.model_validate_json(sys.stdin.readline())
    if job.folder:  # compiled networks of ours are kept there, not where the user's are
        os.environ["XDG_CACHE_HOME"] = str(Path(job.folder) / "cache")
    import bench_nets

    bench_nets.prepare(job)
    if job.kind == "memory":
        _tell(answers, _memory(job))
        return
    if job.kind == "operators":
        _operators(job, answers)
        return
    if job.kind == "prediction memory":
        import bench_volumes

        _tell(answers, bench_volumes.peak(job))
        return
    step, weights = bench_nets.build(job)
    trial = _timed(step, 1, job.device)
    if trial < _QUICK_S or job.contender.compiled or job.contender.engine != "torch":
        trial = _timed(step, 1, job.device)
    more = step.said() if job.kind == "export" else {}
    _tell(answers, {"seconds": trial, "weights": weights, **more})
    trimmed = False
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "trim":
            _trim()
            trimmed = True
            _tell(answers, {})
            continue
        if trimmed:  # pays for its memory again before it is measured
            step()
        trimmed = False
        _tell(answers, {"seconds": _timed(step, asked["repeats"], job.device)})


def _operators(job: Any, answers: TextIO) -> None:
    import bench_operators

    once, least = bench_operators.measured(job)
    _tell(answers, {"least": least})
    for _ in sys.stdin:
        _tell(answers, {"parts": once()})


def _timed(step: Callable[[], None], repeats: int, device: str) -> float:
    """Mean seconds of `repeats` steps; a GPU's queue is waited for."""
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def _memory(job: Any) -> Answer:
    """GiB of a step's peak above the process that has imported all it needs and built nothing."""
    import bench_nets

    if job.device == "cuda":
        import torch

        step, weights = bench_nets.warmed_up(job, _SMALL)
        torch.cuda.reset_peak_memory_stats()
        step()
        return {"gib": torch.cuda.max_memory_allocated() / 2**30, "weights": weights}
    imported(job.contender.family)
    idle = _status_kib("VmRSS")
    step, weights = bench_nets.warmed_up(job, _SMALL)
    with suppress(OSError):  # else the peak counts from the start, imports included
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    step()
    return {"gib": (_status_kib("VmHWM") - idle) / 2**20, "weights": weights}


def imported(family: str) -> None:
    """Loads what a contender of this family needs, so that it does not count as its memory."""
    import torch

    torch.nn.functional.conv3d(torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 3, 3, 3))
    needed = {
        "nnunet": [_DENSE_NET, *_NNUNET_LOSSES],
        "dense": [_DENSE_NET],
        "dense-paper": [_DENSE_NET],
    }
    for module in needed.get(family, []):
        importlib.import_module(module)


def _status_kib(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in text.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


def _trim() -> None:
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def _tell(answers: TextIO, answer: Answer) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
