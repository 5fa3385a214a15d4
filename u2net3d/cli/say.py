"""One line to a person."""

from __future__ import annotations

import sys

from u2net3d.errors import one_line


def say(text: str) -> None:
    """A plain line on stderr; stdout holds results alone."""
    print(one_line(text), file=sys.stderr, flush=True)  # noqa: T201
