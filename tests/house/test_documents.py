"""Documents that keep their word: links lead somewhere, commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PLACES = ("README.md", "CHANGELOG.md", "data/README.md", "docs/**/*.md")
DOCUMENTS = sorted(path for place in PLACES for path in ROOT.glob(place))
HISTORY = ROOT / "docs" / "log.md"  # commands as they were typed on that day
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)")
FENCE = re.compile(r"^ *```[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The words of every line in a fenced block that starts with `u2net3d`.

    Synopses count too: of `[--steps N | --time T]` and `--tta/--no-tta` every option is a word.
    """
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.strip().removeprefix("$ ")
            if not re.match(r"u2net3d\s", words):
                continue
            if "[" not in words:  # a real command: what follows a pipe is another program's
                words = re.split(r"\s(?:\||&&|>|;)\s", words)[0]
            yield shlex.split(re.sub(r"[\[\]|]|/(?=--)", " ", words), comments=True)


def unknown_words(group: Any, words: list[str]) -> list[str]:
    """The verb if there is no such verb, else the options that it does not have."""
    context = group.make_context("u2net3d", [], resilient_parsing=True)
    command, rest = group, words[1:]
    if not rest[0].startswith("-"):
        command, rest = group.get_command(context, rest[0]), rest[1:]
        if command is None:
            return [words[1]]
    known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
    given = [word.split("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)]
    return [option for option in given if option not in known]


def test_every_relative_link_leads_to_a_file():
    assert ROOT / "README.md" in DOCUMENTS
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in DOCUMENTS
        for target in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
        if not re.match(r"[a-z]+:|#", target) and not (path.parent / target.split("#")[0]).exists()
    ]
    assert broken == []


def test_every_command_shown_exists_with_its_options():
    from typer.main import get_command

    from u2net3d.cli.app import app

    group = get_command(app)
    shown = [
        (path, words)
        for path in DOCUMENTS
        if path != HISTORY
        for words in commands(path.read_text(encoding="utf-8"))
    ]
    wrong = [
        f"{path.relative_to(ROOT)}: {shlex.join(words)}: {unknown}"
        for path, words in shown
        if (unknown := unknown_words(group, words))
    ]
    assert wrong == []
    assert any(path.name == "README.md" for path, _ in shown)


def test_the_reader_of_commands_reads_synopses_pipes_and_continued_lines():
    text = """
u2net3d not in a block
```sh
$ u2net3d train --domains a,b \\
    --steps=10   # a comment
u2net3d domains --json | other -x
u2net3d predict -i FILE|DIR [--tta/--no-tta] [--steps N | --time T]
python -m u2net3d
```
"""
    assert [" ".join(words) for words in commands(text)] == [
        "u2net3d train --domains a,b --steps=10",
        "u2net3d domains --json",
        "u2net3d predict -i FILE DIR --tta --no-tta --steps N --time T",
    ]
