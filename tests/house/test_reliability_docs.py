"""The table of faults is what the tests make and what the reader says."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_faults_is_current():
    document = runpy.run_path(str(ROOT / "scripts" / "reliability_docs.py"))["document"]
    written = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert written == document(), "run scripts/reliability-docs"
