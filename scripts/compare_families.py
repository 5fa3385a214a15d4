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
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import machine, versions
from bench_measure import environment
from compare_options import parsed
from compare_rows import (
    Asked,
    Row,
    append_rows,
    as_typed,
    data_of,
    keys_of,
    read_rows,
    told,
)
from long_runs import exit_code

from u2net3d import files
from u2net3d.models.named import model_of
from u2net3d.prep.cache import default_cache
from u2net3d.spec import ModelSpec, domain_name

WORKER = Path(__file__).resolve().with_name("compare_worker.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 3 where some runs failed, 130 where it was stopped."""
    asked = parsed(arguments, __doc__)
    return exit_code(lambda: _do(asked))


def _do(asked: argparse.Namespace) -> int:
    failed = run_all(asked) if asked.presets else 0
    if asked.report is not None:
        from compare_report import write_report

        write_report(asked.report, read_rows(asked.rows))
    return failed


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
    """The network that `preset:field=value:...` names; raises UsageError for what there is not."""
    return model_of(text, "--presets")


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


if __name__ == "__main__":
    sys.exit(main())
