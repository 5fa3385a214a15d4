"""docs/comparison.md and its pictures, from the rows of a comparison alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from compare_claims import all_claims
from compare_groups import (
    FEW_STEPS,
    LOW_DICE,
    THIRDS,
    Group,
    budgets_of,
    domains_of,
    few_of,
    groups_of,
    in_order,
    step_costs,
)
from compare_pictures import pictures
from compare_rows import Row

from u2net3d import files

PACKAGES = ("python", "torch", "u2net3d")
CAPTIONS = {
    "dice": "Dice of every network, a dot per seed; small: levels of one network; hollow: hardly "
    "trained",
    "cost": "Dice beside weights, multiply-adds and seconds; small: levels of one network",
    "size": "Dice on the third of the smallest objects, the smallest dot, to that of the largest",
    "few": "Dice by the number of cases to learn from; dashed: with elastic deformation",
    "curves": "Dice of the validations over the steps",
}
HEAD = """\
# Comparison

Written by `scripts/compare --rows docs/results/comparison.jsonl --report docs/comparison.md`;
nothing here is typed by hand. It says what a few minutes of one processor core buy on each network,
from nothing: not what the networks can do at their best.

## How it was made

`scripts/compare` trains every network by the training of `u2net3d train`: same patches,
augmentation, loss, learning rate and schedule, each run in a process of its own. All have the same
budget on a domain; one network that learns several domains together has the sum of their budgets.
Judged are the held-out cases of fold 0, whole volumes, tiles overlapping by half, no test-time
augmentation, no removal of stray components.

- **Recipe**: one for all, learning rate 1e-2, also where `u2net3d train` has another (`base`: twice
  the rate; `reference-*`, `unet-paper`: the published one), unless a name says `own recipe`. Its
  optimiser, Muon, moves the pointwise matrices of separable units alone: `base`, `paper` and
  separable U-Nets have them, all other weights and networks are trained by AdamW.
  `optimiser=adamw` trains all of it so.
- **State**: that of the last step, so that nothing was chosen by the cases it is judged by; where a
  row was made with several validations, its best one, and the table says so.
- **Dice**: mean over labels of the means over cases. ± is half the distance between the lowest and
  the highest seed; without ± there is one seed, and what differs by less than 0.02 says nothing.
- **Small, middle, large**: the same over thirds of the cases, by the voxels of the label in the
  reference, for each label.
- **Patients** stand on one side of the split. The hippocampus names none: one person may stand on
  both.
- **Multiply-adds**: of the answer to one patch, counted while it is computed: convolutions and
  matrix products, not norms and activations. One is two FLOPs. Patches are the domain's own plan,
  which a network of fewer stages changes.
- **Seconds**: of all threads together. Of a step: forward, loss, backward and optimiser on noise,
  without the loader. Of a volume: prepared, predicted by torch and brought back, the median of
  the first three validation cases.
- **Memory**: the most that the process held while it trained, validated and predicted.
- **(together)**: one network for several domains; its steps are those of all of them.
- **Cut to L2**: the trained UNet++ answers by its second level, with the weights which that needs.
  `unetpp:stages=3` is a UNet++ of that depth, trained alone.
"""
STEPS = """\
A budget in processor time becomes a number of steps before the run begins, by the median of some
measured steps. What else the machine does changes that time, and so the steps that equal networks
have."""
TRAINED_SIGN = "†"
NOTE = (
    f"{TRAINED_SIGN} hardly trained: fewer than {FEW_STEPS} steps a domain, or a Dice under "
    f"{LOW_DICE}. No evidence of what the network can do; no claim is judged by it.\n"
)
TAIL = """\
## To repeat it, or to add to it

On the drawn volumes that come with the repository, in minutes:

```sh
scripts/compare --presets base,fcn8s --data data --domains heart,liver --steps 20
scripts/compare --report trial/comparison.md
```

On real ones, and this document from its rows:

```sh
scripts/compare --presets base,unetpp --data DATA --domains hippocampus --seeds 0,1 --time 15m
scripts/compare --presets base --together --data DATA --domains A,B --seeds 0,1 --time 15m
scripts/compare --rows docs/results/comparison.jsonl --report docs/comparison.md
```

Rows go to `comparison.jsonl` in the current folder, or to `--rows`. A run that has its row there is
not run again: same network, recipe, budget, seed, and data (the names of the cases on both sides,
labels and channels). One that was stopped goes on from its checkpoint. `--cpu-seconds` in place of
`--time` fixes every network's steps beforehand, by what one costs.
"""


def write_report(path: Path, rows: Sequence[Row]) -> None:
    """Writes the document to `path` and its pictures into `pictures` beside it."""
    groups = in_order(groups_of(rows))
    drawn = pictures([g for g in groups if g.asked.budget == _budget(groups)]) if groups else {}
    for name, content in drawn.items():
        files.write_bytes(path.parent / "pictures" / f"comparison-{name}.png", content)
    files.write_text(path, document(rows, drawn.keys()))


def document(rows: Sequence[Row], drawn: Iterable[str] = ()) -> str:
    """The text; drawn: names of the pictures there are."""
    groups = in_order(groups_of(rows))
    if not groups:
        return f"{HEAD}\nThere are no rows yet.\n\n{TAIL}"
    first, *others = budgets_of(groups)
    own = [group for group in groups if group.asked.budget == first]
    steps = fill(f"{STEPS}{_step_costs(groups)}", 100)
    parts = [HEAD, f"{steps}\n", conditions(rows), _claims(own)]
    parts += [_pictures(drawn), f"## Results, {first} a domain\n", *_tables(own)]
    for budget in others:
        rest = [group for group in groups if group.asked.budget == budget]
        parts += [f"## Other runs, {budget} a domain\n", *_tables(rest)]
    return "\n".join(part for part in (*parts, TAIL) if part)


def _step_costs(groups: Sequence[Group]) -> str:
    """How much the measured time of a step differs between runs of one network, from the rows."""
    costs = [(most / least, group, least, most) for group, least, most in step_costs(groups)]
    if not costs:
        return ""
    ratio, group, least, most = max(costs, key=lambda cost: cost[0])
    return (
        f" In these rows {len(costs)} networks were measured more than once; the dearest "
        f"measurement is {statistics.median(cost[0] for cost in costs):.2f} times the cheapest in "
        f"the median of them, {ratio:.2f} times at most ({group.asked.preset} on {group.domain}: "
        f"{least:.3g} to {most:.3g} s)."
    )


def conditions(rows: Sequence[Any], packages: Sequence[str] = PACKAGES) -> str:
    """Where, when and with what the rows of a comparison were made."""
    machines = "; ".join(dict.fromkeys(row.machine for row in rows))
    versions = dict.fromkeys(
        ", ".join(f"{name} {row.versions[name]}" for name in packages if name in row.versions)
        for row in rows
    )
    days = sorted({row.date[:10] for row in rows})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    runs = len({row.asked.key for row in rows})
    return f"{runs} runs, {when}, on {machines}. {'; '.join(versions)}.\n"


def _claims(groups: Sequence[Group]) -> str:
    lines = []
    for claim in all_claims(groups):
        basis = f" ({claim.basis})" if claim.basis else ""
        lines.append((claim.title, f"**{claim.verdict}**{basis}", claim.numbers))
    text = (
        f"By the runs of {budgets_of(groups)[0]} a domain, the budget of most of them. `checked` "
        "is arithmetic, no experiment; `in part`: of some networks, or of half of the sentence. A "
        "difference decides where it is larger than the seeds differ.\n"
    )
    shown = table(("claim", "our rows say", "numbers"), lines)
    return f"## Claims of the papers\n\n{text}\n{shown}"


def _pictures(drawn: Iterable[str]) -> str:
    shown = [f"![{CAPTIONS[name]}](pictures/comparison-{name}.png)\n" for name in drawn]
    return "\n".join(shown)


def _tables(groups: Sequence[Group]) -> list[str]:
    """By domain, of the networks that learnt from all patients; then of the others."""
    parts = []
    for domain in domains_of(groups):
        own = [group for group in groups if group.domain == domain and group.plainly]
        if own:
            parts += [f"### {domain}\n\n{_sizes(own[0])}\n", _dice_table(own), _cost_table(own)]
    few = few_of(groups)
    for domain in domains_of(few):
        own = [group for group in few if group.domain == domain]
        parts.append(f"### {domain}, few cases and elastic deformation\n\n{_dice_table(own)}")
    return parts


def _sizes(group: Group) -> str:
    outcome = group.outcome
    labels = []
    for name, label in outcome.labels.items():
        known = [f"{n:,.0f}" for n in label.voxels if n is not None]
        labels.append(f"{name} {' / '.join(known)}" if known else name)
    return (
        f"{outcome.training_cases} cases to learn from, {outcome.validation_cases} to judge by. "
        f"Median voxels of the {', '.join(THIRDS)} third: {'; '.join(labels)}."
    )


def _dice_table(groups: Sequence[Group]) -> str:
    labels = list(groups[0].outcome.labels)
    named = labels if len(labels) > 1 else []
    counts = len({group.outcome.training_cases for group in groups}) > 1
    columns = ("network", *(["cases"] if counts else []), "Dice", *THIRDS, *named, "steps", "state")
    lines = []
    for group in groups:
        outcomes = group.outcomes
        means = [
            _mean([o.labels[name].dice for o in outcomes if name in o.labels]) for name in named
        ]
        steps = sorted({row.steps for row in group.rows})
        told = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        sizes = [_dice(group.tercile(third)) for third in range(3)]
        cases = [str(group.outcome.training_cases)] if counts else []
        dice = f"{group.dice}{f' {TRAINED_SIGN}' if group.hardly else ''}"
        lines.append((group.name, *cases, dice, *sizes, *means, told, group.first.state))
    note = f"\n{NOTE}" if any(group.hardly for group in groups) else ""
    return table(columns, lines) + note


def _cost_table(groups: Sequence[Group]) -> str:
    columns = (
        "network", "first channels, stages", "weights: trunk", "bank", "patch × batch",
        "10⁹ multiply-adds", "of them pointwise", "s a step", "s a volume", "GiB",
    )  # fmt: skip
    lines = []
    for group in groups:
        outcome, macs = group.outcome, group.outcome.macs
        peaks = [row.peak_gib for row in group.rows if row.peak_gib is not None]
        lines.append(
            (
                group.name,
                f"{group.asked.model.base_channels}, {outcome.stages}",
                f"{group.first.trunk:,}",
                f"{outcome.weights:,}",
                "×".join(map(str, outcome.patch)) + f" × {outcome.batch}",
                f"{macs.total / 1e9:.3g}" if macs else "",
                f"{macs.pointwise / macs.total:.0%}" if macs else "",
                f"{group.median(lambda o: o.step_s):.3g}" if group.whole else "",
                f"{group.median(lambda o: o.volume_s):.3g}",
                f"{max(peaks):.1f}" if peaks and group.whole else "",
            )
        )
    return table(columns, lines)


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = "|".join("---" for _ in columns)
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"| {' | '.join(columns)} |\n|{rule}|\n{shown}\n"


def _mean(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    return _dice(sum(there) / len(there) if there else None)


def _dice(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _budget(groups: Sequence[Group]) -> object:
    return budgets_of(groups)[0]
