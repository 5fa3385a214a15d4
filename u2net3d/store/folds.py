"""A folder of folds: one model per fold in fold0/, fold1/, ..., and folds.json that lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from u2net3d import files
from u2net3d.errors import ModelError
from u2net3d.spec import Frozen

FOLDS = "folds.json"


class Folds(Frozen):
    """The folds of a folder; done: which of them have finished a work ("train", "add-liver")."""

    format: Literal["u2net3d-folds"] = "u2net3d-folds"
    version: Literal[1] = 1
    folds: tuple[int, ...] = Field(min_length=1)
    done: dict[str, tuple[int, ...]] = Field(default_factory=dict)


def read_folds(folder: Path) -> Folds | None:
    """What folds.json says; None where there is none. Raises ModelError where it is unreadable."""
    path = folder / FOLDS
    if not path.is_file():
        return None
    try:
        return Folds.model_validate_json(path.read_bytes())
    except ValidationError as error:
        what = f"is no list of folds of this version ({error.errors()[0]['msg']})"
        raise ModelError(path, what, "restore the file, or update u2net3d") from error


def fold_folder(folder: Path, fold: int) -> Path:
    """The model of one fold."""
    return folder / f"fold{fold}"


def models_in(folder: Path) -> list[Path]:
    """The model folders in a folder: those of its folds, or itself where it holds none."""
    folds = read_folds(folder)
    return [fold_folder(folder, fold) for fold in folds.folds] if folds else [folder]


def write_folds(folder: Path, folds: Folds) -> None:
    """Writes folds.json."""
    files.write_text(folder / FOLDS, folds.model_dump_json(indent=2) + "\n")
