"""A new domain on a frozen trunk: what `u2net3d add-domain` does."""

from __future__ import annotations

import secrets
from pathlib import Path

from u2net3d import files, store
from u2net3d.errors import ModelError, UsageError
from u2net3d.io.dataset import Dataset, Split, split
from u2net3d.prep.plan import Say
from u2net3d.train.interrupt import held_back
from u2net3d.train.loop import train
from u2net3d.train.new_bank import begun_bank, recorded, sources_of
from u2net3d.train.pictures import draw_cases
from u2net3d.train.planned import planned
from u2net3d.train.roles import Listener, Result, Run
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


def add_domain(
    dataset: Dataset,
    request: Request,
    init: str | None,
    patients: int | None,
    listener: Listener,
    say: Say,
    prepared: Prepared,
) -> tuple[Result, store.Manifest]:
    """Trains a bank for `dataset` on the frozen trunk of a model and adds it to the folder.

    init: `fresh`, `mean` over the model's banks, the name of one of them, or `nearest` for the one
    that fits best (`nearest.py` says by what); None: `nearest`, and `fresh` where the model has no
    other bank; patients: how many of the training patients to learn from (None: all). One file and
    one entry of the manifest are written. Raises UsageError for a domain that is there already, one
    that was changed since the run that is taken up again, and an unknown `init`, ModelError, with
    nothing written, if a byte of the trunk or of another bank is no longer what it was.
    """
    store.tidy(request.model)  # a folder that is no model stays as it is
    folder = request.model / "runs" / f"add-{dataset.domain}"
    with running(request.model, folder.name, say) as mark:
        return _add_domain(dataset, request, init, patients, listener, say, prepared, folder, mark)


def _add_domain(
    dataset: Dataset,
    request: Request,
    init: str | None,
    patients: int | None,
    listener: Listener,
    say: Say,
    prepared: Prepared,
    folder: Path,
    mark: Mark,
) -> tuple[Result, store.Manifest]:
    before = file_hashes(request.model, dataset.domain)
    net, model, specs = store.load(request.model)
    if dataset.domain in specs and not (request.overwrite or request.resume):
        mend = "give it another name (name=PATH), or replace it with --overwrite"
        raise UsageError("domain", f"{dataset.domain} is in {request.model} already", mend)
    require_free(request.model, folder, request, [dataset.domain])
    origin = _origin(request, folder, dataset.domain)
    others = [name for name in specs if name != dataset.domain]
    init = init or ("nearest" if others else "fresh")
    sources = sources_of(init, others)
    cases = _first_patients(split(dataset, request.spec.fold), patients)
    if knows := store.trained_on(request.model):
        say(f"{dataset.domain}: on the trunk of {request.model}, trained on {', '.join(knows)}")
    measured = counted(dataset, prepared, "measured")
    spec = planned(dataset, cases.training, model, request.spec.cube, measured, say)
    each = learner(dataset, spec, cases, request, prepared)
    net, chosen = begun_bank(net, each, cases.training, specs, init, sources, request, folder, say)
    said = {"run": origin["run"]} | (chosen.said if chosen else {})
    trunk = store.read_manifest(request.model).trunk_id
    run = Run(
        spec=request.spec,
        learners=(each,),
        folder=folder,
        identity=identity(model, [each], request.spec, f"add {init} to {trunk}"),
        device=request.device,
        said=origin | said,
    )
    begin(run, model, request, say, net, mark)
    result = train(net, run, listener, resume=request.resume)
    require_unchanged(before)
    made = card(each, result, request.spec) | of_the_end(net, each, run.device) | said
    with held_back():  # a file, and its entry in the manifest
        manifest = store.save_domain(request.model, net, spec, made, data_sha256(each))
    require_unchanged(before)
    require_whole(request.model)
    draw_cases(net, run, result)
    return result, manifest


def _origin(request: Request, folder: Path, name: str) -> dict[str, str | None]:
    """`run`, drawn for this run and repeated in its bank's card, and `replaces`, the SHA-256 of the
    domain's file as the run began; a run that is taken up again has those of its run.json.

    UsageError where such a run would replace a bank that it neither made nor found.
    """
    record = store.read_domains(request.model).get(name)
    there = files.sha256_file(record.path) if record else None
    if not request.resume:
        return {"run": secrets.token_hex(6), "replaces": there}
    origin = {what: recorded(folder).get(what) for what in ("run", "replaces")}
    made_by = record.said.card.get("run") if record else origin["run"]
    if made_by == origin["run"] or there == origin["replaces"]:
        return origin
    what = f"the bank of {name} is no longer the one that this run made or began with"
    raise UsageError("--resume", what, "train it further with update-domain, or anew: --overwrite")


def _first_patients(cases: Split, patients: int | None) -> Split:
    if patients is None:
        return cases
    # by hash: names are often in the order of sites or scanners
    names = sorted({case.patient for case in cases.training}, key=files.sha256_json)
    if not 1 <= patients <= len(names):
        what = f"{patients} asked for, {len(names)} patients to learn from"
        raise UsageError("--cases", what, f"use 1 to {len(names)}")
    kept = set(names[:patients])
    return Split(tuple(case for case in cases.training if case.patient in kept), cases.validation)


def file_hashes(model: Path, added: str) -> dict[Path, str]:
    """The trunk's and the other banks' files and their SHA-256, before anything is trained."""
    new = model / store.DOMAINS / f"{added}.safetensors"
    paths = [model / store.TRUNK, *store.domain_files(model)]
    return {path: files.sha256_file(path) for path in paths if path.is_file() and path != new}


def require_unchanged(before: dict[Path, str]) -> None:
    """Raises ModelError where one of the files of `file_hashes` is no longer what it was."""
    for path, sha256 in before.items():
        if not path.is_file() or files.sha256_file(path) != sha256:
            what = "is no longer what it was when the training began"
            raise ModelError(path, what, "restore it from a copy, then repeat with --resume")


def require_whole(model: Path) -> None:
    """Raises ModelError, the first difference, where `verify` finds one."""
    differences = store.verify(model)
    if differences:
        raise ModelError(model, differences[0], "restore the folder from a copy")
