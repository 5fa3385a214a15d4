"""The state of a run in files that can be trusted, so that it can be stopped and taken up again.

<run>/checkpoints/<step>.checkpoint, the newest `KEPT` of them: a line of JSON (format, version,
SHA-256 of the rest) and then what torch saved, which is read as data alone.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from u2net3d import files
from u2net3d.errors import TrainingError

FOLDER = "checkpoints"
KEPT = 3
FORMAT, VERSION = "u2net3d-checkpoint", 1
_SUFFIX = ".checkpoint"
_HEADER_LIMIT = 4096


@dataclass
class Checkpoint:
    """Everything a run needs to go on as if it had not been stopped.

    identity: hash of what must not change between the two halves (plans, cases, seed, recipe);
    net, best_net: the weights in training, by name (not those of a frozen trunk); best_scores: Dice
    of the best step per domain, case and label; guard: see `Guard.state`;
    plateau: see `Plateau.state`, empty in older files.
    """

    identity: str
    step: int
    elapsed_s: float
    validated_at_s: float
    validation_s: float
    validations: int
    net: dict[str, Any]
    optimiser: dict[str, Any]
    best_net: dict[str, Any]
    best_step: int
    best_scores: dict[str, Any]
    guard: dict[str, Any]
    plateau: dict[str, Any] = field(default_factory=dict)


def generations(folder: Path) -> list[Path]:
    """The checkpoint files of the run in `folder`, the newest (of the highest step) first."""
    found = (folder / FOLDER).glob(f"*{_SUFFIX}")
    return sorted((path for path in found if path.stem.isdecimal()), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step that a checkpoint file is named after."""
    return int(path.stem)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Adds a generation, whole or not at all, then removes those before the newest `KEPT`.

    Files of later steps go too: they are of a future that was given up, because they were damaged.
    Raises DiskError, with every earlier generation left, where it cannot be written.
    """
    content = {each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getvalue()
    said = {"format": FORMAT, "version": VERSION, "sha256": hashlib.sha256(body).hexdigest()}
    path = folder / FOLDER / f"{checkpoint.step:08d}{_SUFFIX}"
    files.write_bytes(path, json.dumps(said).encode() + b"\n" + body)
    earlier = [other for other in generations(folder) if step_of(other) <= checkpoint.step]
    for other in set(generations(folder)) - set(earlier[:KEPT]):
        other.unlink(missing_ok=True)
    return path


def clear(folder: Path) -> None:
    """Removes every checkpoint of the run in `folder`."""
    for path in generations(folder):
        path.unlink(missing_ok=True)


def require(folder: Path) -> None:
    """Raises TrainingError where `folder` holds no checkpoint to go on from."""
    if not generations(folder):
        what, mend = "there is no checkpoint", "leave --resume out to begin anew"
        raise TrainingError(folder / FOLDER, what, mend)


def how_to_go_on(folder: Path) -> str:
    """The words for a person after a run in `folder` has ended too early."""
    kept = generations(folder)
    if not kept:
        return "repeat the command: there was no checkpoint yet"
    return f"the same command with --resume goes on from step {step_of(kept[0])}"


def load(folder: Path, identity: str, tell: Callable[[str], None] = lambda _: None) -> Checkpoint:
    """The newest whole checkpoint of the run in `folder`, read as data alone: no code in it is run.

    tell: hears about each damaged file that was passed over. Raises TrainingError where there is
    none, where none is whole (saying what is wrong with the newest), or it is of another
    configuration.
    """
    require(folder)
    faults: list[tuple[Path, str]] = []
    for path in generations(folder):
        try:
            found = _read(path)
        except _Damaged as fault:
            faults.append((path, str(fault)))
            continue
        _require_identity(path, found, identity)
        for damaged, what in faults:
            tell(f"{damaged}: {what}; going on from step {found.step} instead")
        return found
    older = f", nor is one of the {len(faults) - 1} before it whole" if len(faults) > 1 else ""
    mend = "restore it from a copy, or leave --resume out and give --overwrite to begin anew"
    raise TrainingError(faults[0][0], faults[0][1] + older, mend)


class _Damaged(Exception):
    """What is wrong with a file."""


def _read(path: Path) -> Checkpoint:
    """The checkpoint in a file; _Damaged where it is not as it was saved."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        said = json.loads(head[:_HEADER_LIMIT])
        its_format, version, sha256 = said["format"], said["version"], said["sha256"]
    except OSError as error:
        raise _Damaged(f"cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _Damaged("is no checkpoint of u2net3d, or is torn") from error
    if (its_format, version) != (FORMAT, VERSION):
        raise _Damaged(f"is {its_format} of version {version}, not {FORMAT} of version {VERSION}")
    if sha256 != hashlib.sha256(body).hexdigest():
        raise _Damaged("is damaged (its SHA-256 is not the one that was saved)")
    try:
        return Checkpoint(**torch.load(io.BytesIO(body), map_location="cpu", weights_only=True))
    except Exception as error:  # whatever torch raises: code in a pickle, another content
        raise _Damaged("holds something else than the data of a checkpoint") from error


def _require_identity(path: Path, checkpoint: Checkpoint, identity: str) -> None:
    if checkpoint.identity != identity:
        what = "belongs to another configuration (domains, cases, seed, fold, budget or recipe)"
        mend = "repeat the first command with --resume, or begin anew with --overwrite"
        raise TrainingError(path, what, mend)
