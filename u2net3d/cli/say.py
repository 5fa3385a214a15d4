"""One line to a person."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """A plain line on stderr; stdout holds results alone."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
