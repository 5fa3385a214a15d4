"""The table of faults is what the tests make and what the reader says."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_faults_is_current():
    document = runpy.run_path(str(ROOT / "scripts" / "reliability_docs.py"))["document"]
    written = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert written == document(), "run scripts/reliability-docs"


def test_what_the_tables_say_of_runs_models_and_predictions_is_held_by_tests():
    held = runpy.run_path(str(ROOT / "tests" / "house" / "faults.py"))["HELD"]
    named = [test for rows in held.values() for _, test, _ in rows]
    assert len(named) > 20
    for path, name in named:
        assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}: {name}"
