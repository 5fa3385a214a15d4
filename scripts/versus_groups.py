"""Rows of `scripts/versus-nnunet` that differ in their seed alone, and what stands together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compare_groups import FEW_STEPS, LOW_DICE, Spread
from versus_rows import PEERS, Asked, Outcome, Row


@dataclass(frozen=True)
class Group:
    """The seeds of one contestant on one domain; the last run of each."""

    domain: str
    rows: tuple[Row, ...]

    @property
    def asked(self) -> Asked:
        return self.rows[0].asked

    @property
    def name(self) -> str:
        return self.asked.name

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(row.asked.seed for row in self.rows)

    @property
    def outcomes(self) -> list[Outcome]:
        return [row.outcomes[self.domain] for row in self.rows]

    @property
    def dice(self) -> Spread:
        return Spread.of([outcome.dice for outcome in self.outcomes])

    @property
    def hardly(self) -> bool:
        """Whether it was hardly trained: no evidence of what a network can do."""
        steps = min(row.steps for row in self.rows) / len(self.asked.domains)
        return steps < FEW_STEPS or self.dice.mean < LOW_DICE

    @property
    def section(self) -> tuple[float, int, str, int, bool]:
        """What a table has in common: budget, threads, device, fold, reflections."""
        asked, budget = self.asked, self.asked.budget
        return budget.amount, budget.threads or 0, asked.device, asked.fold, self.rows[0].tta


def groups_of(rows: Iterable[Row]) -> list[Group]:
    """Rows by contestant and domain; of runs under one name those of the last recipe count."""
    found: dict[tuple[object, ...], dict[str, dict[int, Row]]] = {}
    for row in rows:
        recipe = row.asked.model_copy(update={"seed": 0}).key
        for domain in row.outcomes:
            group = Group(domain, (row,))
            recipes = found.setdefault((group.section, group.name, domain), {})
            seeds = recipes.pop(recipe, {})  # the recipe of the latest row is the last one
            recipes[recipe] = {**seeds, row.asked.seed: row}
    chosen = [(key[-1], [*recipes.values()][-1]) for key, recipes in found.items()]
    return [Group(str(d), tuple(seeds[n] for n in sorted(seeds))) for d, seeds in chosen]


def sections(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups of the same budget, threads, device and fold, nnU-Net first."""
    kinds = sorted({group.section for group in groups})
    return [
        sorted((g for g in groups if g.section == kind), key=lambda g: PEERS.index(g.asked.peer))
        for kind in kinds
    ]


def title(group: Group) -> str:
    """What a section is called."""
    asked = group.asked
    parts = [f"{asked.budget} a domain", f"fold {asked.fold}"]
    parts += ["on a GPU"] if asked.device != "cpu" else []
    parts += ["averaged over reflections"] if group.rows[0].tta else []
    return ", ".join(parts)


def names_of(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(group.name for group in groups))


def domains_of(groups: Sequence[Group]) -> list[str]:
    return sorted({group.domain for group in groups})
