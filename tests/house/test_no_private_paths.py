"""What is committed: no path of the machine it was built on, no one's volumes, nothing big."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"(?<![\w.~:/\-})])/(?:work|home|root|opt|mnt|media|scratch|Users|data)/\w")
VOLUMES = (
    ".nii",
    ".nii.gz",
    ".mha",
    ".mhd",
    ".nrrd",
    ".nhdr",
    ".dcm",
    ".npy",
    ".npz",
    ".img",
    ".hdr",
)
PHANTOMS = re.compile(r"data/Task0[2357]_\w+/")
LIMIT_MIB = 60


def tracked() -> list[str]:
    """Every tracked file that is there, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are the project's")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_folder_of_the_machine_it_was_built_on():
    named = []
    for name in tracked():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content:
            lines = content.decode("utf-8").splitlines()
            named += [f"{name}:{n}" for n, line in enumerate(lines, 1) if PRIVATE.search(line)]
    assert named == []


def test_no_volumes_but_our_own_phantoms():
    volumes = [name for name in tracked() if name.lower().endswith(VOLUMES)]
    assert [name for name in volumes if not PHANTOMS.match(name)] == []


def test_the_repository_stays_small():
    size_mib = sum((ROOT / name).stat().st_size for name in tracked()) / 2**20
    assert size_mib < LIMIT_MIB
