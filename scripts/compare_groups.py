"""Rows of a comparison that differ in their seed alone, on one domain, and what they say."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

from compare_rows import Asked, Budget, Outcome, Row

from u2net3d.spec import PRESETS

FAMILIES = {
    "universal": "universal separable",
    "reference": "published 3D U²-Net",
    "unet": "U-Net",
    "unetpp": "UNet++",
    "fcn": "FCN",
}
FEW_STEPS, LOW_DICE = 100, 0.3  # below one of them a network has hardly been trained
ONE_SEED = 0.02  # of Dice: what differs by less says nothing where there is one seed (docs/log.md)
THIRDS = ("small", "middle", "large")


@dataclass(frozen=True)
class Spread:
    """A mean over seeds; half: half the distance from the lowest to the highest of them."""

    mean: float
    half: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.mean(values), (max(values) - min(values)) / 2, len(values))

    @property
    def noise(self) -> float:
        """What a difference must exceed to say something."""
        return max(self.half, ONE_SEED / sqrt(self.count))

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}" if self.count > 1 else f"{self.mean:.3f}"


@dataclass(frozen=True)
class Group:
    """The seeds of one contestant on one domain."""

    domain: str
    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def asked(self) -> Asked:
        return self.first.asked

    @property
    def name(self) -> str:
        return self.first.name

    @property
    def family(self) -> str:
        return self.asked.model.family

    @property
    def outcomes(self) -> list[Outcome]:
        return [row.outcomes[self.domain] for row in self.rows]

    @property
    def outcome(self) -> Outcome:
        """That of the first seed: for what no seed changes."""
        return self.outcomes[0]

    @property
    def dice(self) -> Spread:
        return Spread.of([outcome.dice for outcome in self.outcomes])

    def tercile(self, third: int) -> float | None:
        """Mean over seeds; None where no label has cases enough."""
        known = [outcome.tercile(third) for outcome in self.outcomes]
        there = [value for value in known if value is not None]
        return statistics.mean(there) if there else None

    @property
    def plainly(self) -> bool:
        """Whether all patients were learnt from, and the images not bent."""
        return self.asked.cases is None and not self.asked.elastic

    @property
    def whole(self) -> bool:
        """Whether the network answers as a whole, and not one of its levels."""
        return self.first.level is None

    @property
    def hardly(self) -> bool:
        """Whether it was hardly trained: no evidence of what a network can do."""
        steps = min(row.steps for row in self.rows) / len(self.asked.domains)
        return steps < FEW_STEPS or self.dice.mean < LOW_DICE

    @property
    def weights(self) -> float:
        """Those that answer for the domain: its bank, and its share of the trunk."""
        return self.first.trunk / len(self.asked.domains) + self.outcome.weights

    def median(self, of: Callable[[Outcome], float]) -> float:
        """Of what is measured, over the seeds."""
        return statistics.median(of(outcome) for outcome in self.outcomes)


def groups_of(rows: Iterable[Row]) -> list[Group]:
    """Rows by contestant and domain, in order of their first; of equal runs the last one counts."""
    found: dict[tuple[str, int | None, str], dict[int, Row]] = {}
    for row in rows:
        without_seed = row.asked.model_copy(update={"seed": 0}).key
        for domain in row.outcomes:
            found.setdefault((without_seed, row.level, domain), {})[row.asked.seed] = row
    return [
        Group(domain, tuple(seeds[seed] for seed in sorted(seeds)))
        for (_, _, domain), seeds in found.items()
    ]


def in_order(groups: Iterable[Group]) -> list[Group]:
    """By family, the dense ones first but in the universal; changed and cut networks behind."""
    families, presets = [*FAMILIES], [*PRESETS]

    def place(group: Group) -> tuple[Any, ...]:
        asked, level = group.asked, group.first.level
        return (
            families.index(group.family) if group.family in families else len(families),
            group.first.block == "separable" and group.family != "reference",
            presets.index(name) if (name := asked.preset.partition(":")[0]) in presets else -1,
            asked.preset,
            group.first.contestant,
            asked.cases or 0,
            -level if level else -inf,
        )

    return sorted(groups, key=place)


def few_of(groups: Sequence[Group]) -> list[Group]:
    """What learnt from few patients, or from bent images, and beside it the same net without."""

    def network(group: Group) -> tuple[Any, ...]:
        asked = group.asked
        training = {k: v for k, v in asked.training.items() if k != "elastic"}
        return group.domain, asked.preset, asked.recipe, asked.domains, json.dumps(training)

    chosen = {network(group) for group in groups if not group.plainly}
    own = [group for group in groups if group.whole and network(group) in chosen]
    return sorted(own, key=lambda group: group.outcome.training_cases)


def budgets_of(groups: Iterable[Group]) -> list[Budget]:
    """All budgets, that of the most runs first: claims are judged by that one alone."""
    return [budget for budget, _ in Counter(group.asked.budget for group in groups).most_common()]


def domains_of(groups: Iterable[Group]) -> list[str]:
    return list(dict.fromkeys(group.domain for group in groups))


def step_costs(groups: Iterable[Group]) -> list[tuple[Group, float, float]]:
    """Of each network whose step was measured by several runs, on a domain: the least, the most.

    Equal are those that differ in nothing which a step does.
    """
    found: dict[str, tuple[Group, list[float]]] = {}
    for group in (each for each in groups if each.whole):
        outcome, training = group.outcome, group.asked.training
        recipe = [group.asked.recipe, training.get("optimiser"), training.get("loss")]
        model = group.asked.model.model_dump(exclude={"preset"})
        banks = sorted(group.asked.domains)
        said = [group.domain, banks, model, recipe, outcome.patch, outcome.batch,
                group.asked.budget.threads, group.asked.device, group.first.machine]  # fmt: skip
        costs = found.setdefault(json.dumps(said, sort_keys=True), (group, []))[1]
        costs += [each.step_s for each in group.outcomes]
    return [(group, min(costs), max(costs)) for group, costs in found.values() if len(costs) > 1]


def names_of(groups: Iterable[Group]) -> list[str]:
    return list(dict.fromkeys(group.name for group in groups))


def paired(
    one: Iterable[Group], other: Iterable[Group], alike: Callable[[Group], object]
) -> list[tuple[Group, Group]]:
    """Groups of two kinds that are `alike` on the same domain; the first of each kind counts."""
    there: dict[tuple[str, object], Group] = {}
    for group in other:
        there.setdefault((group.domain, alike(group)), group)
    pairs, seen = [], set()
    for group in one:
        key = (group.domain, alike(group))
        if key in there and key not in seen:
            seen.add(key)
            pairs.append((group, there[key]))
    return pairs
