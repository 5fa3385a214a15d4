"""Networks and training recipes on real data, every one with the same processor time for its steps.

A variant differs in what `VARIANTS` says from `base`, trained by the defaults of TrainSpec: at half
the learning rate of the preset's own recipe. Its steps are the budget by the time of one of its
steps, which is measured first, in turn with the other variants of the command that have no row yet;
so a cheaper network makes more of them. What else the machine does changes that time, of all of
them alike, but not of those of another day. Dice is that of the last step, on whole validation
volumes. With --together one network learns all the domains, which have the mean of their Dice. A
row is written behind every run; what has one already is not run again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from compare_rows import append_rows, read_rows
from recipe_trials import Trial, as_it_is, augmented, by_loss, by_size, finest_level_alone
from rich.console import Console
from rich.table import Table

from u2net3d.io.dataset import Dataset, find_datasets, split
from u2net3d.losses import LOSSES
from u2net3d.ops.memory import keep_freed_memory
from u2net3d.prep.cache import default_cache
from u2net3d.prep.plan import domain_spec
from u2net3d.spec import (
    DEFAULT_PRESET,
    PRESETS,
    Budget,
    Design,
    DomainSpec,
    Frozen,
    ModelSpec,
    TrainSpec,
)
from u2net3d.train import loop
from u2net3d.train.optimiser import optimiser_for
from u2net3d.train.run import Request, fresh_net, train_model
from u2net3d.train.schedule import Progress
from u2net3d.train.validate import DomainScore

BASE = PRESETS[DEFAULT_PRESET]
ROUNDS = 5  # in which every variant has one measured step


class Variant(NamedTuple):
    """A network and how it is trained; trial: what of the package is another while it is."""

    model: ModelSpec = BASE
    training: TrainSpec = TrainSpec()
    trial: Trial = as_it_is


class Row(Frozen):
    """What came of a variant. step_s: seconds of all threads for the network's step; domain:
    several joined by + are those of one network, and labels then holds the Dice of each."""

    domain: str
    variant: str
    seed: int
    budget_s: float
    step_s: float
    steps: int
    weights: int
    dice: float
    labels: dict[str, float]
    threads: int = 1


def _built(**changes: object) -> Variant:
    design = Design(**{**BASE.design.model_dump(), **changes})
    return Variant(model=BASE.model_copy(update={"design": design}))


def _trained(**changes: object) -> Variant:
    return Variant(training=TrainSpec(**changes))


def _wide(base_channels: int, **changes: object) -> Variant:
    model = BASE.model_copy(update={"base_channels": base_channels})
    return Variant(model=model, training=TrainSpec(**changes))


def _spending(voxels: int, **changes: object) -> Variant:
    model = BASE.model_copy(update={"budget": Budget(voxels=voxels)})
    return Variant(model=model, training=TrainSpec(**changes))


def _tried(trial: Trial, **changes: object) -> Variant:
    return Variant(training=TrainSpec(**changes), trial=trial)


VARIANTS: dict[str, Variant] = {
    "base": Variant(),
    "paper": Variant(model=PRESETS["paper"]),
    "AdamW alone": _trained(optimiser="adamw"),
    "from the full resolution on": _built(first_stage=0),
    "norm between the halves too": _built(inner_norm=True),
    "no residual sum": _built(residual=False),
    "up-sampling first": _built(coarse_up=False),
    "base channels 12": _wide(12),
    "base channels 24": _wide(24),
    "SGD": _trained(optimiser="sgd"),
    "learning rate 5e-3": _trained(learning_rate=5e-3),
    "learning rate 2e-2": _trained(learning_rate=2e-2),
    "learning rate 4e-2": _trained(learning_rate=4e-2),
    "2e-2 with base channels 24": _wide(24, learning_rate=2e-2),
    "2e-2 with classes balanced for a tenth": _trained(learning_rate=2e-2, balanced_share=0.1),
    "2e-2 with weight decay 0.1": _trained(learning_rate=2e-2, weight_decay=0.1),
    "2e-2 with Muon for kernels": _trained(learning_rate=2e-2, kernel_rate=6),
    "2e-2 with half the voxels a step": _spending(250_000, learning_rate=2e-2),
    "2e-2 with twice the voxels a step": _spending(1_000_000, learning_rate=2e-2),
    "2e-2 falling with power 1.5": _trained(learning_rate=2e-2, decay_power=1.5),
    "2e-2 with two thirds on foreground": _trained(learning_rate=2e-2, foreground_share=2 / 3),
    "2e-2 without deep supervision": _tried(finest_level_alone, learning_rate=2e-2),
    "2e-2 with reflections alone": _tried(augmented(0), learning_rate=2e-2),
    "2e-2 augmented twice as often": _tried(augmented(2), learning_rate=2e-2),
    "2e-2 by size": _tried(by_size, learning_rate=2e-2),
    "2e-2 by loss": _tried(by_loss, learning_rate=2e-2),
}


def main() -> None:
    asked = arguments()
    keep_freed_memory()
    torch.set_num_threads(asked.threads)
    names = asked.variants.split(",") if asked.variants else list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        sys.exit(f"error: --variants: there is no {unknown[0]!r} — one of {', '.join(VARIANTS)}")
    datasets = find_datasets(asked.data, asked.domains.split(","))
    groups = [datasets] if asked.together else [[each] for each in datasets]
    for seed in [int(text) for text in asked.seeds.split(",")]:
        for group in groups:
            missing = [name for name in names if not _there(asked, joined(group), name, seed)]
            steps = step_seconds(group, missing)
            for name in missing:
                row = run(group, name, seed, asked.seconds, steps[name], asked.threads)
                append_rows(asked.rows, [row])
                print(row.model_dump_json(), flush=True)
    report(read_rows(asked.rows, Row))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--domains", required=True)
    parser.add_argument("--together", action="store_true", help="one network of all the domains")
    parser.add_argument("--variants", help="some, with commas; else all")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--seconds", type=float, default=150, help="processor time of the steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, required=True, help="JSON, one line a run")
    return parser.parse_args()


def _there(asked: argparse.Namespace, domain: str, name: str, seed: int) -> bool:
    wanted = (domain, name, seed, asked.seconds, asked.threads)
    there = read_rows(asked.rows, Row)
    return wanted in {(r.domain, r.variant, r.seed, r.budget_s, r.threads) for r in there}


def joined(group: Sequence[Dataset]) -> str:
    """The domains of one network, as a row names them."""
    return "+".join(dataset.domain for dataset in group)


def step_seconds(group: Sequence[Dataset], names: Iterable[str]) -> dict[str, float]:
    """Processor seconds of one step of every variant, on noise: medians of rounds, interleaved; of
    several domains the mean, weighed by their turns (`by_loss`: taken to be even)."""
    found: dict[str, list[float]] = {name: [] for name in names}
    specs = {name: planned_of(group, VARIANTS[name].model) for name in found}
    turns = [len(split(each, 0).training) for each in group]
    for turn in range(ROUNDS + 1):
        for name, times in found.items():
            variant = VARIANTS[name]
            each = [_one_step(spec, variant) for spec in specs[name]]
            spent = statistics.fmean(each, turns if variant.trial is by_size else None)
            if turn:  # the first round pays for memory
                times.append(spent)
    return {name: statistics.median(times) for name, times in found.items()}


def planned_of(group: Sequence[Dataset], model: ModelSpec) -> list[DomainSpec]:
    """The plans of the domains within a model's budget."""
    return [
        domain_spec(each, split(each, 0).training, model.stages, budget=model.budget)
        for each in group
    ]


def _one_step(spec: DomainSpec, variant: Variant) -> float:
    stages = spec.plan.stages
    net = fresh_net(variant.model.model_copy(update={"stages": stages}), {spec.name: spec}, 0)
    optimiser = optimiser_for(net.train(), variant.training)
    patch = (spec.plan.batch_size, len(spec.channels), *spec.plan.patch_size)
    image = torch.randn(patch)
    label = torch.randint(len(spec.labels), (patch[0], *patch[2:]))
    began = time.process_time()
    with variant.trial():
        loss = loop.supervised(LOSSES[variant.training.loss], net(image, spec.name), label)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return time.process_time() - began


def run(
    group: Sequence[Dataset], name: str, seed: int, budget_s: float, step_s: float, threads: int
) -> Row:
    """Trains one variant on one domain, or on several together, and judges its last step."""
    variant, steps = VARIANTS[name], max(1, round(budget_s / step_s))
    changes = {"steps": steps, "seed": seed, "validations": 1}
    spec = variant.training.model_copy(update=changes)
    with tempfile.TemporaryDirectory() as folder, variant.trial():
        request = Request(
            model=Path(folder) / "model",
            spec=spec,
            device=torch.device("cpu"),
            cache=default_cache(),
            resume=False,
            overwrite=False,
            command="scripts/compare-recipes",
        )
        result, _ = train_model(group, variant.model, request, Quiet(), _say, _prepared)
    return Row(
        domain=joined(group),
        variant=name,
        seed=seed,
        budget_s=budget_s,
        step_s=round(step_s, 4),
        steps=steps,
        weights=weights_of(group, variant.model),
        dice=round(statistics.mean(score.mean for score in result.scores.values()), 4),
        labels=told_of(result.scores),
        threads=threads,
    )


def weights_of(group: Sequence[Dataset], model: ModelSpec) -> int:
    """How many weights the network has."""
    plans = {plan.name: plan for plan in planned_of(group, model)}
    stages = max(plan.plan.stages for plan in plans.values())
    net = fresh_net(model.model_copy(update={"stages": stages}), plans, 0)
    return sum(weight.numel() for weight in net.parameters())


def told_of(scores: Mapping[str, DomainScore]) -> dict[str, float]:
    """Dice of each label, or of each domain where there are several."""
    if len(scores) > 1:
        return {domain: round(score.mean, 4) for domain, score in scores.items()}
    (score,) = scores.values()
    return {label: round(dice or 0.0, 4) for label, dice in score.per_label().items()}


class Quiet:
    """Listens to nothing but what is out of the ordinary."""

    def stepped(self, at: Progress, share: float, domain: str, loss: float) -> None: ...

    def validated(self, at: Progress, scores: dict[str, DomainScore], best: bool) -> None: ...

    def told(self, text: str) -> None:
        print(text)


def _say(text: str) -> None: ...


def _prepared(domain: str, what: str, done: int, of: int) -> None: ...


def report(found: list[Row]) -> None:
    """A table for every budget and number of threads: per variant and domain what a step costs,
    and mean Dice, behind it that of every seed."""
    for budget_s, threads in sorted({(row.budget_s, row.threads) for row in found}):
        own = [row for row in found if (row.budget_s, row.threads) == (budget_s, threads)]
        Console(width=140).print(table_of(own, f"{budget_s:g} s of processor, {threads} threads"))


def table_of(found: list[Row], title: str) -> Table:
    """The rows of one budget; s a step and steps are those of the lowest seed."""
    domains = list(dict.fromkeys(row.domain for row in found))
    table = Table("variant", *(f"{d}: s a step, steps, Dice" for d in domains), title=title)
    for name in dict.fromkeys(row.variant for row in found):
        table.add_row(name, *(cell(found, name, domain) for domain in domains))
    return table


def cell(found: list[Row], variant: str, domain: str) -> str:
    """What a variant came to on a domain; empty where it was not run."""
    own = [row for row in found if (row.variant, row.domain) == (variant, domain)]
    if not own:
        return ""
    own.sort(key=lambda row: row.seed)
    each = ", ".join(f"{row.seed}: {row.dice:.3f}" for row in own)
    mean = statistics.mean(row.dice for row in own)
    return f"{own[0].step_s:.3f}, {own[0].steps}, {mean:.3f} ({each})"


if __name__ == "__main__":
    main()
