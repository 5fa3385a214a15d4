"""nnU-Net and this package, minute for minute: which one is ahead after the same time of training.

Peers: `nnunet` as it comes; `nnunet-adamw`, its network, loader, augmentation and loss with AdamW;
`u2net3d`, a model per domain; `universal`, one model of all the domains with the sum of their
budgets. All learn from the same cases on the same threads, with learning rates that fall over the
time given; planning and preparing are not counted. The last weights are judged, on whole validation
volumes, without averaging over reflections (with --tta: once without and once with it).

Each run has a process of its own and adds a row of JSON to --rows when it is over; a run that has
its row is not run again, one that was stopped goes on from its checkpoint. --report writes the
document from the rows alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import machine, usable_cores, versions
from compare_families import contestant, domains_by_name, worked
from compare_options import changed, listed
from compare_rows import Budget, append_rows, data_of, read_rows, told
from long_runs import exit_code
from versus_rows import OURS, PEERS, ROWS, Asked, Ours, Row

from u2net3d import files
from u2net3d.cli.training import seconds_of
from u2net3d.errors import U2Net3dError
from u2net3d.prep.cache import default_cache
from u2net3d.spec import DEFAULT_PRESET

WORKER = Path(__file__).resolve().with_name("versus_worker.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 3 where some runs failed, 130 where it was stopped."""
    asked = parsed(arguments)
    return exit_code(lambda: _do(asked))


def _do(asked: argparse.Namespace) -> int:
    failed = run_all(asked) if asked.domains else 0
    if asked.report is not None:
        from versus_report import write_report

        write_report(asked.report, read_rows(asked.rows, Row))
    return failed


def run_all(asked: argparse.Namespace) -> int:
    """Runs what has no row yet; how many runs failed."""
    there = {row.run for row in read_rows(asked.rows, Row)}
    wanted = (False, True) if asked.tta else (False,)
    missing = [
        (each, tuple(tta for tta in wanted if (each.key, tta) not in there)) for each in runs(asked)
    ]  # what is wrong with a data set is said here, before hours of the others
    todo = [(each, tta) for each, tta in missing if tta]
    print(told(missing, todo, asked.rows))
    if asked.list:
        print(*(described(each) for each, _ in todo), sep="\n")
        return 0
    failed = 0
    for number, (each, tta) in enumerate(todo, start=1):
        print(f"{number} of {len(todo)}: {described(each)}", flush=True)
        folder = (asked.work or default_cache() / "versus").resolve() / each.key
        rows = rows_of(each, tta, asked, folder)
        if not rows:
            failed += 1
            continue
        append_rows(asked.rows, rows)
        print("\n".join(summary(row) for row in rows), flush=True)
        if not asked.keep:
            shutil.rmtree(folder)
    return failed


def rows_of(
    each: Asked, tta: tuple[bool, ...], asked: argparse.Namespace, folder: Path
) -> list[Row]:
    """The rows of a run, none where it failed; those that lie in its folder are not made again."""
    done = folder / "rows.json"
    found = (
        [Row.model_validate(row) for row in json.loads(done.read_text())] if done.exists() else []
    )
    if {row.tta for row in found} >= {*tta}:
        return [row for row in found if row.tta in tta]
    names = domains_by_name(asked.domains)
    here = machine(each.device)
    job = {
        "asked": each.model_dump(mode="json"),
        "data": str(asked.data.resolve()),
        "domains": [names[name] for name in each.domains],
        "tta": tta,
        "machine": f"{here.gpu or here.processor}, {here.cores} cores, {here.memory_gib} GiB",
        "versions": versions() | commit(),
    }
    files.write_json(folder / "job.json", job)
    if code := worked(folder, asked.threads, WORKER, ours=each.ours is not None):
        what = f"failed with code {code}: {described(each)}; see {folder / 'output.txt'}"
        print(what, file=sys.stderr)
        return []
    return [Row.model_validate(row) for row in json.loads(done.read_text())]


def runs(asked: argparse.Namespace) -> Iterator[Asked]:
    """Everything that was asked for, seed by seed and domain by domain, all peers in turn."""
    names = tuple(domains_by_name(asked.domains))
    for seed in asked.seeds:
        for domain in names:
            for peer in asked.peers:
                if peer != "universal":
                    yield _run(asked, peer, (domain,), seed)
        if "universal" in asked.peers:
            yield _run(asked, "universal", names, seed)


def _run(asked: argparse.Namespace, peer: str, domains: tuple[str, ...], seed: int) -> Asked:
    typed = domains_by_name(asked.domains)
    return Asked(
        data=data_of(asked.data, [typed[name] for name in domains], asked.fold),
        peer=peer,
        domains=domains,
        seed=seed,
        fold=asked.fold,
        budget=asked.budget,
        device=asked.device,
        ours=asked.ours if peer in OURS else None,
        compiled=asked.compile and peer not in OURS,
    )


def described(each: Asked) -> str:
    """A run in a line."""
    return f"{each.name} on {'+'.join(each.domains)}, seed {each.seed}, {each.budget} a domain"


def summary(row: Row) -> str:
    """What came of a run, in a line."""
    dice = ", ".join(f"{name} {outcome.dice:.3f}" for name, outcome in row.outcomes.items())
    mirrored = ", mirrored" if row.tta else ""
    return (
        f"  {row.asked.name}{mirrored}: {row.steps} steps, {row.seconds:.0f} s, "
        f"{row.weights:,} weights; {dice}"
    )


def commit() -> dict[str, str]:
    """Of this repository, as `git` names it; nothing where there is none."""
    git = ["git", "-C", str(WORKER.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": done.stdout.strip()}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/versus-nnunet",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--peers", type=listed, default=[*PEERS], help=f"of {', '.join(PEERS)}; all"
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--domains", type=listed, default=[], help="name or name=PATH, with commas")
    parser.add_argument("--time", default="30m", help="of one domain, by the clock: 90s, 30m, 2h")
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0])
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument(
        "--preset", default=DEFAULT_PRESET, help="ours; name:field=value changes it"
    )
    parser.add_argument("--set", type=changed, default={}, help="ours, of TrainSpec: a=1,b=word")
    parser.add_argument(
        "--tta", action="store_true", help="judge with averaged reflections as well"
    )
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--compile", action="store_true", help="let nnU-Net compile, its default on CUDA"
    )
    parser.add_argument(
        "--rows", type=Path, default=ROWS, help="read and added to; %(default)s by default"
    )
    parser.add_argument("--work", type=Path, help="for runs that are not over, and nnU-Net's data")
    parser.add_argument("--keep", action="store_true", help="keep the models of finished runs")
    parser.add_argument("--list", action="store_true", help="say what would run, and run nothing")
    parser.add_argument("--report", type=Path, help="write the document here, from the rows")
    asked = parser.parse_args(arguments)
    if not asked.domains and asked.report is None:
        parser.error("give --domains to run some, or --report to write about those that ran")
    if unknown := [peer for peer in asked.peers if peer not in PEERS]:
        parser.error(f"there is no peer '{unknown[0]}'; there are: {', '.join(PEERS)}")
    try:
        seconds = seconds_of(asked.time)
        asked.budget = Budget(kind="time", amount=seconds, threads=asked.threads)
        asked.ours = Ours.of(asked.preset, contestant(asked.preset), asked.set)
    except (U2Net3dError, ValueError) as error:
        parser.error(str(error))
    return asked


if __name__ == "__main__":
    sys.exit(main())
