"""docs/few-shot.md and its pictures, from the rows alone."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from compare_canvas import line_of
from compare_groups import Group, domains_of, groups_of
from compare_pictures import by_domain
from compare_report import conditions, table
from compare_rows import Budget
from few_shot_claims import claims, size_of
from few_shot_rows import INITS, FewAsked, FewRow, commands, require_one_trunk

from u2net3d import files

HEAD = """\
# Few cases

Written by `scripts/few-shot --rows docs/results/few-shot.jsonl --report docs/few-shot.md`; nothing
here is typed by hand.

## How it was made

A domain is learnt from its first patients by a hash of their names: added to a model of other
domains, whose trunk stays as it is (`add-domain`), or by a network of its own that is trained as a
whole (`scratch`). All runs have the same budget and schedules fitted to it; planning, normalising
and training see these patients alone. Judged are the held-out cases of fold 0, whole volumes, tiles
overlapping by half, no test-time augmentation, no removal of stray components, by the last state:
no state is chosen by the cases that judge. What the sets are: [data](data.md).

The recipe of a bank was chosen by these cases in part: the rate at which Muon moves its kernels
lies between two that did equally well on fold 0 of hippocampus and left atrium with 1 and 5
patients ([log](log.md)), which favours the banks there. A network from nothing is trained as
`train` has it, which does not move kernels by Muon.

- **fresh, nearest, mean**: how the bank begins ([add a domain](add-a-domain.md)). What `nearest`
  needs to choose is taken off its budget, unless that is a number of steps. The trunk's own
  training is not counted: it was there before.
- A trunk is trained once; seeds differ in what is drawn for the bank and its batches, and for
  `scratch` in all that is drawn.
- **Patients** are told apart by names. The hippocampus names none: each of its crops counts as a
  patient, and one person may stand on both sides.
- By the clock, what else the machine does shows in the steps; they stand with each domain.
- **Dice**: mean over labels of the means over cases. ± is half the distance between the lowest and
  the highest seed; without ± there is one seed, and what differs by less than 0.02 says nothing.
"""
EXAMPLE = "scripts/few-shot --data DATA --domains A,B,C --seeds 0,1,2 --time 4m --trunk-time 30m"
TAIL = """\
## To repeat it, or to add to it

These rows with those that are missing between them, and other trunks (`scripts/few-shot --help`):

```sh
{commands}
scripts/few-shot --data DATA --domains A,B,C --inits fresh --trunks A,A+B,:base_channels=24,@10m
scripts/few-shot --rows docs/results/few-shot.jsonl --report docs/few-shot.md
```

Rows go to `few-shot.jsonl` in the current folder, or to `--rows`. A run that has its row there is
not run again, one that was stopped goes on from its checkpoint, and the same command may run
several times at once. `--cpu-seconds` in place of `--time` fixes every run's steps beforehand, by
what one costs.
"""
PICTURE = "few-shot"


class Setting(NamedTuple):
    """What the runs of a table share. on: their trunk in words; scratch: the net from nothing."""

    budget: Budget
    on: str
    scratch: str


def write_report(path: Path, rows: Sequence[FewRow]) -> None:
    """Writes the document to `path` and its pictures into `pictures` beside it."""
    pictures = []
    for number, own in enumerate(parts(latest(groups_of(rows))).values()):
        name = f"{PICTURE}-{number}.png" if number else f"{PICTURE}.png"
        files.write_bytes(path.parent / "pictures" / name, picture(own))
        pictures.append(name)
    files.write_text(path, document(rows, pictures))


def document(rows: Sequence[FewRow], pictures: Sequence[str] = ()) -> str:
    """The text; pictures: names of those there are, in the order of the settings."""
    if not rows:
        return f"{HEAD}\nThere are no rows yet.\n\n{TAIL.format(commands=EXAMPLE)}"
    require_one_trunk(rows)
    groups = latest(groups_of(rows))
    said = [HEAD, conditions(rows)]
    for number, (setting, own) in enumerate(parts(groups).items()):
        said.append(f"## {setting.budget}; trunk: {setting.on}\n")
        if number < len(pictures):
            said.append(f"![Dice by the cases learnt from](pictures/{pictures[number]})\n")
        found = [(claim.title, f"**{claim.verdict}**", claim.numbers) for claim in claims(own)]
        said.append(table(("claim", "our rows say", "Dice"), found))
        said += [_domain_table(domain, own) for domain in domains_of(own)]
    tail = TAIL.format(commands="\n".join(commands(rows)))
    said += [_trunks(rows), *_by_trunk(groups), tail]
    return "\n".join(part for part in said if part)


def latest(groups: Sequence[Group]) -> list[Group]:
    """Of groups that differ in how they were trained alone those of the latest row."""
    found = {}
    for group in sorted(groups, key=lambda each: max(row.date for row in each.rows)):
        asked = asked_of(group)
        place = group.domain, asked.cases, asked.init, asked.preset, asked.budget, asked.stands_on
        found[place] = group
    kept = {id(group) for group in found.values()}
    return [group for group in groups if id(group) in kept]


def parts(groups: Sequence[Group]) -> dict[Setting, list[Group]]:
    """The groups of each budget and trunk, those of most runs first, each with its `scratch`.

    A trunk that was given one start alone, with nothing beside it, is left to the tables of trunks.
    """
    alone = {(g.asked.budget, g.asked.preset) for g in groups if asked_of(g).trunk is None}
    found = Counter(_setting(g, alone) for g in groups if asked_of(g).trunk is not None)
    if not found:
        found = Counter(Setting(budget, "none yet", preset) for budget, preset in alone)
    sections = {}
    for setting, _ in found.most_common():
        own = [group for group in groups if _belongs(group, setting, alone)]
        own.sort(key=lambda group: (INITS.index(asked_of(group).init), size_of(group)))
        if len({group.name for group in own}) > 1 or not sections:
            sections[setting] = own
    return sections


def asked_of(group: Group) -> FewAsked:
    return cast(FewAsked, group.asked)


def _setting(group: Group, alone: set[tuple[Budget, str]]) -> Setting:
    """alone: budgets and presets of the runs from nothing.

    Beside a changed preset's trunk stands a net of that; where there is none, of the preset itself.
    """
    asked = asked_of(group)
    same = (asked.budget, asked.preset) in alone
    plain = asked.preset if same else asked.preset.partition(":")[0]
    return Setting(asked.budget, asked.stands_on, plain)


def _belongs(group: Group, setting: Setting, alone: set[tuple[Budget, str]]) -> bool:
    if asked_of(group).trunk is None:
        return (group.asked.budget, group.asked.preset) == (setting.budget, setting.scratch)
    return _setting(group, alone) == setting


def _domain_table(domain: str, groups: Sequence[Group]) -> str:
    own = [group for group in groups if group.domain == domain]
    inits = [init for init in INITS if any(group.name == init for group in own)]
    lines = []
    for size in sorted({size_of(group) for group in own}):
        cells = {group.name: group for group in own if size_of(group) == size}
        first = next(iter(cells.values()))
        dice = [str(cells[init].dice) if init in cells else "–" for init in inits]
        patients = "all" if first.asked.cases is None else str(first.asked.cases)
        lines.append((patients, str(first.outcome.training_cases), *dice, *_taken(cells, inits)))
    steps = ", ".join(f"{init} {_steps(g for g in own if g.name == init)}" for init in inits)
    columns = ("patients", "cases", *inits, *(["nearest was"] if "nearest" in inits else []))
    judged = f"Judged by {own[0].outcome.validation_cases} cases. Steps: {steps}.{_cost(own)}\n"
    return f"### {domain}\n\n{judged}\n{table(columns, lines)}"


def _taken(cells: dict[str, Group], inits: Sequence[str]) -> list[str]:
    """The banks that `nearest` chose over the seeds; no cell where nobody asked for it."""
    if "nearest" not in inits:
        return []
    rows = _rows(cells["nearest"]) if "nearest" in cells else []
    names = Counter(row.nearest.taken for row in rows if row.nearest)
    return [", ".join(f"{name} {n}×" if n > 1 else name for name, n in names.most_common())]


def _cost(groups: Sequence[Group]) -> str:
    """What the choice of a bank took."""
    seconds = sorted(row.choice_s for group in groups for row in _rows(group) if row.nearest)
    return f" `nearest` chose in {seconds[0]:.1f} to {seconds[-1]:.1f} s." if seconds else ""


def _steps(groups: Iterable[Group]) -> str:
    steps = sorted(row.steps for group in groups for row in group.rows)
    return f"{steps[0]:,}" if steps[0] == steps[-1] else f"{steps[0]:,} to {steps[-1]:,}"


def _rows(group: Group) -> list[FewRow]:
    return [cast(FewRow, row) for row in group.rows]


def _trunks(rows: Sequence[FewRow]) -> str:
    """Every trunk that something was added to, and what it had come to itself."""
    lines: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if row.asked.trunk is not None and row.trunk_id is not None:
            dice = ", ".join(f"{name} {value:.3f}" for name, value in row.trunk_dice.items())
            said = (row.asked.trunk.preset, dice, row.asked.stands_on.rpartition(", ")[2])
            lines[row.trunk_id] = (row.trunk_id[:12], *said, f"{row.trunk_steps:,}")
    if not lines:
        return ""
    columns = ("trunk", "network", "Dice of its own domains", "trained for", "steps")
    return f"## The trunks\n\n{table(columns, lines.values())}"


def _by_trunk(groups: Sequence[Group]) -> list[str]:
    """A table for every budget, number of patients and start that more than one trunk was given."""
    found: dict[tuple[Budget, int | None, str], dict[str, dict[str, Group]]] = {}
    for group in groups:
        asked = asked_of(group)
        if asked.trunk is not None:
            of = found.setdefault((asked.budget, asked.cases, asked.init), {})
            of.setdefault(asked.stands_on, {})[group.domain] = group
    said = []
    for (budget, cases, init), trunks in found.items():
        if len(trunks) > 1:
            few = "all patients" if cases is None else f"{cases} patient{'s' if cases > 1 else ''}"
            title = f"### Which trunk: {few}, {init}, {budget}\n"
            said.append(f"{title}\n{_trunk_table(trunks)}")
    return said


def _trunk_table(trunks: dict[str, dict[str, Group]]) -> str:
    """The mean is that of the domains that every trunk was given; – where there is none."""
    domains = list(dict.fromkeys(domain for cells in trunks.values() for domain in cells))
    common = [domain for domain in domains if all(domain in cells for cells in trunks.values())]
    lines = []
    for on, cells in trunks.items():
        dice = [str(cells[domain].dice) if domain in cells else "–" for domain in domains]
        means = [cells[domain].dice.mean for domain in common]
        weights = max(group.first.trunk for group in cells.values())
        mean = f"{statistics.mean(means):.3f}" if means else "–"
        lines.append((on, *dice, mean, f"{weights:,}"))
    of = f"mean of {', '.join(common)}" if common else "mean"
    return table(("trunk", *domains, of, "weights of the trunk"), lines)


def picture(groups: Sequence[Group]) -> bytes:
    """Dice by the cases learnt from: a line per start, a dot per seed, a panel per domain."""

    def draw(panel: Any, group: Group, style: dict[str, Any]) -> None:
        own = [g for g in groups if (g.domain, g.name) == (group.domain, group.name)]
        if group is not own[0]:
            return
        at = [each.outcome.training_cases for each in own]
        panel.plot(at, [each.dice.mean for each in own], label=group.name, **line_of(style))
        for count, each in zip(at, own, strict=True):
            values = [outcome.dice for outcome in each.outcomes]
            dots = {**style, "markersize": 3, "alpha": 0.5, "linestyle": ""}
            panel.plot([count] * len(values), values, **dots)
        counts = sorted({g.outcome.training_cases for g in groups if g.domain == group.domain})
        panel.set_xscale("log")
        panel.set_xlabel("cases to learn from")
        panel.set_xticks(counts, [str(count) for count in counts], fontsize=7)
        panel.minorticks_off()

    return by_domain(groups, draw)
