"""The model that comes with the package: read where there is no other, copied, never changed.

It is an ordinary model folder, in half precision, with cards and licence notices beside the
weights. An installation may be without one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from u2net3d import files
from u2net3d.errors import UsageError

SHIPPED = Path(__file__).resolve().parents[1] / "weights"
HERE = Path("model")  # where a model is looked for, and made, if none is named


def shipped() -> Path | None:
    """The folder of the model that ships; None where this installation has none."""
    from u2net3d.store.manifest import MANIFEST

    return SHIPPED if (SHIPPED / MANIFEST).is_file() else None


def default_model() -> Path:
    """What is read where no model is named: ./model if it is there, else the one that ships.

    ./model all the same where none ships.
    """
    return HERE if os.path.lexists(HERE) else shipped() or HERE


def require_own(folder: Path) -> None:
    """Raises UsageError for the model that ships: its bytes are those of the package."""
    if folder.resolve().is_relative_to(SHIPPED.resolve()):
        what = f"{folder} came with the package and is never changed"
        mend = "without --model, `u2net3d add-domain` begins with a copy of it in ./model"
        raise UsageError("--model", what, mend)


def copy_shipped(source: Path, folder: Path) -> None:
    """Makes `folder`, where nothing lies yet, a copy of the model that ships, whole or not at all.

    Cards and licence notices go with the weights. Raises DiskError where there is no room,
    UsageError where something lies there after all.
    """
    files.require_writable(folder.parent, "--model")
    begun = files.temporary_beside(folder)
    try:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                files.write_bytes(begun / path.relative_to(source), path.read_bytes())
        try:
            begun.rename(folder)
        except OSError as error:
            mend = "look at what lies there, and run the command again"
            raise UsageError("--model", f"{folder} was made meanwhile", mend) from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)
