"""The weights that come with the package, from data sets to a model folder in half precision.

1. trunk: the base domains are trained together. 2. round: the trunk is rounded to half precision,
and named after the rounded numbers. 3. banks: every bank is trained on the frozen, rounded trunk;
one of a base domain goes on from where it stood, and the better one stays; another begins anew.
4. ship: the banks are rounded, judged by the validation cases as they are now, and written with
cards and licence notices. The same command goes on where it was stopped; what is done is not done
again. Only data whose licence allows it is taken; where the headers of a data set name the wrong
axes, `--turn` mends them in a copy first, or the weights would know a body that lies wrongly.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ship_notices import IMAGES, licence_of, notice
from ship_turned import axes_of, turned

from u2net3d import files, store
from u2net3d.cli.cards import write_cards
from u2net3d.infer.predict import choose_device
from u2net3d.io.dataset import Dataset, find_datasets
from u2net3d.models.network import Network
from u2net3d.spec import DomainSpec
from u2net3d.store import domains, weights
from u2net3d.train import checkpoint
from u2net3d.train.sides import kept_sides
from u2net3d.train.validate import judge

ROOT = Path(__file__).resolve().parent.parent
LIMIT_BYTES = 3_000_000  # what trunk and banks should stay below


def main() -> None:
    asked = arguments()
    datasets = {each.domain: each for each in find_datasets(asked.data, asked.base + asked.add)}
    for name, dataset in datasets.items():
        licence_of(name, dataset.facts)
    base, added = [*datasets][: len(asked.base)], [*datasets][len(asked.base) :]
    typed = dict(zip(datasets, asked.base + asked.add, strict=True))
    for name in asked.turn.keys() - datasets.keys():
        sys.exit(f"error: --turn: {name} is neither in --base nor in --add")
    once = steps_of(asked)
    for name, axes in asked.turn.items():
        place = asked.work / "turned" / name
        once(f"turn {name}", lambda n=name, a=axes, p=place: turned(datasets[n], a, p))
        typed[name] = f"{name}={place}"
        (datasets[name],) = find_datasets(asked.data, [typed[name]])
    trunk, model = asked.work / "trunk", asked.work / "model"
    once("trunk", lambda: train_trunk(asked, trunk, [typed[name] for name in base]))
    once("round", lambda: round_trunk(trunk, model))
    for name in base:
        once(f"bank {name}", lambda n=name: train_further(asked, model, n, typed[n]))
    for name in added:
        once(f"bank {name}", lambda n=name: train_anew(asked, model, n, typed[n]))
    made = asked.work / "shipped"
    write(asked, model, made, datasets, base)
    put(made, asked.out)
    report(asked.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/ship-weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--base", type=listed, required=True, help="domains to train the trunk on")
    parser.add_argument("--add", type=listed, default=[], help="domains to add to it")
    parser.add_argument("--init", default="fresh", help="what an added bank starts from")
    parser.add_argument(
        "--turn",
        type=turns,
        default={},
        metavar="NAME=AXES",
        help="how the stored voxels of a domain really run, such as headneckct=PLI",
    )
    parser.add_argument("--preset", default="base")
    for part in ("trunk", "bank"):
        budget = parser.add_mutually_exclusive_group()
        budget.add_argument(f"--{part}-time", help=f"for the {part}, such as 30m (else by steps)")
        budget.add_argument(f"--{part}-steps", type=int, help="else those of the preset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fold", default="0", help="its validation cases judge")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cache", type=Path, help="prepared cases; the user's cache by default")
    parser.add_argument("--work", type=Path, default=Path("ship-output"), help="kept between runs")
    parser.add_argument("--out", type=Path, default=ROOT / "u2net3d" / "weights")
    return parser.parse_args()


def listed(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def turns(text: str) -> dict[str, str]:
    return dict(axes_of(each) for each in listed(text))


def steps_of(asked: argparse.Namespace) -> Callable[[str, Callable[[], None]], None]:
    """once(name, step) runs a step and remembers that it is done; other options are refused."""
    place, options = asked.work / "steps.json", said(asked)
    known = json.loads(place.read_text()) if place.is_file() else {"asked": options, "done": []}
    if known["asked"] != options:
        sys.exit(f"error: --work: {asked.work} is of another command — name another folder")

    def once(name: str, step: Callable[[], None]) -> None:
        if name in known["done"]:
            print(f"{name}: done before", flush=True)
            return
        step()
        known["done"].append(name)
        files.write_json(place, known)

    return once


def said(asked: argparse.Namespace) -> dict[str, Any]:
    """The options that decide about the weights."""
    places = ("data", "work", "out", "cache", "device")
    return {key: value for key, value in vars(asked).items() if key not in places}


def train_trunk(asked: argparse.Namespace, model: Path, typed: list[str]) -> None:
    budget = budget_of(asked.trunk_time, asked.trunk_steps)
    words = ["--domains", ",".join(typed), "--preset", asked.preset, *budget]
    command(asked, "train", model, model / "runs" / "train", *words)


def round_trunk(trunk: Path, model: Path) -> None:
    """The trained model with its trunk rounded to half precision, as a model of its own."""
    net, spec, specs = store.load(trunk)
    rounded, _ = domains.halved(trunk / store.TRUNK, weights.state(net.trunk))
    net.trunk.load_state_dict(rounded)
    cards = {name: record.said.card for name, record in store.read_domains(trunk).items()}
    shutil.rmtree(model, ignore_errors=True)  # half of an earlier attempt
    store.save_model(model, net, spec, specs, cards, hashes(trunk, specs))
    run = Path("runs") / "train" / "run.json"  # says who was on which side of the split
    files.write_bytes(model / run, (trunk / run).read_bytes())


def train_further(asked: argparse.Namespace, model: Path, name: str, text: str) -> None:
    """The bank of a base domain on the rounded trunk; what it was before stays if it is better."""
    if not domains.versions(model, name):
        sha256 = store.read_manifest(model).domains[name].sha256
        run = model / "runs" / f"update-{name}-{sha256[:12]}"
        budget = budget_of(asked.bank_time, asked.bank_steps)
        command(asked, "update-domain", model, run, text, "--force", *budget)
    kept = model / store.PREVIOUS
    shas = domains.versions(model, name)
    known = {sha256: kept / f"{name}-{sha256[:12]}.safetensors" for sha256 in shas}
    now = store.read_manifest(model).domains[name].sha256
    known[now] = store.read_domains(model)[name].path
    dice = {sha256: mean_dice(weights.read_said(path).card) for sha256, path in known.items()}
    best = max(dice, key=lambda sha256: (dice[sha256], sha256 == now))
    if best != now:
        print(f"{name}: {dice[now]:.4f} on the rounded trunk, {dice[best]:.4f} before: kept that")
        domains.rollback(model, name, best)


def train_anew(asked: argparse.Namespace, model: Path, name: str, text: str) -> None:
    """The bank of a domain that the trunk was not trained on."""
    if name not in store.read_manifest(model).domains:
        run = model / "runs" / f"add-{name}"
        budget = budget_of(asked.bank_time, asked.bank_steps)
        command(asked, "add-domain", model, run, text, "--init", asked.init, *budget)


def command(asked: argparse.Namespace, verb: str, model: Path, run: Path, *words: str) -> None:
    """A training as a user would type it; taken up where it has a checkpoint."""
    common = ["--data", str(asked.data), "--model", str(model), "--seed", str(asked.seed)]
    common += ["--fold", asked.fold, "--device", asked.device]
    common += ["--cache", str(asked.cache)] if asked.cache else []
    begun = ["--resume"] if checkpoint.generations(run) else ["--overwrite"]
    u2net3d(verb, *words, *common, *begun)


def u2net3d(*words: str) -> None:
    print(f"\n$ u2net3d {' '.join(words)}", flush=True)
    with subprocess.Popen([sys.executable, "-m", "u2net3d", *words]) as process:
        # the command ends with a checkpoint; a terminal sends Ctrl-C to it as well
        answers = {
            signal.SIGINT: lambda *_: None,
            signal.SIGTERM: lambda number, _: process.send_signal(number),
        }
        before = {number: signal.signal(number, answer) for number, answer in answers.items()}
        code = process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if code:
        sys.exit(code)


def budget_of(time: str | None, steps: int | None) -> list[str]:
    return ["--time", time] if time else ["--steps", str(steps)] if steps else []


def mean_dice(card: Mapping[str, Any]) -> float:
    known = [value for value in card.get("validation_dice", {}).values() if value is not None]
    return sum(known) / len(known) if known else 0.0


def hashes(model: Path, names: Mapping[str, object]) -> dict[str, str]:
    """Of the cases that each domain was trained on."""
    found = {name: store.data_sha256(model, name) for name in names}
    return {name: sha256 for name, sha256 in found.items() if sha256 is not None}


def write(
    asked: argparse.Namespace,
    model: Path,
    made: Path,
    datasets: Mapping[str, Dataset],
    base: list[str],
) -> None:
    """The model in half precision, its banks rounded and judged so, with cards and notices."""
    net, spec, specs = store.load(model)
    device, data = choose_device(asked.device), hashes(model, specs)
    cards = {
        name: judged(net.to(device), model, specs[name], dataset, asked.fold, device)
        for name, dataset in datasets.items()
    }
    net.cpu()
    shutil.rmtree(made, ignore_errors=True)
    first = {name: specs[name] for name in base}
    store.save_model(made, net, spec, first, cards, data, half=True)
    for name in datasets:
        if name not in first:
            store.save_domain(made, net, specs[name], cards[name], data.get(name), half=True)
    facts = {name: dataset.facts for name, dataset in datasets.items()}
    files.write_text(made / "NOTICE", notice(tuple(base), facts))
    files.write_json(made / "made.json", origin(asked, model, [*datasets]))
    write_cards(made, made / "cards")
    if differences := store.verify(made):
        sys.exit(f"error: {made}: {differences[0]} — run the command again")


def origin(asked: argparse.Namespace, model: Path, names: list[str]) -> dict[str, Any]:
    """With what options and versions the weights were made, so that they can be made again."""
    run = json.loads((model / "runs" / "train" / "run.json").read_text())
    base = len(asked.base)
    return {
        "script": "scripts/ship-weights",
        "options": {**said(asked), "base": names[:base], "add": names[base:]},
        "versions": run["versions"],
        "device": run["device"],
        "threads": run["threads"],
    }


def judged(
    net: Network,
    model: Path,
    spec: DomainSpec,
    dataset: Dataset,
    fold: str,
    device: torch.device,
) -> dict[str, Any]:
    """Rounds a bank of `net` in its place; its card with the Dice that it has then."""
    bank, record = net.bank(spec.name), store.read_domains(model)[spec.name]
    rounded, largest = domains.halved(record.path, weights.state(bank))
    bank.load_state_dict(rounded)
    cases = kept_sides(dataset, "all" if fold == "all" else int(fold), model)[0].validation
    card = {**record.said.card, "dataset": dict(dataset.facts), "validation_cases": len(cases)}
    if images := IMAGES.get(dataset.facts.get("name", "")):
        card["images"] = images
    card[store.HALF] = {"largest_rounding": largest, "dice_of_rounded": bool(cases)}
    if cases:
        score = judge(net, spec, dataset, cases, device)
        card |= {"validation_dice": score.per_label(), "dice_of_cases": score.of_cases()}
        print(f"{spec.name}: Dice {score.mean:.4f} of {len(cases)} cases, rounded", flush=True)
    return card


def put(made: Path, out: Path) -> None:
    """Puts a copy of the folder `made` in the place of `out`, which must be a model or nothing."""
    if out.exists() and any(out.iterdir()) and not (out / store.MANIFEST).is_file():
        sys.exit(f"error: --out: {out} holds files that are no model — name another folder")
    new, old = files.temporary_beside(out), files.temporary_beside(out)
    shutil.copytree(made, new)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def report(out: Path) -> None:
    sizes = {path.relative_to(out): path.stat().st_size for path in out.rglob("*.safetensors")}
    for name, size in sizes.items():
        print(f"{name}: {size:,} bytes")
    total = sum(sizes.values())
    print(f"{out}: {total:,} bytes of weights")
    if total > LIMIT_BYTES:
        print(f"warning: more than {LIMIT_BYTES:,} bytes: a wheel should be small")


if __name__ == "__main__":
    main()
