"""Help and start import nothing heavy that they do not need (modules are counted, not seconds)."""

from __future__ import annotations

import subprocess
import sys

HELP = """
import sys
from u2net3d.cli import main

watch, *sys.argv[1:] = sys.argv[1:]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("loaded:", *sorted(set(watch.split()) & set(sys.modules)))
"""
VERBS = ["train", "add-domain", "predict", "evaluate", "check", "download", "domains", "verify"]
COMPUTES = "torch monai nnunetv2 scipy matplotlib nibabel SimpleITK"


def help_and_loaded(*arguments: str, watch: str) -> tuple[str, list[str]]:
    """What `u2net3d *arguments` prints, and which packages of `watch` it imported."""
    command = [sys.executable, "-c", HELP, watch, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    text, _, loaded = ran.stdout.rpartition("loaded:")
    return text, loaded.split()


def test_help_imports_nothing_that_computes():
    text, loaded = help_and_loaded("--help", watch=f"{COMPUTES} numpy pydantic")
    assert loaded == []
    assert [verb for verb in VERBS if verb not in text] == []


def test_help_of_a_verb_imports_nothing_that_computes():
    from typer.main import get_command

    from u2net3d.cli.app import app

    verbs = list(get_command(app).commands)
    assert set(VERBS) <= set(verbs)
    for verb in verbs:
        text, loaded = help_and_loaded(verb, "--help", watch=COMPUTES)
        assert loaded == [], verb
        assert verb in text
