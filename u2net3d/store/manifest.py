"""The manifest of a model folder, and how a folder goes from one state to the next in one step.

A change first writes the new files beside their places under names that begin with a dot, then a
line of the ledger, then the manifest. With the manifest it has taken effect: until then the folder
reads as before, from then on as after, wherever a kill falls (`place_of` finds the files). What
remains, renaming the new files into their places, the next change does where this one could not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from u2net3d import files
from u2net3d.errors import ModelError
from u2net3d.spec import Frozen, ModelSpec
from u2net3d.store import ledger
from u2net3d.store.folds import fold_folder, read_folds
from u2net3d.store.ledger import Change, State

MANIFEST, TRUNK, DOMAINS, PREVIOUS = "manifest.json", "trunk.safetensors", "domains", "previous"
SUFFIX = ".safetensors"
_STAGED = re.compile(r"\.[a-z0-9]+-[0-9a-f]{12}\.safetensors")


class FileEntry(Frozen):
    """A file of the model folder: its path in the folder and the SHA-256 of its bytes."""

    file: str
    sha256: str


class Manifest(Frozen):
    """What a model folder holds. trunk_id names the trunk's weights, whatever file they lie in.

    ledger: hash of the ledger's line that led here; None in folders older than ledgers.
    """

    format: Literal["u2net3d-model"] = "u2net3d-model"
    version: Literal[1] = 1
    model: ModelSpec
    trunk_id: str
    trunk_weights: int
    trunk: FileEntry
    domains: dict[str, FileEntry] = Field(default_factory=dict)
    ledger: str | None = None

    @model_validator(mode="after")
    def _own_files(self) -> Manifest:
        if self.trunk.file != TRUNK:
            raise ValueError(f"the trunk's file must be {TRUNK}")
        for name, entry in self.domains.items():
            if entry.file != file_of(name) or not re.fullmatch(r"[a-z0-9]+", name):
                raise ValueError(f"the file of {name} must be {file_of(name)}")
        return self

    @property
    def entries(self) -> tuple[FileEntry, ...]:
        """Trunk and domains."""
        return (self.trunk, *self.domains.values())

    def state(self) -> State:
        """What the ledger must lead to."""
        listed = {name: entry.sha256 for name, entry in self.domains.items()}
        return State(self.trunk_id, listed)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a model folder. Raises ModelError where there is none or it is unreadable."""
    path = folder / MANIFEST
    if not path.is_file() and (folds := read_folds(folder)):
        what = f"holds {len(folds.folds)} folds, no single model"
        raise ModelError(folder, what, f"name one: {fold_folder(folder, folds.folds[0])}")
    if not path.is_file():
        what = "holds no model" if folder.is_dir() else "is no folder"
        mend = "train one with `u2net3d train`, or name another with --model"
        raise ModelError(folder, what, mend)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        what = f"is no manifest of this version ({error.errors()[0]['msg']})"
        raise ModelError(path, what, "restore the file, or update u2net3d") from error


def sha256_of(content: bytes) -> str:
    """SHA-256 of the bytes of a file that is to be written."""
    return hashlib.sha256(content).hexdigest()


def file_of(name: str) -> str:
    """The place of a domain's file in the folder."""
    return f"{DOMAINS}/{name}{SUFFIX}"


def domain_files(folder: Path) -> list[Path]:
    """The domain files of a model folder, sorted; names that begin with a dot are not ours."""
    found = (folder / DOMAINS).glob(f"*{SUFFIX}")
    return sorted(path for path in found if not path.name.startswith("."))


def kept(folder: Path, name: str, sha256: str) -> Path:
    """Where an earlier version of a domain is kept."""
    return folder / PREVIOUS / f"{name}-{sha256[:12]}{SUFFIX}"


def place_of(folder: Path, entry: FileEntry) -> Path:
    """Where the bytes of a listed file lie; its own place unless a kill cut a change off.

    Then they lie beside it under a name with a dot, or, where the file is gone, in previous/.
    """
    path = folder / entry.file
    staged = _staged(path, entry.sha256)
    if staged.is_file() and not (path.is_file() and files.sha256_file(path) == entry.sha256):
        return staged
    earlier = kept(folder, path.stem, entry.sha256)
    return earlier if not path.is_file() and earlier.is_file() else path


@contextmanager
def changing(folder: Path) -> Iterator[Manifest]:
    """The manifest of a folder that is about to be changed; one process at a time.

    What a killed change left is tidied up first. Raises ModelError as `read_manifest`.
    """
    read_manifest(folder)  # before a lock makes the folder
    with ledger.locked(folder):
        yield _tidied(folder, read_manifest(folder))


def commit(
    folder: Path,
    manifest: Manifest,
    contents: Mapping[str, bytes],
    event: ledger.Event,
    changes: Mapping[str, Change],
) -> Manifest:
    """Takes the folder to `manifest`, with `contents` for the files (place: bytes) that are new.

    changes: what the ledger shall say; a domain that it leaves without a file is taken away. Files
    that are replaced or taken away are kept in previous/ first; not by a training, which makes
    another trunk. Called inside `changing`, or `locked` where there may be no model yet.
    """
    gone = [name for name, change in changes.items() if change.file_sha256 is None]
    for name, change in changes.items():
        path = folder / file_of(name)
        if path.is_file() and (name in gone or (file_of(name) in contents and event != "train")):
            _keep(folder, name, path.read_bytes(), change.was)
    for file, content in contents.items():
        files.write_bytes(_staged(folder / file, sha256_of(content)), content)
    head = ledger.append(folder, event, changes, manifest.trunk_id)
    for name in gone:
        (folder / file_of(name)).unlink(missing_ok=True)
    manifest = manifest.model_copy(update={"ledger": head})
    _write(folder, manifest)
    _put_in_place(folder, manifest)
    if event == "train":
        for name in gone:
            for path in (folder / PREVIOUS).glob(f"{name}-*{SUFFIX}"):
                path.unlink()
    return manifest


def sha256_in(folder: Path, manifest: Manifest, name: str) -> str | None:
    """SHA-256 of a domain's file: as listed, of one put in by hand its own; None without one."""
    if name in manifest.domains:
        return manifest.domains[name].sha256
    path = folder / file_of(name)
    return files.sha256_file(path) if path.is_file() else None


def _keep(folder: Path, name: str, content: bytes, sha256: str | None) -> None:
    """Puts a version of a domain's file into previous/; one that was damaged is let go."""
    if sha256 == sha256_of(content):
        files.write_bytes(kept(folder, name, sha256), content)


def _tidied(folder: Path, manifest: Manifest) -> Manifest:
    """The folder as its manifest says; a line of the ledger that took no effect is undone."""
    files.sweep(folder, folder / DOMAINS, folder / PREVIOUS)
    _put_in_place(folder, manifest)
    try:
        known = ledger.read(folder)
    except ModelError:
        return manifest  # `verify` names it; the next line follows the last
    lines = known.lines if known else ()
    if lines and lines[-1].sha256 == manifest.ledger:
        return manifest
    effective = known.until(manifest.ledger) if known else None
    event: ledger.Event = "found" if effective is None else "undone"
    names = set(manifest.domains)
    if effective is not None:
        names = {name for line in lines[len(effective) :] for name in line.domains}
    then, now = ledger.state(lines).domains, manifest.state().domains
    changes = {
        name: Change(file_sha256=now.get(name), was=then.get(name)) for name in sorted(names)
    }
    head = ledger.append(folder, event, changes, manifest.trunk_id)
    manifest = manifest.model_copy(update={"ledger": head})
    _write(folder, manifest)
    return manifest


def _put_in_place(folder: Path, manifest: Manifest) -> None:
    for entry in manifest.entries:
        path, lies = folder / entry.file, place_of(folder, entry)
        if lies.parent != path.parent:
            files.write_bytes(path, lies.read_bytes())
        elif lies != path:
            lies.replace(path)
    for place in (folder, folder / DOMAINS):
        for path in place.glob(f".*{SUFFIX}"):
            if _STAGED.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _write(folder: Path, manifest: Manifest) -> None:
    files.write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def _staged(path: Path, sha256: str) -> Path:
    return path.with_name(f".{path.stem}-{sha256[:12]}{path.suffix}")
