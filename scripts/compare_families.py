"""Any presets on any domains with one budget: Dice, cost, and which claims of the papers hold.

Every preset is trained by `u2net3d`'s own training, judged on the same held-out cases (whole
volumes, no test-time augmentation), each run in a process of its own. A row of JSON is added to
--rows when a run is over; a run that has its row is not run again, one that was stopped goes on
from its checkpoint. --report writes the document from the rows alone.

A preset may be changed: `unetpp:stages=3`, `base:residual=false`, `unet:block=residual`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import machine, usable_cores, versions
from bench_measure import environment
from compare_rows import (
    ROWS,
    Asked,
    Budget,
    Row,
    append_rows,
    as_typed,
    data_of,
    keys_of,
    read_rows,
    told,
)

from u2net3d import files
from u2net3d.cli.training import seconds_of
from u2net3d.errors import U2Net3dError, UsageError
from u2net3d.prep.cache import default_cache
from u2net3d.spec import PRESETS, Design, ModelSpec, TrainSpec, domain_name

WORKER = Path(__file__).resolve().with_name("compare_worker.py")
_NOT_CHANGED = {"preset", "family", "design", "options"}  # of ModelSpec, by a word of their own


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 3 where some runs failed, 130 where it was stopped."""
    asked = parsed(arguments)
    failed = 0
    before = signal.signal(signal.SIGTERM, _stopped)
    try:
        if asked.presets:
            failed = run_all(asked)
        if asked.report is not None:
            from compare_report import write_report

            write_report(asked.report, read_rows(asked.rows))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except U2Net3dError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        signal.signal(signal.SIGTERM, before)
    return 3 if failed else 0


def run_all(asked: argparse.Namespace) -> int:
    """Runs what has no row yet; how many runs failed."""
    place = asked.work or default_cache() / "comparison"
    names = domains_by_name(asked.domains)
    wanted, there = [*runs(asked)], keys_of(read_rows(asked.rows))
    todo = [each for each in wanted if each.key not in there]
    print(told(wanted, todo, asked.rows))
    if asked.list:
        print(*(described(each) for each in todo), sep="\n")
        return 0
    failed = 0
    for number, each in enumerate(todo, start=1):
        print(f"{number} of {len(todo)}: {described(each)}", flush=True)
        folder = place / each.key
        rows = rows_of(each, [names[name] for name in each.domains], asked, folder)
        if not rows:
            failed += 1
            continue
        append_rows(asked.rows, rows)
        print("\n".join(summary(row) for row in rows), flush=True)
        if not asked.keep:
            shutil.rmtree(folder)
    return failed


def rows_of(
    each: Asked, domains: Sequence[str], asked: argparse.Namespace, folder: Path
) -> list[Row]:
    """The rows of a run, none where it failed; those that lie in its folder are not made again."""
    done = folder / "rows.json"
    if not done.exists():
        files.write_json(folder / "job.json", job_of(each, domains, asked))
        if code := worked(folder, each.budget.threads or asked.threads):
            print(f"failed with code {code}: {described(each)}", file=sys.stderr)
            return []
    return [Row.model_validate(row) for row in json.loads(done.read_text())]


def job_of(each: Asked, domains: Sequence[str], asked: argparse.Namespace) -> dict[str, Any]:
    """What a worker is told of a run."""
    here = machine(each.device)
    return {
        "asked": each.model_dump(mode="json"),
        "data": str(asked.data.resolve()),
        "domains": list(domains),
        "machine": f"{here.gpu or here.processor}, {here.cores} cores, {here.memory_gib} GiB",
        "versions": versions(),
    }


def worked(folder: Path, threads: int, worker: Path = WORKER, *, ours: bool = True) -> int:
    """Exit code of a worker that does the job in `folder`; it stops when this process is stopped.

    In a session of its own: Ctrl-C reaches it through us, once, and it writes a checkpoint. What it
    prints goes to output.txt in `folder`, what it says on stderr to a person.
    """
    command = [sys.executable, str(worker), str(folder)]
    place = environment(threads, ours=ours)
    with (
        (folder / "output.txt").open("a") as output,
        subprocess.Popen(command, env=place, stdout=output, start_new_session=True) as process,
    ):
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise


def runs(asked: argparse.Namespace) -> Iterator[Asked]:
    """Everything that was asked for, seed by seed, so that every preset has a first row early."""
    names = domains_by_name(asked.domains)
    groups = [tuple(names)] if asked.together else [(name,) for name in names]
    data = {
        group: data_of(asked.data, [names[name] for name in group], asked.fold) for group in groups
    }
    for seed in asked.seeds:
        for text in asked.presets:
            for domains in groups:
                yield Asked(
                    data=data[domains],
                    preset=text,
                    model=contestant(text),
                    recipe=asked.recipe,
                    training=asked.set,
                    domains=domains,
                    seed=seed,
                    fold=asked.fold,
                    budget=asked.budget,
                    cases=asked.cases,
                    validations=asked.validations,
                    device=asked.device,
                )


def domains_by_name(texts: Sequence[str]) -> dict[str, str]:
    """`hippocampus`, or `name=PATH`, by the domain's name."""
    return {domain_name(text.partition("=")[0]): text for text in texts}


def contestant(text: str) -> ModelSpec:
    """The network that `preset:field=value:...` names; raises UsageError for what there is not.

    A field is one of ModelSpec or of Design, else an option of the preset's family.
    """
    name, *changes = text.split(":")
    if name not in PRESETS:
        there = ", ".join(PRESETS)
        raise UsageError("--presets", f"there is no preset '{name}'", f"there are: {there}")
    said = PRESETS[name].model_dump()
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals:
            raise UsageError("--presets", f"'{change}' in {text}", "write field=value")
        if field in ModelSpec.model_fields and field not in _NOT_CHANGED:
            said[field] = plain(value)
        elif said["family"] == "universal" and field in Design.model_fields:
            said["design"] = {**said["design"], field: plain(value)}
        else:
            said["options"] = {**said["options"], field: plain(value)}
    return buildable(text, said)


def buildable(text: str, said: dict[str, Any]) -> ModelSpec:
    """The model of these fields, built once as a shape alone: before hours of the others' runs."""
    import torch

    from u2net3d.models import network

    try:
        model = ModelSpec.model_validate(said)
        with torch.device("meta"):
            network(model)
    except ValueError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = "; ".join(lines[1:3] or lines)
        raise UsageError("--presets", f"{text}: {what}", "see its family") from error
    return model


def plain(value: str) -> Any:
    """`3`, `0.5`, `true` as JSON has them; anything else is a word."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def described(each: Asked) -> str:
    """A run in a line."""
    few = f", {each.cases} patients" if each.cases else ""
    changed = "".join(f", {name}={as_typed(value)}" for name, value in each.training.items())
    return (
        f"{each.preset} on {'+'.join(each.domains)}, seed {each.seed}, {each.budget}{few}{changed}"
    )


def summary(row: Row) -> str:
    """What came of a run, in a line."""
    dice = ", ".join(f"{name} {outcome.dice:.3f}" for name, outcome in row.outcomes.items())
    return f"  {row.name}: {row.steps} steps, {row.seconds:.0f} s, {row.weights:,} weights; {dice}"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/compare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
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
        help=f"change the recipe: a=1,b=word of {', '.join(TrainSpec.model_fields)}",
    )
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
    asked = parser.parse_args(arguments)
    if not asked.presets and asked.report is None:
        parser.error("give --presets to run some, or --report to write about those that ran")
    if asked.presets:
        _complete(parser, asked)
    return asked


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


def _stopped(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
