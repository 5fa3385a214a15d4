"""The main job from end to end: train, add a domain, predict cases never seen, evaluate.

Every step is a `u2net3d` command, printed before it runs. Test cases are those of imagesTs where
labelsTs has their labels; elsewhere a fifth of the patients is taken out of the training set before
anything else looks at it. Ends with a table (summary.md, summary.json) and pictures.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from test_cases import hold_out

from u2net3d import files
from u2net3d.evaluate.pictures import overlay
from u2net3d.io import read_image, read_label, stem
from u2net3d.io.dataset import list_domains
from u2net3d.spec import domain_name

ROOT = Path(__file__).resolve().parent.parent
REAL = ("hippocampus", "prostate")  # to train, to add: the smallest archives of the Decathlon


def main() -> None:
    asked = arguments()
    if asked.real is not None:
        asked.data, asked.domains, asked.add = fetched(asked.real), *REAL
    began = time.perf_counter() - asked.setup_seconds
    out, base = asked.out, [domain_name(name) for name in asked.domains.split(",")]
    names = [*base, domain_name(asked.add)]
    empty(out)
    print(f"data: {asked.data}, domains: {', '.join(list_domains(asked.data))}", flush=True)
    tests = {name: hold_out(asked.data, name, out / "data") for name in names}
    data, model = ["--data", str(out / "data")], ["--model", str(out / "model")]
    u2net3d("train", "--domains", ",".join(base), *data, *model, "--time", asked.time)
    for name in base:
        predict(name, tests[name], out / "before", model)
    u2net3d("add-domain", names[-1], *data, *model, "--time", asked.add_time)
    seconds = {name: predict(name, tests[name], out / "predictions", model) for name in names}
    unchanged = all(same_labels(out / "before" / name, out / "predictions" / name) for name in base)
    u2net3d("verify", *model)
    scores = {name: evaluate(name, tests[name], out, model) for name in names}
    for name in names:
        draw(name, tests[name], scores[name], out)
    for run in (out / "model" / "runs").iterdir():
        shutil.copy(run / "progress.png", out / "pictures" / f"{run.name}_progress.png")
    summary = {
        "data": "phantoms drawn by a program, no patients" if phantoms(asked.data) else "real",
        "trained": base,
        "added": names[-1],
        "time": {"train": asked.time, "add": asked.add_time},
        "minutes_in_all": round((time.perf_counter() - began) / 60, 1),
        "old_domains_unchanged": unchanged,
        "trunk_bytes": (out / "model" / "trunk.safetensors").stat().st_size,
        "domains": {name: row(name, scores[name], seconds[name], out) for name in names},
    }
    files.write_json(out / "summary.json", summary)
    files.write_text(out / "summary.md", table(summary))
    print(f"\n{table(summary)}\npictures: {out / 'pictures'}")
    if not unchanged:
        sys.exit("an old domain answers differently than before")


def row(name: str, scores: dict, seconds: float, out: Path) -> dict:
    """What the summary says of a domain."""
    return {
        "cases": scores["n"],
        "dice": {label: means["dice"] for label, means in scores["labels"].items()},
        "mean_dice": scores["mean"]["dice"],
        "seconds_per_volume": seconds,
        "bank_bytes": (out / "model" / "domains" / f"{name}.safetensors").stat().st_size,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument(
        "--real",
        type=Path,
        nargs="?",
        const=Path("demo-data"),
        metavar="DIR",
        help=f"fetch {' and '.join(REAL)} into DIR (demo-data) and run on them",
    )
    parser.add_argument("--domains", default="liver,prostate,heart", help="to train together")
    parser.add_argument("--add", default="pancreas", help="to add afterwards")
    parser.add_argument("--time", default="7m", help="for training")
    parser.add_argument("--add-time", default="6m", help="for adding")
    parser.add_argument("--out", type=Path, default=Path("demo-output"))
    parser.add_argument("--setup-seconds", type=float, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def fetched(data: Path) -> Path:
    """The folder with the real data sets, fetched where they are not there yet."""
    data.mkdir(parents=True, exist_ok=True)
    for name in REAL:
        if name in list_domains(data):
            continue
        try:
            u2net3d("download", name, "--data", str(data))
        except SystemExit:
            sys.exit(
                f"error: --real: {name} could not be fetched (the line above says why) — without a "
                f"network, unpack its archive into {data} by hand, or leave --real out: the "
                "phantoms need none"
            )
    return data


def empty(out: Path) -> None:
    """Clears what an earlier demo left; a folder that is not a demo's is never touched."""
    mark = out / "made-by-the-demo"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        sys.exit(f"error: --out: {out} holds files that no demo made — name another folder")
    shutil.rmtree(out, ignore_errors=True)
    files.write_text(mark, "scripts/demo empties this folder when it runs again\n")


def u2net3d(*words: str) -> str:
    """Runs a command as a user would; its progress is shown and returned."""
    print(f"\n$ u2net3d {' '.join(words)}", flush=True)
    command = [sys.executable, "-m", "u2net3d", *words]
    said = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            print(f"  {line}", end="", flush=True)
            said.append(line)
    if process.returncode:
        sys.exit(process.returncode)
    return "".join(said)


def predict(name: str, tests: Path, out: Path, model: list[str]) -> float:
    """Segments the test cases of a domain; seconds per volume."""
    images = str(tests / "imagesTs")
    said = u2net3d("predict", "-i", images, "-o", str(out / name), "--domain", name, *model)
    times = [float(value) for value in re.findall(r" in ([\d.]+) s$", said, re.MULTILINE)]
    return sum(times) / len(times)


def evaluate(name: str, tests: Path, out: Path, model: list[str]) -> dict:
    """Scores the predictions of a domain and returns the JSON of `u2net3d evaluate`."""
    where = out / "scores" / f"{name}.json"
    folders = ["--pred", str(out / "predictions" / name), "--ref", str(tests / "labelsTs")]
    u2net3d("evaluate", *folders, "--domain", name, *model, "--json", str(where))
    return json.loads(where.read_text())


def draw(name: str, tests: Path, scores: dict, out: Path) -> None:
    """The worst and the best test case of a domain as overlay pictures."""
    means = {
        case: statistics.mean(
            [row["dice"] for row in rows.values() if row["dice"] is not None] or [0]
        )
        for case, rows in scores["cases"].items()
    }
    for rank, case in (("worst", min(means, key=means.get)), ("best", max(means, key=means.get))):
        names = (case, f"{case}_0000")  # the first channel where each has a file of its own
        images = [path for path in (tests / "imagesTs").iterdir() if stem(path) in names]
        image = read_image(images)[0]
        label = read_label(out / "predictions" / name / f"{case}.nii.gz")[0].array[0]
        truth = read_label(next((tests / "labelsTs").glob(f"{case}.*")))[0].array[0]
        title = f"{name}, {rank} test case: {case}"
        labels = ("background", *scores["labels"])
        png = overlay(image.array[0], label, truth, image.spacing_mm, title, labels)
        files.write_bytes(out / "pictures" / f"{name}_{rank}.png", png)


def same_labels(one: Path, other: Path) -> bool:
    """Whether two folders hold the same label files; the records beside them tell the time."""
    names = sorted(path.name for path in one.glob("*.nii*"))
    return names == sorted(path.name for path in other.glob("*.nii*")) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def phantoms(data: Path) -> bool:
    """Whether the data sets are this repository's own drawings."""
    return data.resolve() == (ROOT / "data").resolve()


def table(summary: dict) -> str:
    lines = [
        f"Data: {summary['data']}. Test cases never seen in training, planning or validation; no",
        "test-time augmentation. Dice is averaged over cases, then over labels.",
        "",
        "| domain | cases | Dice | per label | s per volume | bank bytes |",
        "|---|---|---|---|---|---|",
    ]
    for name, said in summary["domains"].items():
        how = "added" if name == summary["added"] else "trained"
        labels = ", ".join(
            f"{k} {v:.3f}" if v is not None else f"{k} -" for k, v in said["dice"].items()
        )
        lines.append(
            f"| {name} ({how}) | {said['cases']} | {said['mean_dice'] or 0:.3f} | {labels} "
            f"| {said['seconds_per_volume']:.1f} | {said['bank_bytes']:,} |"
        )
    kept = "yes" if summary["old_domains_unchanged"] else "NO"
    budget = summary["time"]
    return "\n".join(
        [
            *lines,
            "",
            f"Trunk: {summary['trunk_bytes']:,} bytes. Old domains unchanged: {kept} (label files",
            "predicted before and after adding are compared byte for byte).",
            f"Trained for {budget['train']}, added in {budget['add']}; "
            f"{summary['minutes_in_all']} minutes in all, set-up included.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
