"""What the tests of scripts share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """A test may import scripts; the next one gets them anew."""
    before = {*sys.modules}
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield
    for name in {*sys.modules} - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).parent == SCRIPTS:
            del sys.modules[name]
