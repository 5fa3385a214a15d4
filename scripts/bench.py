"""Training speed and memory beside the peers that are installed, on this machine.

Contenders take turns, each in a process of its own. Medians, their range and the ratio to ours are
printed and, with --json, written as docs/bench.md describes. What fails is a row that says why.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

from bench_report import Machine, Report, Section, scaling_of
from bench_sections import Run, measured
from bench_tables import header, tables
from rich.console import Console

from u2net3d import files
from u2net3d.io.stream import memory_bytes

SECTIONS: tuple[Section, ...] = get_args(Section)
PACKAGES = ("u2net3d", "torch", "nnunetv2", "dynamic-network-architectures", "monai", "openvino")


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parsed(arguments)
    run = Run(asked)
    with run.place:
        rows = measured(run, asked.only)
    report = Report(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["scripts/bench", *(sys.argv[1:] if arguments is None else arguments)]),
        machine=machine(asked.device),
        versions=versions(),
        native_kernels=processor_kind(),
        device=asked.device,
        threads=asked.threads,
        rounds=asked.rounds,
        quick=asked.quick,
        seconds=round(time.monotonic() - run.began, 1),
        limits=run.limits,
        scaling=scaling_of(rows),
        rows=tuple(rows),
    )
    if asked.json is not None:
        files.write_json(asked.json, report.model_dump(mode="json"))
    console = Console(width=None if sys.stdout.isatty() else 220)
    console.print(header(report), highlight=False, markup=False)
    for table in tables(report):
        console.print(table)


def machine(device: str) -> Machine:
    """The processor's and the system's names, memory, and the GPU where it is what is measured."""
    gpu = None
    if device == "cuda":
        gpu = asked_of_torch("torch.cuda.get_device_name()")
    return Machine(
        processor=processor(),
        cores=usable_cores(),
        memory_gib=round(memory_bytes() / 2**30, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        gpu=gpu,
    )


def processor() -> str:
    """Its name as Linux gives it, else what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of Python and of the packages that are compared; `absent` where one is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def processor_kind() -> str | None:
    """For which kind of processor the native kernels run; None without them."""
    code = (
        "(lambda k: k and k.processor)(__import__('u2net3d.ops.native', fromlist=['_']).library())"
    )
    found = asked_of_torch(code)
    return None if found == "None" else found


def asked_of_torch(expression: str) -> str:
    """The value of an expression, in a process of its own: this one never loads torch."""
    command = [sys.executable, "-c", f"import torch; print({expression})"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--only", type=chosen, default=SECTIONS, help=f"of {','.join(SECTIONS)}; all by default"
    )
    parser.add_argument("--threads", type=int, default=usable_cores(), help="all cores by default")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (5)")
    parser.add_argument("--minutes", type=float, default=40.0, help="rounds end early after (40)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: shows that it runs")
    parser.add_argument("--volumes", type=Path, help="a folder of real images for `predict`")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    asked = parser.parse_args(arguments)
    if asked.rounds < 1 or asked.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    asked.volumes = images_below(parser, asked.volumes) if asked.volumes else []
    return asked


def images_below(parser: argparse.ArgumentParser, folder: Path) -> list[str]:
    """The images in a folder and those in it; labels (`..._label`) are left out."""
    found = sorted(path for path in folder.rglob("*.nii.gz") if "_label." not in path.name)
    if not found:
        parser.error(f"{folder} holds no .nii.gz")
    return [str(path) for path in found]


def chosen(text: str) -> tuple[Section, ...]:
    """The sections named, in their own order."""
    names = {name.strip() for name in text.split(",")}
    if unknown := names - {*SECTIONS}:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: no such section")
    return tuple(section for section in SECTIONS if section in names)


if __name__ == "__main__":
    main()
