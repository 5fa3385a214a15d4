"""docs/accuracy.md and its pictures, from the rows of `scripts/versus-nnunet` alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from compare_groups import FEW_STEPS, LOW_DICE
from compare_pictures import dice_by_domain
from compare_report import TRAINED_SIGN, conditions, table
from versus_groups import Group, domains_of, groups_of, names_of, sections, title
from versus_rows import THEIRS, Row, command

from u2net3d import files

PACKAGES = ("python", "torch", "nnunetv2", "u2net3d")
HEAD = """\
# Accuracy

Written by `scripts/versus-nnunet --rows docs/results/accuracy.jsonl --report docs/accuracy.md`;
nothing here is typed by hand.

## How it was made

`scripts/versus-nnunet` trains nnU-Net through its own planner, preprocessing and trainer, and this
package by the training of `u2net3d train`, each run in a process of its own, on the same cases, on
the same machine and threads, for the same minutes. Planning and preparing are not counted.

- **nnU-Net**: configuration 3d_fullres, SGD with momentum 0.99, as it comes, but for two things in
  its favour: its polynomial decay runs over the minutes given, step by step, and not over 1,000
  epochs, and its pseudo-validation of random patches takes none of them. As it comes it mirrors
  along every axis, also where that turns a left label into a right one; this package then swaps
  the two, or does not mirror.
- **nnU-Net's net, AdamW**: the same network, plan, loader, augmentation and loss with AdamW at
  1e-3, weight decay 1e-2, a warm-up over 40 steps or 5 % of the time, whichever is shorter, and the
  C library's allocator told to keep freed memory, which makes its steps faster.
- **u2net3d**: one model per domain, of the preset named; behind a colon what was changed of it
  ([fields](families.md#changing-a-preset)). **universal**: one model of all the domains, with the
  sum of their budgets; its steps, seconds and weights are those of all of them together.
- **Data**: parts of four public sets ([which](data.md)).
- **Split**: the fold of the package, patients apart as far as names tell them; the hippocampus
  names none, so one person may stand on both sides. nnU-Net gets the fold as its splits_final.json.
  It is given the training cases alone, so no plan, fingerprint or normalisation sees the others.
- **What it says**: what these minutes buy on this machine. nnU-Net by itself trains for 250,000
  steps; what it reaches in the time it was made for is not in these tables.
- **State**: the weights of the last step, for every peer. No state is chosen by the cases that
  judge, and no stray components are removed.
- **Recipe**: ours was chosen before these runs, the learning rate by Dice on fold 0 of the
  hippocampus and of head and neck, the network by shorter runs ([log](log.md)); tables of another
  fold are by cases that judged none of it, though they were learnt from then. Of nnU-Net nothing
  was chosen by any of these cases.
- **Threads**: as many for each. Ours let a waiting thread sleep soon, as the command line does
  (`GOMP_SPINCOUNT=20000`); nnU-Net's are as its own command leaves them, beside its processes that
  load.
- **Judged**: whole validation volumes, each predicted by the peer's own sliding window (tiles
  overlapping by half) from file to file, without averaging over reflections where a table does not
  say otherwise, scored by `u2net3d evaluate`.
- **Dice**: mean over labels of the means over cases. Loaders of nnU-Net draw without a seed.
- **HD95** of a label that was not found is the diagonal of the volume.
- **±** is half the distance between the lowest and the highest seed, of a gain the larger one of
  its two sides where both have several; without ± there is one seed, and what differs by less than
  0.02 says nothing. Means over domains have none. The seeds of every
  contestant stand in the tables of runs.
- **Seconds** are by the clock, so other work on the machine would show in the steps; memory is that
  of the process, without nnU-Net's loader processes. The commit of each run stands in its row.
"""
NOTE = (
    f"{TRAINED_SIGN} hardly trained: fewer than {FEW_STEPS} steps a domain, or a Dice under "
    f"{LOW_DICE}. What is ahead of it is ahead by speed; it is no evidence of what the network can "
    "do.\n"
)
TAIL = """\
## To repeat it, or to add to it

Rows go to `accuracy.jsonl` in the current folder, or to `--rows`. A run that has its row there is
not run again; one that was stopped goes on from its checkpoint. `--list` says what would run.
"""


def write_report(path: Path, rows: Sequence[Row]) -> None:
    """Writes the document to `path` and its pictures into `pictures` beside it."""
    groups = groups_of(rows)
    for section in sections(groups):
        if pictured(section):
            picture = path.parent / "pictures" / picture_name(section[0])
            files.write_bytes(picture, dice_by_domain(section))
    files.write_text(path, document(rows))


def document(rows: Sequence[Row]) -> str:
    """The text."""
    groups = groups_of(rows)
    if not groups:
        return f"{HEAD}\nThere are no rows yet.\n\n{TAIL}"
    parts = [HEAD, conditions(rows, PACKAGES)]
    for section in sections(groups):
        parts += [f"## {title(section[0])}\n", *_results(section)]
        parts += (_of_reflections if section[0].rows[0].tta else _details)(section)
    parts += [TAIL, "```sh", *commands(groups), "```", ""]
    return "\n".join(parts)


def pictured(groups: Sequence[Group]) -> bool:
    """Whether a section has a picture: with reflections it would be the same again."""
    return len(names_of(groups)) > 1 and not groups[0].rows[0].tta


def picture_name(group: Group) -> str:
    """The file of a section's picture."""
    seconds, threads, device, fold, _ = group.section
    return f"accuracy-{seconds:g}s-{threads}-{device}-fold{fold}.png"


def _results(groups: Sequence[Group]) -> list[str]:
    """Dice of every contestant on every domain, the picture, and who is ahead of whom."""
    names, domains = names_of(groups), domains_of(groups)
    found = {(group.name, group.domain): group for group in groups}
    lines = [(domain, *(_cell(found.get((n, domain))) for n in names)) for domain in domains]
    if len(domains) > 1:
        own = {n: [found[n, d] for d in domains if (n, d) in found] for n in names}
        lines.append(("mean", *(_mean_of(own[n], len(domains)) for n in names)))
    parts = [table(("Dice", *names), lines)]
    if any(group.hardly for group in groups):
        parts.append(NOTE)
    if pictured(groups):
        shown = "Dice of every peer on every domain, a dot per seed, a bar at their mean"
        hollow = "; hollow: hardly trained" if any(group.hardly for group in groups) else ""
        parts.append(f"![{shown}{hollow}](pictures/{picture_name(groups[0])})\n")
    gains = list(_gains(groups))
    mean = f"mean without {TRAINED_SIGN}" if any(g.hardly for g in groups) else "mean"
    return parts + ([table(("gain in Dice", *domains, mean), gains)] if gains else [])


def _gains(groups: Sequence[Group]) -> Iterable[tuple[str, ...]]:
    """Of each of ours over nnU-Net's two, and of `universal` over our single models.

    The mean is of the domains where both sides were trained; none where a run is missing.
    """
    domains = domains_of(groups)
    found = {(group.name, group.domain): group for group in groups}
    peers = {group.name: group.asked.peer for group in groups}
    for name, peer in peers.items():
        beaten = {"u2net3d": THEIRS}.get(peer, ())
        beaten = (*THEIRS, "u2net3d") if peer == "universal" else beaten
        for other in (o for o in peers if peers[o] in beaten):
            both = [(found.get((name, d)), found.get((other, d))) for d in domains]
            known = [(a, b) for a, b in both if a and b]
            sound = [a.dice.mean - b.dice.mean for a, b in known if not (a.hardly or b.hardly)]
            if known:
                cells = [_gain(a, b) if a and b else "–" for a, b in both]
                whole = sound and len(known) == len(both)
                mean = f"{statistics.mean(sound):+.3f}" if whole else "–"
                yield f"{name} over {other}", *cells, mean


def _details(groups: Sequence[Group]) -> list[str]:
    """Per domain: what each contestant's runs were, and every label."""
    parts = ["How they were trained: " + "; ".join(
        dict.fromkeys(f"**{g.name}** {g.rows[0].how}" for g in groups)) + ".\n"]  # fmt: skip
    for domain in domains_of(groups):
        own = [group for group in groups if group.domain == domain]
        one = own[0].outcomes[0]
        learnt = f"{one.training_cases} cases to learn from, {len(one.cases)} to judge by."
        parts += [f"### {domain}\n\n{learnt}\n", _runs_table(own), _labels_table(own)]
    return parts


def _of_reflections(groups: Sequence[Group]) -> list[str]:
    """Per domain what differs from the section of the same runs without: seconds and labels."""
    parts = []
    for domain in domains_of(groups):
        own = [group for group in groups if group.domain == domain]
        seconds = ", ".join(f"{group.name} {_volume_s(group)}" for group in own)
        parts += [f"### {domain}\n\nSeconds a volume: {seconds}.\n", _labels_table(own)]
    return parts


def _volume_s(group: Group) -> str:
    return f"{statistics.median(outcome.volume_s for outcome in group.outcomes):.3g}"


def _runs_table(groups: Sequence[Group]) -> str:
    columns = ("peer", "seeds", "patch × batch", "steps", "s", "s a step", "weights", "GiB",
               "s a volume")  # fmt: skip
    lines = []
    for group in groups:
        rows, outcome = group.rows, group.outcomes[0]
        peaks = [row.peak_gib for row in rows if row.peak_gib is not None]
        lines.append(
            (
                group.name,
                ", ".join(map(str, group.seeds)),
                "×".join(map(str, outcome.patch)) + f" × {outcome.batch}",
                _range([row.steps for row in rows]),
                _range([round(row.seconds) for row in rows]),
                f"{statistics.median(row.step_s for row in rows):.3g}",
                f"{rows[0].weights:,}",
                f"{max(peaks):.1f}" if peaks else "–",
                _volume_s(group),
            )
        )
    return table(columns, lines)


def _labels_table(groups: Sequence[Group]) -> str:
    """Means over the seeds: Dice, HD95 in mm and NSD at 2 mm of each label."""
    labels = [*groups[0].outcomes[0].labels]
    lines = []
    for group in groups:
        cells = []
        for label in labels:
            every = [outcome.labels[label] for outcome in group.outcomes]
            means = [_mean(getattr(score, name) for score in every)
                     for name in ("dice", "hd95_mm", "nsd")]  # fmt: skip
            shown = zip(means, (".3f", ".1f", ".3f"), strict=True)
            cells.append(" / ".join("–" if v is None else format(v, f) for v, f in shown))
        lines.append((group.name, *cells))
    return table(("Dice / HD95 mm / NSD 2 mm", *labels), lines)


def commands(groups: Sequence[Group]) -> list[str]:
    """What makes these rows again: a line for a contestant's domains that have the same seeds."""
    found: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        found.setdefault((group.section, group.name, group.seeds), []).append(group)
    lines = []
    for own in found.values():
        asked, tta = own[0].asked, own[0].rows[0].tta
        domains = asked.domains if asked.peer == "universal" else domains_of(own)
        lines.append(command(asked, domains, own[0].seeds, tta=tta))
    mirrored = {line.removesuffix(" --tta") for line in lines if line.endswith(" --tta")}
    return [line for line in dict.fromkeys(lines) if line not in mirrored]


def _cell(group: Group | None) -> str:
    return "–" if group is None else f"{group.dice}{_sign(group)}"


def _gain(one: Group, other: Group) -> str:
    half = max(one.dice.half, other.dice.half)
    several = min(one.dice.count, other.dice.count) > 1
    spread = f" ± {half:.3f}" if several else ""
    return f"{one.dice.mean - other.dice.mean:+.3f}{spread}{_sign(one, other)}"


def _mean_of(groups: Sequence[Group], domains: int) -> str:
    if len(groups) < domains:
        return "–"
    return f"{statistics.mean(group.dice.mean for group in groups):.3f}{_sign(*groups)}"


def _sign(*groups: Group) -> str:
    return f" {TRAINED_SIGN}" if any(group.hardly for group in groups) else ""


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
