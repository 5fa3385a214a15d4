"""The runs that a command of few-shot names: domains, patients, starts, seeds and trunks."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from compare_families import contestant, domains_by_name
from compare_rows import Asked, Budget, data_of
from few_shot_rows import OTHERS, FewAsked

from u2net3d.cli.training import seconds_of
from u2net3d.errors import UsageError
from u2net3d.io.dataset import find_dataset, split
from u2net3d.spec import RECIPES, TrainSpec, bank_recipe, domain_name

_WORD = re.compile(r"(?P<domains>[^:@]*)(?P<changes>(:[^:@]+)*)(@(?P<budget>[^@]+))?")


class Trunk(NamedTuple):
    """A model to add to. domains: None for all that are given but the new one."""

    domains: tuple[str, ...] | None
    preset: str
    budget: Budget


def trunk_of(word: str, preset: str, budget: Budget) -> Trunk:
    """`a+b:field=value@10m`; whatever is left out is as given. Raises UsageError."""
    found = _WORD.fullmatch(word)
    if not found:
        raise UsageError("--trunks", f"'{word}' is no trunk", "write a+b:field=value@10m")
    names = [name for name in found["domains"].split("+") if name]
    whole = preset + found["changes"]
    contestant(whole)  # there is such a network
    if found["budget"]:
        budget = budget.model_copy(update={"amount": amount_of(found["budget"], budget.kind)})
    return Trunk(tuple(domain_name(n) for n in names) if names else None, whole, budget)


def amount_of(text: str, kind: str) -> float:
    """What of a budget's kind `text` says: steps, or seconds as 90s, 30m, 1h. UsageError."""
    if kind != "steps":
        return seconds_of(text)
    if not text.isdecimal() or int(text) < 1:
        raise UsageError("--trunk-time", f"'{text}' are no steps", "with --steps write a number")
    return int(text)


def runs(asked: argparse.Namespace) -> Iterator[FewAsked]:
    """Everything that was asked for, domain by domain: what was stopped has whole domains.

    Seed by seed in each, so that its table is filled early. A trunk that knows the new domain is
    left out.
    """
    names = tuple(domains_by_name(asked.domains))
    for domain in names:
        for seed in asked.seeds:
            for cases in asked.cases:
                for init in asked.inits:
                    yield from _run(asked, names, domain, cases, init, seed)


def _run(
    asked: argparse.Namespace,
    names: Sequence[str],
    domain: str,
    cases: int | None,
    init: str,
    seed: int,
) -> Iterator[FewAsked]:
    plain = {
        "data": data_of(asked.data, typed(asked, [domain]), asked.fold), "domains": (domain,),
        "cases": cases, "init": init, "seed": seed, "fold": asked.fold, "budget": asked.budget,
        "device": asked.device, "recipe": "own",
    }  # fmt: skip
    if init == "scratch":
        own = contestant(asked.preset)
        training = told(RECIPES.get(own.preset, TrainSpec()))
        yield FewAsked(preset=asked.preset, model=own, training=training, **plain)
        return
    for trunk in asked.trunks:
        domains = trunk.domains or tuple(name for name in names if name != domain)
        if domain in domains:
            continue
        model = contestant(trunk.preset)
        yield FewAsked(
            preset=trunk.preset,
            model=model,
            training=told(bank_recipe(model.preset)),
            trunk=_training_of(asked, trunk, domains),
            base="+".join(trunk.domains) if trunk.domains else OTHERS,
            **plain,
        )


def _training_of(asked: argparse.Namespace, trunk: Trunk, domains: tuple[str, ...]) -> Asked:
    """The training of a trunk: once, whatever seed a run on it has."""
    each = trunk.budget.model_copy(update={"amount": trunk.budget.amount / len(domains)})
    model = contestant(trunk.preset)
    return Asked(
        data=data_of(asked.data, typed(asked, domains), asked.fold),
        preset=trunk.preset,
        model=model,
        training=told(RECIPES.get(model.preset, TrainSpec())),
        domains=domains,
        fold=asked.fold,
        budget=each,
        device=asked.device,
        recipe="own",
    )


def told(recipe: TrainSpec) -> dict[str, Any]:
    """What of a recipe differs from TrainSpec's defaults.

    In the row it says by what the run was trained, also when the preset has another recipe one day.
    """
    said, default = recipe.model_dump(), TrainSpec().model_dump()
    return {field: value for field, value in said.items() if value != default[field]}


def typed(asked: argparse.Namespace, domains: Sequence[str]) -> list[str]:
    """The domains as they were typed, name=PATH too; one of a trunk alone by its name."""
    known = domains_by_name(asked.domains)
    return [known.get(name, name) for name in domains]


def require_patients(asked: argparse.Namespace, todo: Sequence[FewAsked]) -> None:
    """Raises what is wrong with a data set or a number of patients before hours of the others."""
    trained = {name for each in todo if each.trunk for name in each.trunk.domains}
    for name in sorted(trained | {each.domain for each in todo}):
        dataset = find_dataset(asked.data, typed(asked, [name])[0])
        patients = {case.patient for case in split(dataset, asked.fold).training}
        most = max((each.cases or 0 for each in todo if each.domain == name), default=0)
        if most > len(patients):
            what = f"{most} asked for, {name} has {len(patients)} patients to learn from"
            raise UsageError("--cases", what, "ask for fewer, or for all")
