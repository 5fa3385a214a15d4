"""More cases for a domain that is there: what `u2net3d update-domain` does."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from u2net3d import store
from u2net3d.errors import TrainingError, UsageError
from u2net3d.io.dataset import Dataset, Split
from u2net3d.models.network import Bank, Network
from u2net3d.prep.plan import Say
from u2net3d.spec import DomainSpec, ModelSpec
from u2net3d.train.add_domain import (
    file_hashes,
    require_unchanged,
    require_whole,
)
from u2net3d.train.interrupt import held_back
from u2net3d.train.loop import train
from u2net3d.train.new_bank import begun_bank, sources_of
from u2net3d.train.pictures import draw_cases
from u2net3d.train.planned import planned
from u2net3d.train.roles import Learner, Listener, Result, Run
from u2net3d.train.run import (
    Prepared,
    Request,
    begin,
    card,
    counted,
    data_sha256,
    identity,
    learner,
    of_the_end,
    require_free,
)
from u2net3d.train.running import Mark, running
from u2net3d.train.sides import kept_sides
from u2net3d.train.validate import DomainScore, judge


@dataclass(frozen=True)
class Update:
    """A bank in training that is to replace the one in force.

    init: None goes on from the bank's own weights, with its plan; else as in `add_domain`.
    force: replace the old bank by a worse one too.
    """

    dataset: Dataset
    init: str | None
    force: bool


@dataclass(frozen=True)
class _Before:
    """The model before the update."""

    model: ModelSpec
    specs: dict[str, DomainSpec]
    bank: Bank
    sha256: str


def update_domain(
    update: Update, request: Request, listener: Listener, say: Say, prepared: Prepared
) -> tuple[Result, store.Manifest]:
    """Trains the bank of `update.dataset` further or anew and puts it in the place of the old one.

    The old bank is in force until then, and kept for `rollback`. Both are judged by the same cases;
    a worse one is not taken. Patients stay on the side of the split on which the old bank saw them.
    Raises UsageError for a domain there is not or other labels, TrainingError for a worse bank.
    """
    name = update.dataset.domain
    store.tidy(request.model)
    record = store.require_domain(store.read_domains(request.model), name, request.model)
    sha256 = file_hashes(request.model, "")[record.path]
    folder = request.model / "runs" / f"update-{name}-{sha256[:12]}"
    with running(request.model, folder.name, say) as mark:
        net, model, specs = store.load(request.model)
        before = _Before(model, specs, copy.deepcopy(net.bank(name)), sha256)
        return _update(net, before, update, request, listener, say, prepared, folder, mark)


def _update(
    net: Network,
    before: _Before,
    update: Update,
    request: Request,
    listener: Listener,
    say: Say,
    prepared: Prepared,
    folder: Path,
    mark: Mark,
) -> tuple[Result, store.Manifest]:
    dataset, name = update.dataset, update.dataset.domain
    others = file_hashes(request.model, name)
    require_free(request.model, folder, request, [name])
    cases, remark = kept_sides(dataset, request.spec.fold, request.model)
    if remark:
        say(f"{name}: {remark}")
    spec = _spec(update, before, cases, prepared, request.spec.cube, say)
    sources = [name]
    if update.init is not None:
        sources = sources_of(update.init, [other for other in before.specs if other != name])
    each = learner(dataset, spec, cases, request, prepared)
    net, chosen = begun_bank(
        net, each, cases.training, before.specs, update.init, sources, request, folder, say
    )
    said = chosen.said if chosen else {}
    kind = f"update {update.init} of {before.sha256}"
    run = Run(
        spec=request.spec,
        learners=(each,),
        folder=folder,
        identity=identity(before.model, [each], request.spec, kind),
        device=request.device,
        said=said,
    )
    begin(run, before.model, request, say, net, mark)
    result = train(net, run, listener, resume=request.resume)
    _compare(net, before, each, result, update.force, run, say)
    made = card(each, result, request.spec) | of_the_end(net, each, run.device) | said
    require_unchanged(others)
    with held_back():  # a file, and its entry in the manifest
        manifest = store.save_domain(request.model, net, spec, made, data_sha256(each))
    require_unchanged(others)
    require_whole(request.model)
    draw_cases(net, run, result)
    return result, manifest


def _spec(
    update: Update,
    before: _Before,
    cases: Split,
    prepared: Prepared,
    cube: int | None,
    say: Say,
) -> DomainSpec:
    """The domain's own specification where it is trained on, a new one where it begins anew."""
    dataset, old = update.dataset, before.specs[update.dataset.domain]
    if update.init is not None:
        measured = counted(dataset, prepared, "measured")
        return planned(dataset, cases.training, before.model, cube, measured, say)
    for what, there, given in (
        ("labels", old.labels, dataset.labels),
        ("channels", old.channels, dataset.channels),
    ):
        if there != given:
            said = f"the bank has the {what} {', '.join(there)}, the data set {', '.join(given)}"
            mend = "train it anew with --init fresh, or add another with add-domain NEW --init "
            raise UsageError("domain", f"{old.name}: {said}", mend + old.name)
    return old.model_copy(update={"ignore_label": dataset.ignore_label})


def _compare(
    net: Network,
    before: _Before,
    each: Learner,
    result: Result,
    force: bool,
    run: Run,
    say: Say,
) -> None:
    """Says how the old bank and the new one did; TrainingError where the new one is worse."""
    name = each.spec.name
    new, old = result.scores.get(name), _old_score(net, before, each, run)
    if new is None or old is None:
        say(f"{name}: the old bank and the new one cannot be compared on the same cases")
        return
    figures = f"Dice {new.mean:.4f}, of the old one {old.mean:.4f}, on the same {len(new.cases)}"
    say(f"{name}: {figures} validation cases")
    if new.mean >= old.mean:
        return
    if not force:
        what = f"the new bank is worse ({figures} cases), the old one stays"
        raise TrainingError(name, what, "to take it all the same repeat with --resume --force")
    say(f"{name}: warning: the new bank is worse and was taken all the same")


def _old_score(net: Network, before: _Before, each: Learner, run: Run) -> DomainScore | None:
    """How the bank in force does on the validation cases of the new one."""
    spec = before.specs[each.spec.name]
    if not each.validation or (spec.labels, spec.channels) != (
        each.spec.labels,
        each.spec.channels,
    ):
        return None
    new = net.bank(spec.name)
    try:
        net.banks[spec.name] = before.bank.to(run.device)
        return judge(net, spec, each.dataset, each.validation, run.device)
    finally:
        net.banks[spec.name] = new
