"""Domains learnt from few patients: on the frozen trunk of other domains, and from nothing.

Each of the domains is added to a model of the others, from the first patients by a hash of their
names (1, 5, all), with each way in which its bank may begin; a network of its own learns from the
same patients in the same time: `scratch`. All are judged on the same whole validation volumes, by
which nothing is planned, normalised or chosen; the last state counts. A trunk is trained once, kept
in --work and used for all runs on it.

Each run has a process of its own and adds a row of JSON to --rows when it is over; a run that has
its row is not run again, one that was stopped goes on from its checkpoint. The same command may run
several times at once: they share the work. --report writes the document from the rows alone.

--trunks compares trunks: `a+b` of these domains in place of all others, `:base_channels=24` of
another width, `@10m` trained for so long, or all of it: `a+b:base_channels=24@10m`. A trunk that
knows the new domain is left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bench import usable_cores
from compare_families import contestant, domains_by_name, job_of, rows_of, worked
from compare_options import listed
from compare_rows import Budget, append_rows, keys_of, read_rows, told
from few_shot_rows import INITS, ROWS, FewAsked, FewRow, require_one_trunk
from few_shot_runs import amount_of, require_patients, runs, trunk_of, typed
from long_runs import Busy, claimed, exit_code

from u2net3d import files
from u2net3d.cli.training import seconds_of
from u2net3d.errors import UsageError
from u2net3d.prep.cache import default_cache

WORKER = Path(__file__).resolve().with_name("few_shot_worker.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 3 where some runs failed, 130 where it was stopped."""
    return exit_code(lambda: _do(arguments))


def _do(arguments: Sequence[str] | None) -> int:
    asked = parsed(arguments)
    failed = run_all(asked) if asked.domains else 0
    if asked.report is not None:
        from few_shot_report import write_report

        write_report(asked.report, read_rows(asked.rows, FewRow))
    return failed


def run_all(asked: argparse.Namespace) -> int:
    """Runs what has no row yet; how many runs failed."""
    wanted, there = [*runs(asked)], keys_of(read_rows(asked.rows, FewRow))
    todo = [each for each in wanted if each.key not in there]
    require_patients(asked, todo)
    print(told(wanted, todo, asked.rows))
    if asked.list:
        print(*(described(each) for each in todo), sep="\n")
        return 0
    place = asked.work or default_cache() / "few-shot"
    failed, lost = set[str](), set[str]()  # runs, and trunks that could not be trained
    for wait in (False, True):  # for a trunk that another process trains, when nothing else is left
        for number, each in enumerate(todo, start=1):
            with suppress(Busy), claimed(place / f"{each.key}.lock"):
                if each.key in failed | keys_of(read_rows(asked.rows, FewRow)):
                    continue
                trunk = _trunk(each, asked, place / "trunks", lost, wait=wait)
                print(f"{number} of {len(todo)}: {described(each)}", flush=True)
                row = _row(each, asked, place / each.key, trunk) if trunk else None
                if row is None:
                    failed.add(each.key)
                    continue
                require_one_trunk([*read_rows(asked.rows, FewRow), row])
                append_rows(asked.rows, [row])
                print(summary(row), flush=True)
                if not asked.keep:
                    shutil.rmtree(place / each.key)
    return len(failed)


def _trunk(
    each: FewAsked, asked: argparse.Namespace, place: Path, lost: set[str], *, wait: bool
) -> Path | None:
    """The folder with the trunk of a run, trained now where it was not before; None: it failed.

    Of a run without one that in which the others lie. wait: else Busy is raised where another
    process trains it.
    """
    if each.trunk is None:
        return place
    folder = place / each.trunk.key
    with claimed(folder.with_suffix(".lock"), wait=wait):
        if each.trunk.key not in lost:
            if not (folder / "rows.json").exists():
                print(f"trunk: {each.stands_on}, for {each.domain}", flush=True)
            if rows_of(each.trunk, typed(asked, each.trunk.domains), asked, folder):
                return folder
    lost.add(each.trunk.key)
    return None


def _row(each: FewAsked, asked: argparse.Namespace, folder: Path, trunk: Path) -> FewRow | None:
    """The row of a run, None where it failed; one that lies in its folder is not made again."""
    done = folder / "row.json"
    if not done.exists():
        job = job_of(each, typed(asked, each.domains), asked)
        job |= {"trunk": str(trunk.resolve()) if each.trunk else None}
        files.write_json(folder / "job.json", job)
        if code := worked(folder, each.budget.threads or asked.threads, WORKER):
            print(f"failed with code {code}: {described(each)}", file=sys.stderr)
            return None
    return FewRow.model_validate(json.loads(done.read_text()))


def described(each: FewAsked) -> str:
    """A run in a line."""
    few = "all patients" if each.cases is None else f"{each.cases} of its patients"
    on = "" if each.trunk is None else f" on {each.stands_on}"
    return f"{each.domain}, {few}, {each.init}{on}, seed {each.seed}, {each.budget}"


def summary(row: FewRow) -> str:
    """What came of a run, in a line."""
    chosen = f", from {row.nearest.taken}" if row.nearest else ""
    outcome = row.outcomes[row.asked.domain]
    return f"  Dice {outcome.dice:.3f}, {row.steps} steps in {row.seconds:.0f} s{chosen}"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Raises UsageError for what there is not."""
    parser = argparse.ArgumentParser(
        prog="scripts/few-shot", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--domains", type=listed, default=[], help="name or name=PATH, with commas")
    parser.add_argument("--cases", type=sizes, default=[1, 5, None], help="patients: 1,5,all")
    parser.add_argument("--inits", type=listed, default=[*INITS], help=f"of {', '.join(INITS)}")
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0])
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--time", help="of a run, by the clock: 90s, 4m; 4m by default")
    budget.add_argument("--cpu-seconds", type=float, help="of a run: processor time of its steps")
    budget.add_argument("--steps", type=int, help="of a run")
    parser.add_argument(
        "--trunk-time", default="30m", help="of a trunk, counted as a run's: 30m; with --steps: 900"
    )
    parser.add_argument("--trunks", type=words, default=[""], help="see above; with commas")
    parser.add_argument("--preset", default="base", help="of trunks and of scratch")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--rows", type=Path, default=ROWS, help="read and added to; %(default)s by default"
    )
    parser.add_argument("--work", type=Path, help="for trunks, and runs that are not over yet")
    parser.add_argument("--keep", action="store_true", help="keep the models of finished runs")
    parser.add_argument("--list", action="store_true", help="say what would run, and run nothing")
    parser.add_argument("--report", type=Path, help="write the document here, from the rows")
    asked = parser.parse_args(arguments)
    if not asked.domains and asked.report is None:
        parser.error("give --domains to run some, or --report to write about those that ran")
    return _completed(asked) if asked.domains else asked


def _completed(asked: argparse.Namespace) -> argparse.Namespace:
    """With its budgets and trunks, from what was typed."""
    if unknown := [init for init in asked.inits if init not in INITS]:
        raise UsageError("--inits", f"there is no '{unknown[0]}'", f"there are {', '.join(INITS)}")
    if asked.steps is not None:
        asked.budget = Budget(kind="steps", amount=asked.steps)
    elif asked.cpu_seconds is not None:
        asked.budget = Budget(kind="cpu", amount=asked.cpu_seconds, threads=asked.threads)
    else:
        seconds = seconds_of(asked.time or "4m")
        asked.budget = Budget(kind="time", amount=seconds, threads=asked.threads)
    contestant(asked.preset)
    if {*asked.inits} == {"scratch"}:
        return asked
    amount = amount_of(asked.trunk_time, asked.budget.kind)
    whole = asked.budget.model_copy(update={"amount": amount})
    asked.trunks = [trunk_of(word, asked.preset, whole) for word in asked.trunks]
    alone = len(domains_by_name(asked.domains)) < 2
    if alone and any(trunk.domains is None for trunk in asked.trunks):
        raise UsageError("--domains", "there are no others to train a trunk on", "give two or more")
    return asked


def sizes(text: str) -> list[int | None]:
    """`1,5,all` as numbers of patients, None for all of them."""
    found = [None if part == "all" else int(part) for part in listed(text)]
    if not found or any(n is not None and n < 1 for n in found):
        raise argparse.ArgumentTypeError(f"'{text}': write 1,5,all")
    return found


def words(text: str) -> list[str]:
    """Trunks; an empty one is that of all the others as it comes."""
    return [part.strip() for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
