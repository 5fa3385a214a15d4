"""What claims are judged by: pairs of groups on the same domains, their gaps, ratios and noise."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import nan
from typing import Literal

from compare_groups import Group
from compare_rows import Outcome

Verdict = Literal["confirmed", "contradicted", "in part", "not decided", "checked"]
Pairs = Sequence[tuple[Group, Group]]
NEAR = 0.02  # of Dice: `near` and `enough`
ABOUT = 0.25  # part of a claimed ratio by which the measured one may differ
RUN = "scripts/compare --data DIR --domains A,B --seeds 0,1 --time 15m"


@dataclass(frozen=True)
class Claim:
    """A sentence, whether the rows bear it out, the numbers, and of how much they are."""

    title: str
    verdict: Verdict
    numbers: str
    basis: str = ""


def basis(groups: Iterable[Group]) -> str:
    """`2 domains, 1 seed`."""
    own = list(groups)
    domains = len({group.domain for group in own})
    counts = sorted({len(group.rows) for group in own})
    seeds = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
    plural = "s" if counts[-1] > 1 else ""
    return f"{domains} domain{'s' if domains > 1 else ''}, {seeds} seed{plural}"


def counted_on(groups: Iterable[Group]) -> str:
    """`2 domains`: what is counted has no seed."""
    return basis(groups).partition(",")[0]


def of_pairs(pairs: Pairs) -> str:
    """`basis` of both sides."""
    return basis(group for pair in pairs for group in pair)


def missing(title: str, *options: str) -> Claim:
    """A claim that no row speaks of; options: the ends of the commands that would make some."""
    commands = " and ".join(f"`{RUN} {option}`" for option in options)
    return Claim(title, "not decided", f"no rows: {commands} would make them")


def decided(value: float, noise: float) -> Verdict:
    """Whether something is above 0, by more than the noise."""
    if abs(value) <= noise:
        return "not decided"
    return "confirmed" if value > 0 else "contradicted"


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict for several networks: theirs, where it is the same."""
    said = {*verdicts}
    if len(said) == 1:
        return said.pop()
    return "in part" if said & {"confirmed", "in part"} else "not decided"


def about(value: float, claimed: float) -> bool:
    """Whether a ratio is nearly, or more than, what was claimed."""
    return value >= claimed * (1 - ABOUT)


def mean_gap(pairs: Pairs) -> tuple[float, float]:
    """Mean over domains of the first one's Dice less the other's, and the greatest noise of any."""
    gap = statistics.mean(a.dice.mean - b.dice.mean for a, b in pairs)
    return gap, max(group.dice.noise for pair in pairs for group in pair)


def gain_of_third(pair: tuple[Group, Group], third: int) -> float:
    """What the other one has more, on a third of the objects by size; nan where one has none."""
    a, b = (group.tercile(third) for group in pair)
    return nan if a is None or b is None else b - a


def size_ratio(group: Group) -> float:
    """Voxels of an object of the largest third beside the smallest's, geometric mean of labels."""
    sizes = [(label.voxels[0], label.voxels[2]) for label in group.outcome.labels.values()]
    known = [large / small for small, large in sizes if small and large]
    return statistics.geometric_mean(known) if known else nan


def between(pairs: Pairs, of: Callable[[Outcome], float]) -> float:
    """How many times the first one's the other one's figure is, geometric mean over domains."""
    return statistics.geometric_mean([b.median(of) / a.median(of) for a, b in pairs])


def dices(pairs: Pairs, *, named: bool = False) -> str:
    """`liver 0.910 beside 0.920, ...`; named: what is compared, too."""
    said = []
    for a, b in pairs:
        names = f" ({a.name}, {b.name})" if named else ""
        said.append(f"{a.domain} {a.dice} beside {b.dice}{names}")
    return ", ".join(said)


def is_separable(group: Group) -> bool:
    """Whether the network has depthwise and pointwise convolutions in pairs, and is whole."""
    macs = group.outcome.macs
    return macs is not None and macs.pairs > 0 and group.whole


def by_preset(groups: Iterable[Group]) -> list[tuple[str, list[Group]]]:
    """The groups of each network, however it was trained."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.asked.preset, []).append(group)
    return list(found.items())


def by_name(groups: Iterable[Group]) -> list[tuple[str, list[Group]]]:
    """The groups of each contestant, over its domains."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.name, []).append(group)
    return list(found.items())


def by_level(groups: Iterable[Group]) -> dict[str, dict[str, dict[int, Group]]]:
    """Contestant -> domain -> level of what has levels; the whole network is its deepest one.

    A network of n stages has n - 1 levels.
    """
    found: dict[str, dict[str, dict[int, Group]]] = {}
    for group in groups:
        if group.plainly:
            level = group.first.level or group.outcome.stages - 1
            own = found.setdefault(group.first.contestant, {}).setdefault(group.domain, {})
            own[level] = group
    return {
        name: domains
        for name, domains in found.items()
        if any(len(levels) > 1 for levels in domains.values())
    }


def all_but(group: Group, *names: str) -> str:
    """What a group's run was apart from some of its options; equal for runs to be compared.

    Domain, seed, fold and budget are not part of it.
    """
    asked, model = group.asked, group.asked.model
    said = {
        "family": model.family,
        "base_channels": model.base_channels,
        "stages": model.stages,
        "recipe": asked.recipe,
        "together": group.first.together,
        "cases": asked.cases,
        "elastic": asked.elastic,
        **model.design.model_dump(),
        **{f"training {name}": value for name, value in asked.training.items()},
        **model.options,
    }
    for name in names:
        said.pop(name, None)
        said.pop(f"training {name}", None)
    return json.dumps(said, sort_keys=True)
