"""docs/comparison.md and its pictures, from the rows of a comparison alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from compare_claims import all_claims
from compare_groups import THIRDS, Group, budgets_of, domains_of, groups_of
from compare_pictures import pictures
from compare_rows import Row

from u2net3d import files

PACKAGES = ("python", "torch", "u2net3d")
CAPTIONS = {
    "dice": "Dice of every network on every domain, a dot per seed",
    "cost": "Dice beside weights, multiply-adds and seconds",
    "size": "Dice on the small, middle and large third of the objects",
    "few": "Dice by the number of cases to learn from; dashed: with elastic deformation",
    "curves": "Dice of the validations over the steps",
}
HEAD = """\
# Comparison

Written by `scripts/compare --report docs/comparison.md` from the rows in
[docs/results](results/); nothing here is typed by hand.

## How it was made

`scripts/compare` trains every network by the training of `u2net3d train` (same patches,
augmentation, loss, optimiser and schedule, unless a name says `own recipe`), each run in a process
of its own. All have the same budget on a domain; one network that learns several domains together
has the sum of their budgets. Judged are the held-out cases of fold 0, whole volumes, tiles
overlapping by half, no test-time augmentation, no removal of stray components.

- **State**: that of the last step, so that nothing was chosen by the cases it is judged by; where a
  row was made with several validations, its best one, and the table says so.
- **Dice**: mean over labels of the means over cases. ± is half the distance between the lowest and
  the highest seed; without ± there is one seed, and what differs by less than 0.02 says nothing.
- **Small, middle, large**: the same over thirds of the cases, by the voxels of the label in the
  reference, for each label.
- **Multiply-adds**: of the answer to one patch, counted while it is computed: convolutions and
  matrix products, not norms and activations. One is two FLOPs. Patches are the domain's own plan,
  which a network of fewer stages changes.
- **Seconds**: of all threads together, so that other programs change little. Of a step: forward,
  loss, backward and optimiser on noise, without the loader. Of a volume: prepared, predicted by
  torch and brought back, the median of three validation cases.
- **Memory**: the most that the process held while it trained, validated and predicted.
- **Cut to L2**: the trained UNet++ answers by its second level, with the weights which that needs.
"""
TAIL = """\
## To repeat it, or to add to it

```sh
scripts/compare --presets base,unetpp --data DATA --domains hippocampus --seeds 0,1 --time 15m
scripts/compare --presets base --together --data DATA --domains heart,liver --seeds 0,1 --time 15m
scripts/compare --report docs/comparison.md
```

A run that has its row is not run again; one that was stopped goes on from its checkpoint.
`--cpu-seconds` in place of `--time` gives every network the same processor time for its steps,
which does not depend on what else the machine does.
"""


def write_report(path: Path, rows: Sequence[Row]) -> None:
    """Writes the document to `path` and its pictures into `pictures` beside it."""
    groups = groups_of(rows)
    drawn = pictures([g for g in groups if g.asked.budget == _budget(groups)]) if groups else {}
    for name, content in drawn.items():
        files.write_bytes(path.parent / "pictures" / f"comparison-{name}.png", content)
    files.write_text(path, document(rows, drawn.keys()))


def document(rows: Sequence[Row], drawn: Iterable[str] = ()) -> str:
    """The text; drawn: names of the pictures there are."""
    groups = groups_of(rows)
    if not groups:
        return f"{HEAD}\nThere are no rows yet.\n\n{TAIL}"
    first, *others = budgets_of(groups)
    own = [group for group in groups if group.asked.budget == first]
    parts = [HEAD, conditions(rows), _claims(own), _pictures(drawn)]
    parts += [f"## Results, {first} a domain\n", *_tables(own)]
    for budget in others:
        rest = [group for group in groups if group.asked.budget == budget]
        parts += [f"## Other runs, {budget} a domain\n", *_tables(rest)]
    return "\n".join(part for part in (*parts, TAIL) if part)


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
    lines = [
        f"| {claim.title} | **{claim.verdict}** | {claim.numbers} |" for claim in all_claims(groups)
    ]
    head = "## Claims of the papers\n\n| claim | our rows say | numbers |\n|---|---|---|\n"
    return head + "\n".join(lines) + "\n"


def _pictures(drawn: Iterable[str]) -> str:
    shown = [f"![{CAPTIONS[name]}](pictures/comparison-{name}.png)\n" for name in drawn]
    return "\n".join(shown)


def _tables(groups: Sequence[Group]) -> list[str]:
    parts = []
    for domain in domains_of(groups):
        own = [group for group in groups if group.domain == domain]
        for cases in dict.fromkeys(group.asked.cases for group in own):
            chosen = [group for group in own if group.asked.cases == cases]
            few = f", {cases} patients to learn from" if cases else ""
            parts.append(f"### {domain}{few}\n\n{_sizes(chosen[0])}\n")
            parts += [_dice_table(chosen), _cost_table(chosen)]
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
    columns = ("network", "Dice", *THIRDS, *named, "steps", "state")
    lines = []
    for group in groups:
        outcomes = group.outcomes
        means = [
            _mean([o.labels[name].dice for o in outcomes if name in o.labels]) for name in named
        ]
        steps = sorted({row.steps for row in group.rows})
        told = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        sizes = [_dice(group.tercile(third)) for third in range(3)]
        lines.append((group.name, str(group.dice), *sizes, *means, told, group.first.state))
    return table(columns, lines)


def _cost_table(groups: Sequence[Group]) -> str:
    columns = (
        "network", "weights: trunk", "bank", "patch", "10⁹ multiply-adds", "of them pointwise",
        "s a step", "s a volume", "GiB",
    )  # fmt: skip
    lines = []
    for group in groups:
        outcome, macs = group.outcome, group.outcome.macs
        peaks = [row.peak_gib for row in group.rows if row.peak_gib is not None]
        lines.append(
            (
                group.name,
                f"{group.first.trunk:,}",
                f"{outcome.weights:,}",
                "×".join(map(str, outcome.patch)) + f" × {outcome.batch}",
                f"{macs.total / 1e9:.3g}" if macs else "",
                f"{macs.pointwise / macs.total:.0%}" if macs else "",
                f"{group.median(lambda o: o.step_s):.3g}",
                f"{group.median(lambda o: o.volume_s):.3g}",
                f"{max(peaks):.1f}" if peaks else "",
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
