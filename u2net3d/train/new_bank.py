"""How the bank of `add-domain` begins, and of `update-domain --init`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from u2net3d.errors import UsageError
from u2net3d.io.dataset import Case
from u2net3d.models.network import Network
from u2net3d.models.start import with_new_bank
from u2net3d.prep.plan import Say
from u2net3d.spec import DomainSpec, domain_name
from u2net3d.train.nearest import Nearest, halves_of, nearest
from u2net3d.train.roles import Learner
from u2net3d.train.run import Request


def sources_of(init: str, others: list[str]) -> list[str]:
    """The domains that a new bank begins from; of `nearest` those that one is chosen of.

    Raises UsageError where there is none to choose, and for a name that is not among `others`.
    """
    if init == "fresh":
        return []
    if init == "mean" or (init == "nearest" and others):
        return others
    if init == "nearest":
        raise UsageError("--init", "the model has no other domain to be near to", "use fresh")
    name = domain_name(init)
    if name not in others:
        there = ", ".join(others)
        raise UsageError("--init", f"'{init}' is no domain of this model", f"there are: {there}")
    return [name]


def begun_bank(
    net: Network,
    each: Learner,
    training: Sequence[Case],
    specs: Mapping[str, DomainSpec],
    init: str | None,
    sources: list[str],
    request: Request,
    folder: Path,
    say: Say,
) -> tuple[Network, Nearest | None]:
    """`net` with the learner's bank as it begins, and with `nearest` which one was chosen, and why.

    training: the learner's cases; init, sources: see `sources_of`, None for the domain's own bank;
    folder: of the run. One that is taken up again keeps the choice that it began with.
    """
    found = None
    if init == "nearest":
        found = _chosen_before(folder) if request.resume else None
        if found is None or found.taken not in sources:
            say(f"{each.spec.name}: asking which of {len(sources)} banks fits best")
            halves = halves_of(each.loader, training)
            net.to(request.device)
            found = nearest(net, each.spec, specs, sources, halves, request.spec.seed)
        say(f"{each.spec.name}: {found}")
        sources = [found.taken]
    net = with_new_bank(net, each.spec, specs, sources, request.spec.seed, ends=init != "mean")
    return net, found


def recorded(folder: Path) -> dict[str, Any]:
    """What run.json in the folder of a run says; nothing where there is none to be read."""
    try:
        said = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _chosen_before(folder: Path) -> Nearest | None:
    try:
        return Nearest.model_validate(recorded(folder).get("nearest"))
    except ValidationError:
        return None
