"""The reference of the command line is what the commands say."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_of_commands_is_current():
    document = runpy.run_path(str(ROOT / "scripts" / "cli_docs.py"))["document"]
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == document(), "run scripts/cli-docs"


def test_every_note_belongs_to_a_verb():
    from u2net3d.cli.app import app

    verbs = {c.callback.__name__.replace("_", "-") for c in app.registered_commands}
    assert set(runpy.run_path(str(ROOT / "scripts" / "cli_docs.py"))["NOTES"]) <= verbs
