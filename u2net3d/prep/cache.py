"""Prepared cases, kept between runs: a folder per case, named after everything it depends on.

A changed source file, plan or `VERSION` gives another name, hence a fresh entry; each file's hash
is checked on load, and an entry that is torn or altered is made again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from u2net3d.errors import DiskError
from u2net3d.files import sha256_file, sha256_json, sweep, temporary_beside, write_json
from u2net3d.io.dataset import Case, Dataset, read_case, source_hashes
from u2net3d.prep.fingerprint import Progress, seeded, silent
from u2net3d.prep.pipeline import prepare, prepare_label
from u2net3d.spec import Plan
from u2net3d.volume import Array, Volume

VERSION = 2  # raise it whenever prepared cases would come out differently
IGNORED = -1
MAX_POSITIONS = 10_000
FILES = ("image.npy", "label.npy", "foreground.npz")


@dataclass(frozen=True)
class PreparedCase:
    """A training case as the network sees it.

    image (C, D, H, W) float32; label (D, H, W) int16, -1 where it is to be ignored; foreground: for
    each label value present at most 10,000 of its voxels, (n, 3) int32; content: hash of all that
    the case was made from. Read-only memory maps where
    the case comes from a cache.
    """

    name: str
    image: Array
    label: Array
    foreground: dict[int, Array]
    content: str = ""


def default_cache() -> Path:
    """The user's cache folder for this package: $XDG_CACHE_HOME or ~/.cache, /u2net3d."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # the XDG rule: a relative path there is not valid and is ignored
    return (base if base.is_absolute() else Path.home() / ".cache") / "u2net3d"


def prepare_cases(
    dataset: Dataset,
    cases: Sequence[Case],
    plan: Plan,
    cache: Path | None,
    progress: Progress = silent,
) -> list[PreparedCase]:
    """The labelled `cases` prepared, from `cache` where they lie there unharmed.

    progress: called with (done, total). Without a cache, or where it cannot be written, they are
    held in memory. Raises what `read_case` raises.
    """
    if cache is not None:
        sweep(cache)
    prepared = []
    for done, case in enumerate(cases, start=1):
        prepared.append(_prepared_case(dataset, case, plan, cache))
        progress(done, len(cases))
    return prepared


def _prepared_case(dataset: Dataset, case: Case, plan: Plan, cache: Path | None) -> PreparedCase:
    key = _key(dataset, case, plan)
    if cache is None:
        return replace(_prepare(dataset, case, plan), content=key)
    entry = cache / key
    kept = _load(entry, case.name)
    if kept is not None:
        return kept
    fresh = replace(_prepare(dataset, case, plan), content=key)
    try:
        _save(fresh, entry)
    except (OSError, DiskError):  # not writable, or full: the run goes on in memory
        return fresh
    return _load(entry, case.name) or fresh


def _key(dataset: Dataset, case: Case, plan: Plan) -> str:
    """Names the content of an entry: source bytes, what is read of dataset.json, plan, version.

    Batch, patch and topology are left out: they do not touch the voxels.
    """
    return sha256_json(
        {
            "version": VERSION,
            "sources": source_hashes(case),
            "case": case.name,
            "channels": len(dataset.channels),
            "labels": len(dataset.labels),
            "ignore": dataset.ignore_label,
            "plan": plan.model_dump(include={"spacing_mm", "normalisation"}),
        }
    )


def _prepare(dataset: Dataset, case: Case, plan: Plan) -> PreparedCase:
    loaded = read_case(dataset, case)
    image, preparation = prepare(loaded.image, plan)
    label = loaded.label.array
    if dataset.ignore_label is not None:
        label = np.where(label == dataset.ignore_label, np.int16(IGNORED), label)
    array = prepare_label(Volume(label, loaded.label.affine), preparation)
    foreground = {
        value: positions
        for value in range(1, len(dataset.labels))
        if len(positions := _positions(array, value, case.name))
    }
    return PreparedCase(case.name, image, array, foreground)


def _positions(label: Array, value: int, name: str) -> Array:
    """At most MAX_POSITIONS voxels of `value`, (n, 3) int32, the same ones every time."""
    found = np.flatnonzero(label == value)
    if len(found) > MAX_POSITIONS:
        found = np.sort(seeded(name, value).choice(found, MAX_POSITIONS, replace=False))
    return np.stack(np.unravel_index(found, label.shape), axis=1).astype(np.int32)


def _save(case: PreparedCase, entry: Path) -> None:
    """Writes the whole entry beside its place, then renames it there. OSError or DiskError."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    folder = temporary_beside(entry)
    try:
        folder.mkdir()
        np.save(folder / "image.npy", case.image)
        np.save(folder / "label.npy", case.label)
        positions: dict[str, Any] = {str(value): found for value, found in case.foreground.items()}
        np.savez(folder / "foreground.npz", **positions)
        hashes = {name: sha256_file(folder / name) for name in FILES}
        meta = {"key": entry.name, "sha256": hashes}
        write_json(folder / "meta.json", meta)
        if entry.exists():  # torn or altered: _load has just refused it
            shutil.rmtree(entry)
        folder.rename(entry)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _load(entry: Path, name: str) -> PreparedCase | None:
    """The entry, its arrays mapped read-only; None when it is missing, torn or altered."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        if meta["key"] != entry.name or meta["sha256"] != {
            file: sha256_file(entry / file) for file in FILES
        }:
            return None
        with np.load(entry / "foreground.npz") as stored:
            foreground = {int(value): stored[value] for value in stored.files}
        image = np.load(entry / "image.npy", mmap_mode="r")
        label = np.load(entry / "label.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return PreparedCase(name, image, label, foreground, entry.name)
