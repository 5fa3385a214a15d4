"""`import u2net3d`: a few names, each documented, nothing loaded before it is asked for."""

from __future__ import annotations

import subprocess
import sys

import u2net3d


def test_every_public_name_exists_and_says_what_it_is():
    assert u2net3d.__all__
    assert len(set(u2net3d.__all__)) == len(u2net3d.__all__)
    for name in u2net3d.__all__:
        value = getattr(u2net3d, name)
        if not callable(value):
            continue  # a constant such as __version__ has no docstring of its own
        written = value.__doc__ or ""
        generated = written.startswith(f"{name}(")  # what @dataclass writes where nobody did
        assert written, f"u2net3d.{name} has no docstring"
        assert not generated, f"u2net3d.{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(u2net3d, "no_such_name")


def test_import_loads_no_torch():
    code = "import sys, u2net3d; print(*sorted({'torch', 'monai', 'nnunetv2'} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []
