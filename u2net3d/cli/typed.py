"""What was typed, as a run may remember it: every word but the places on this machine."""

from __future__ import annotations

from collections.abc import Sequence

_PLACES = ("--data", "--model", "--cache")
_HIDDEN = "PATH"


def without_paths(words: Sequence[str]) -> str:
    """The command `u2net3d <words>` with PATH for every path: folders can name people."""
    said, after = ["u2net3d"], ""
    for word in words:
        said.append(_HIDDEN if after in _PLACES else _hidden(word))
        after = word
    return " ".join(said)


def _hidden(word: str) -> str:
    """`heart,liver=/x/y` -> `heart,liver=PATH`; options that name no place stay as they are.

    What follows a path after a comma may belong to it, up to the next `name=`.
    """
    parts: list[str] = []
    in_path = False
    for part in word.split(","):
        name, given, value = part.partition("=")
        is_place = name in _PLACES or not name.startswith("-")
        if given and not _is_path(name) and (is_place or _is_path(value)):
            parts.append(f"{name}={_HIDDEN}")
            in_path = True
        elif _is_path(part) and not in_path:
            parts.append(_HIDDEN)
            in_path = True
        elif not in_path:
            parts.append(part)
    return ",".join(parts)


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.startswith("~")
