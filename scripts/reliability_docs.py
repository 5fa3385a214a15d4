"""docs/reliability.md: what goes wrong and what the user gets, from the tests' tables of faults.

tests/io/faults.py makes bad files: each is made and read here, and its own error line is written
down. Every other tests/*/faults.py holds CHAPTERS: title -> rows of (fault, the tests that make it,
what the user gets).
"""

from __future__ import annotations

import runpy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from u2net3d import files, io
from u2net3d.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "docs" / "reliability.md"
FILES = ROOT / "tests" / "io" / "faults.py"

HEAD = """\
# Reliability

Written by `scripts/reliability-docs` from the tables that the tests hold the program to
(`tests/*/faults.py`); a test keeps it current.

## The promise about files

An image or a label is either read as it was stored, voxel for voxel and at its place in mm, or
refused in one line with its name and the mend. Where something was mended or chosen, a note says
so: `predict` prints it and keeps it in the sidecar. There is no traceback without `--debug`.

The tests cut a `.nii.gz` and a `.nii` after every byte, and turn every bit of a `.nii.gz` and of
the numbers in the header of a `.nii`; of packed NRRD and MetaImage a bit of every byte of the
voxels. None of these is read as another image without a note, but for what nothing contradicts:

- A `.nii`, a `.img`, and NRRD and MetaImage that are not packed have no checksum: a damaged voxel
  is not seen. Prefer `.nii.gz`.
- In the header of a `.nii` nothing contradicts a wrong scaling (`scl_slope`, `scl_inter`). Where
  only one of qform and sform is set, its origin and directions are not contradicted either, nor the
  voxel sizes of a qform; those of an sform are compared with `pixdim`.
- The text headers of NRRD and MetaImage say most things once: other numbers that make sense are
  read.

Which form counts where both are set, and what is done about NaN: see
[geometry](geometry.md#what-is-read).
"""


def document() -> str:
    """The whole of docs/reliability.md."""
    table = runpy.run_path(str(FILES))
    parts = [HEAD]
    for title, faults in table["CHAPTERS"].items():
        parts += [f"## {title}", "", *rows((f.kind, f.made, refusal(f)) for f in faults)]
    parts += ["## Read, with a note", "", *rows((f.kind, f.made, note(f)) for f in table["NOTED"])]
    read = ((f.kind, f.made, "read as it is") for f in table["READ"])
    parts += ["## Read as it is", "", *rows(read)]
    for path in sorted(ROOT.glob("tests/*/faults.py")):
        if path != FILES:
            for title, found in runpy.run_path(str(path))["CHAPTERS"].items():
                parts += [f"## {title}", "", *rows(found, "held by")]
    return "\n".join(parts).rstrip() + "\n"


def rows(found: Any, second: str = "made by") -> Iterator[str]:
    """A table of three columns, and an empty line."""
    yield f"| fault | {second} | the user gets |"
    yield "|---|---|---|"
    for kind, made, gets in found:
        yield f"| {kind} | {made} | {gets} |"
    yield ""


def refusal(fault: Any) -> str:
    """The error line that a fault gives, without the folder that the file was made in."""
    with tempfile.TemporaryDirectory() as folder:
        path = fault.make(Path(folder))
        try:
            io.read_label(path) if fault.label else io.read_image([path])
        except DataError as error:
            return f"`{str(error).removeprefix(folder + '/')}`"
    raise AssertionError(f"{fault.kind} is not refused")


def note(fault: Any) -> str:
    """The note that is taken of a fault."""
    with tempfile.TemporaryDirectory() as folder:
        _, source = io.read_image([fault.make(Path(folder))])
    return f"`{source.notes[0]}`"


if __name__ == "__main__":
    files.write_text(PLACE, document())
