"""One line for a person, and an exit code for a script."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from u2net3d import errors
from u2net3d.errors import DataError, U2Net3dError

FAMILY = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, U2Net3dError)
]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("U2Net3dError", 1),
        ("UsageError", 2),
        ("DataError", 1),
        ("ModelError", 1),
        ("TrainingError", 1),
        ("DiskError", 1),
        ("CasesFailed", 3),
    ],
)
def test_every_kind_has_its_exit_code(name, code):
    assert getattr(errors, name).exit_code == code


def test_the_docstring_lists_every_kind_with_its_code():
    lines = (errors.__doc__ or "").splitlines()
    for kind in FAMILY:
        assert any(kind.__name__ in line and f" {kind.exit_code} " in line for line in lines)


@pytest.mark.parametrize("kind", FAMILY)
def test_a_message_is_one_line_where_what_mend(kind):
    error = kind(Path("scan.nii.gz"), "holds 2 channels", "give 1")
    assert str(error) == "scan.nii.gz: holds 2 channels — give 1"
    assert (error.where, error.what, error.mend) == ("scan.nii.gz", "holds 2 channels", "give 1")


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_crosses_processes_whole(kind):
    error = kind("--fold", "is 7", "give 0 to 4")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


@pytest.mark.parametrize("name", ["a\nerror: b", "a\r\x1b[2Jb", "a\u2028b"])
def test_a_name_that_holds_anything_stays_on_one_line(name):
    line = str(DataError(Path(name), "is broken", "mend it"))
    assert line.isprintable()
    assert line.endswith(": is broken — mend it")
