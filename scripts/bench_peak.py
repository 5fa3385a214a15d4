"""One prediction in a process that does nothing else, and the memory it took.

bench_peak.py JSON: family (ours or nnunet), model, image, out, device, engine. The last line
printed is {"whole": GiB, "gib": GiB}: the peak of the process from its start, and what of it was
above the process with its model loaded. nnU-Net runs without its pools of processes, which take
more.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_GIB = 2**20  # of the kernel's KiB


def main() -> None:
    asked = json.loads(sys.argv[1])
    step = (_ours if asked["family"] == "ours" else _nnunet)(asked)
    loaded = _status_kib("VmRSS")
    before = _status_kib("VmHWM")
    _reset()
    step()
    peak = _status_kib("VmHWM")
    print(json.dumps({"whole": max(before, peak) / _GIB, "gib": (peak - loaded) / _GIB}))


def _ours(asked: dict[str, Any]) -> Callable[[], None]:
    """As the command line predicts; torch is imported only where the engine needs it."""
    from u2net3d.infer.engines import choose_engine
    from u2net3d.infer.jobs import Job
    from u2net3d.infer.predict import Options, load
    from u2net3d.infer.work import Wishes, run_jobs

    model = load(asked["model"], device=asked["device"], engine=asked["engine"])
    model.engine("noise")

    def step() -> None:
        job = Job((Path(asked["image"]),), Path(asked["out"]) / "case.nii.gz")
        (outcome,) = run_jobs(model, [job], "noise", Options(), Wishes())
        if outcome.error is not None:
            raise outcome.error
        if model.engine("noise") != choose_engine(asked["engine"], asked["device"]):
            raise RuntimeError(model.engine_note("noise"))

    return step


def _nnunet(asked: dict[str, Any]) -> Callable[[], None]:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device(asked["device"]), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(asked["model"], (0,))
    cases, names = [[asked["image"]]], [str(Path(asked["out"]) / "case")]
    return lambda: predictor.predict_from_files_sequential(cases, names)


def _reset() -> None:
    """The peak counts anew; where that may not be, it counts from the start."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _status_kib(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in text.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    main()
