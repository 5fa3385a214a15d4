"""What a run remembers of its command: everything but the paths."""

from __future__ import annotations

import pytest

from u2net3d.cli.typed import without_paths


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("train --domains liver,heart --steps 4", "train --domains liver,heart --steps 4"),
        ("train --data smith --model m --cache c", "train --data PATH --model PATH --cache PATH"),
        ("train --data=smith --steps=4", "train --data=PATH --steps=4"),
        ("train --domains heart,liver=smith", "train --domains heart,liver=PATH"),
        ("train --domains liver=/a/s,heart=/b", "train --domains liver=PATH,heart=PATH"),
        ("add-domain /a=b/smith", "add-domain PATH"),
        ("train --domains=liver=/a/smith", "train --domains=PATH"),
        ("add-domain liver=~/smith --init mean", "add-domain liver=PATH --init mean"),
        ("add-domain /a/smith", "add-domain PATH"),
        ("train --time 30m --resume", "train --time 30m --resume"),
    ],
)
def test_paths_are_left_out_and_nothing_else(typed, kept):
    assert without_paths(typed.split()) == f"u2net3d {kept}"


def test_a_path_with_commas_and_blanks_leaves_nothing_of_it():
    assert without_paths(["add-domain", "liver=/a, b/smith c"]) == "u2net3d add-domain liver=PATH"
