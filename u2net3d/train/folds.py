"""The same work once per fold: a whole model each, in <model>/fold0, fold1, ..."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from u2net3d import files, store
from u2net3d.errors import UsageError
from u2net3d.prep.plan import Say
from u2net3d.train import checkpoint
from u2net3d.train.run import Request


def each_fold(
    folds: Sequence[int], work: str, request: Request, say: Say, one: Callable[[Request], None]
) -> None:
    """Calls `one` with the request of every fold: its own model folder and its own split.

    work: the name of the run in runs/ (`train`, `add-liver`). With `request.resume`, folds that
    have finished are left out, one that was begun is taken up, the others begin. Raises UsageError
    where the folder holds a single model, or other folds.
    """
    require_folds(request.model, folds)
    files.require_writable(request.model, "--model")
    if request.overwrite and not request.resume:
        if work == "train":  # what was added to the old trunks goes with them
            store.write_folds(request.model, store.Folds(folds=tuple(folds)))
        _mark(request.model, folds, work, ())
        for fold in folds:  # lest a later --resume takes up what was to be overwritten
            checkpoint.clear(store.fold_folder(request.model, fold) / "runs" / work)
    for fold in folds:
        known = store.read_folds(request.model)
        done = known.done.get(work, ()) if known else ()
        if request.resume and fold in done:
            say(f"fold {fold}: was finished before")
            continue
        say(f"fold {fold} of {', '.join(map(str, folds))}")
        part = store.fold_folder(request.model, fold)
        _mark(request.model, folds, work, done)
        begun = bool(checkpoint.generations(part / "runs" / work))
        one(
            replace(
                request,
                model=part,
                spec=request.spec.model_copy(update={"fold": fold}),
                resume=request.resume and begun,
                overwrite=request.overwrite or (request.resume and not begun),
            )
        )
        _mark(request.model, folds, work, (*done, fold))


def require_folds(model: Path, folds: Sequence[int]) -> None:
    """Raises UsageError where `model` holds a single model, or other folds."""
    if (model / store.MANIFEST).exists():
        mend = "name another --model for the folds"
        raise UsageError("--fold", f"{model} holds a single model", mend)
    known = store.read_folds(model)
    if known and known.folds != tuple(folds):
        there = ",".join(map(str, known.folds))
        raise UsageError("--fold", f"{model} holds the folds {there}", f"use --fold {there}")


def _mark(model: Path, folds: Sequence[int], work: str, done: Sequence[int]) -> None:
    known = store.read_folds(model)
    others = dict(known.done) if known else {}
    said = store.Folds(folds=tuple(folds), done={**others, work: tuple(sorted(set(done)))})
    store.write_folds(model, said)
