"""The specification of a domain that a network is to be trained on."""

from __future__ import annotations

from collections.abc import Sequence

from u2net3d.io.dataset import Case, Dataset
from u2net3d.models import FAMILIES
from u2net3d.prep.fingerprint import Progress
from u2net3d.prep.plan import Say, domain_spec, unheard
from u2net3d.spec import DomainSpec, ModelSpec


def planned(
    dataset: Dataset,
    cases: Sequence[Case],
    model: ModelSpec,
    cube: int | None,
    progress: Progress,
    say: Say = unheard,
) -> DomainSpec:
    """`domain_spec` of the training cases within the model's budget, with its network's margin."""
    spec = domain_spec(
        dataset, cases, model.stages, budget=model.budget, cube=cube, progress=progress, say=say
    )
    margin = FAMILIES[model.family].margin(model, spec.plan)
    return spec.model_copy(update={"plan": spec.plan.model_copy(update={"margin": margin})})
