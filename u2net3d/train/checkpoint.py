"""The state of a run in one file, so that it can be stopped and taken up again."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from u2net3d import files
from u2net3d.errors import TrainingError

FILE = "checkpoint.pt"


@dataclass
class Checkpoint:
    """Everything a run needs to go on as if it had not been stopped.

    identity: hash of what must not change between the two halves (plans, cases, seed, recipe);
    net, best_net: the weights in training, by name (not those of a frozen trunk); best_scores: Dice
    of the best step per domain, case and label.
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


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint into `folder`, whole or not at all."""
    content = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write_bytes(folder / FILE, buffer.getvalue())


def require(folder: Path) -> None:
    """Raises TrainingError where `folder` holds no checkpoint to go on from."""
    path = folder / FILE
    if not path.is_file():
        raise TrainingError(path, "there is no checkpoint", "leave --resume out to begin anew")


def load(folder: Path, identity: str) -> Checkpoint:
    """Reads the checkpoint of `folder` as data alone (no code in it is run).

    Raises TrainingError where there is none, it is unreadable, or it is of another configuration.
    """
    require(folder)
    path = folder / FILE
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint = Checkpoint(**content)
    except Exception as error:
        what = "is no checkpoint of this version"
        mend = "leave --resume out and give --overwrite to begin anew"
        raise TrainingError(path, what, mend) from error
    if checkpoint.identity != identity:
        what = "belongs to another configuration (domains, cases, seed, fold, budget or recipe)"
        mend = "repeat the first command with --resume, or begin anew with --overwrite"
        raise TrainingError(path, what, mend)
    return checkpoint
