"""Whatever is wrong with a file: one line on stderr names it and the mend; never a traceback."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

TABLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "io" / "faults.py")))
LINE = re.compile(r"error: (?P<where>.+?): (?P<what>.+) — (?P<mend>.+)")
IMAGES = [fault for fault in TABLE.REFUSED if not fault.label]
LABELS = [fault for fault in TABLE.REFUSED if fault.label]
NO_FILES = {"missing", "a folder", "a pipe", "a device", "a broken link"}


@pytest.fixture
def predict(trained, tmp_path, u2net3d):
    """predict(image) segments it with the trained model; the label goes to `out`."""
    options = ("--domain", "liver", "--model", trained.model)
    return lambda image: u2net3d("predict", "-i", image, "-o", tmp_path / "out.nii.gz", *options)


@pytest.mark.parametrize("fault", IMAGES, ids=lambda fault: fault.kind)
def test_a_bad_image_is_one_error_line_with_its_name_and_the_mend(fault, tmp_path, predict):
    (tmp_path / "in").mkdir()
    path = fault.make(tmp_path / "in")
    said = predict(path)
    # A path that is no file is a wrong option (2), a file that is no image wrong data (1).
    assert said.code == (2 if fault.kind in NO_FILES else 1), said.err
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert LINE.fullmatch(line), line
    assert path.with_suffix("").with_suffix("").name in line
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize("fault", LABELS, ids=lambda fault: fault.kind)
def test_a_bad_label_is_one_error_line_with_its_name_and_the_mend(fault, tmp_path, u2net3d):
    for folder in ("pred", "ref"):
        (tmp_path / folder).mkdir()
    reference = fault.make(tmp_path / "ref")
    (tmp_path / "pred" / reference.name).write_bytes(TABLE.zipped(TABLE.nii(TABLE.LABEL)))
    said = u2net3d("evaluate", "--pred", tmp_path / "pred", "--ref", tmp_path / "ref")
    assert said.code in (1, 3)  # all cases, or some, could not be scored
    assert "Traceback" not in said.err
    assert all(LINE.fullmatch(line) for line in said.errors)
    assert any(reference.name in line for line in said.errors)


@pytest.mark.parametrize("fault", TABLE.NOTED, ids=lambda fault: fault.kind)
def test_what_was_mended_is_said_on_stderr(fault, tmp_path, predict):
    said = predict(fault.make(tmp_path))
    assert said.code == 0, said.err
    assert any(line.startswith("note: ") for line in said.err.splitlines())
