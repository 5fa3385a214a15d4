"""The options of `scripts/compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import usable_cores
from compare_rows import ROWS, Budget

from u2net3d.cli.training import seconds_of
from u2net3d.errors import U2Net3dError
from u2net3d.models.named import plain
from u2net3d.spec import PRESETS, TrainSpec

_OWN = {"steps", "time_s", "seed", "fold", "validations", "elastic"}  # options of their own
SETTINGS = [name for name in TrainSpec.model_fields if name not in _OWN]


def parsed(arguments: Sequence[str] | None, description: str | None = None) -> argparse.Namespace:
    """What was typed, with its budget; the parser's own exit where that is not complete."""
    parser = argparse.ArgumentParser(
        prog="scripts/compare",
        description=description,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--presets", type=listed, default=[], help=f"of {', '.join(PRESETS)}")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of the data sets; data by default"
    )
    parser.add_argument("--domains", type=listed, default=[], help="name or name=PATH, with commas")
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(n) for n in text.split(",")],
        default=[0],
        help="a run for each: 0,1; 0 by default",
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="budget of one domain; one of three is needed")
    budget.add_argument("--time", help="the same by the clock: 90s, 15m, 1h")
    budget.add_argument("--cpu-seconds", type=float, help="the same in processor time of the steps")
    parser.add_argument("--together", action="store_true", help="one network for all domains")
    parser.add_argument("--cases", type=int, help="patients to learn from; all by default")
    parser.add_argument("--elastic", action="store_true", help="bend the images as U-Net's were")
    parser.add_argument(
        "--set",
        type=changed,
        default={},
        help=f"change the recipe: a=1,b=word of {', '.join(SETTINGS)}",
    )
    _more(parser)
    asked = parser.parse_args(arguments)
    if not asked.presets and asked.report is None:
        parser.error("give --presets to run some, or --report to write about those that ran")
    if asked.presets:
        _complete(parser, asked)
    return asked


def _more(parser: argparse.ArgumentParser) -> None:
    """Options of how and where, not of what."""
    parser.add_argument(
        "--recipe",
        choices=("default", "own"),
        default="default",
        help="own: as published, where `u2net3d train --preset` has it so; default by default",
    )
    parser.add_argument(
        "--validations",
        type=int,
        default=1,
        help="1, the default: the last state is judged; more: the best of them",
    )
    parser.add_argument("--fold", type=int, default=0, help="that is judged; 0 by default")
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), help="all cores by default, %(default)s here"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu by default")
    parser.add_argument(
        "--rows", type=Path, default=ROWS, help="read and added to; %(default)s by default"
    )
    parser.add_argument(
        "--work", type=Path, help="for runs that are not over yet; u2net3d's cache by default"
    )
    parser.add_argument("--keep", action="store_true", help="keep the models of finished runs")
    parser.add_argument("--list", action="store_true", help="say what would run, and run nothing")
    parser.add_argument("--report", type=Path, help="write the document here, from the rows")


def _complete(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> None:
    """Budget and changes to the recipe, from what was typed."""
    if not asked.domains:
        parser.error("give --domains")
    if asked.cases is not None and asked.cases < 1:
        parser.error("--cases must be at least 1")
    if asked.elastic:
        if "elastic" not in TrainSpec.model_fields:
            parser.error("--elastic: training knows no such deformation yet")
        asked.set = {"elastic": True, **asked.set}
    try:
        asked.budget = _budget(asked)
    except (U2Net3dError, ValueError) as error:
        parser.error(str(error))


def _budget(asked: argparse.Namespace) -> Budget:
    if asked.time is not None:
        return Budget(kind="time", amount=seconds_of(asked.time), threads=asked.threads)
    if asked.cpu_seconds is not None:
        return Budget(kind="cpu", amount=asked.cpu_seconds, threads=asked.threads)
    if asked.steps is not None:
        return Budget(kind="steps", amount=asked.steps)
    raise ValueError("give a budget: --steps, --time or --cpu-seconds")


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def changed(text: str) -> dict[str, Any]:
    """`learning_rate=1e-3,optimiser=adamw`."""
    pairs = (part.partition("=") for part in listed(text))
    return {name.strip(): plain(value.strip()) for name, _, value in pairs}
