"""A count with the time left, on stderr: live on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from u2net3d.cli.say import say

LINE_EVERY_S = 30.0
_LIVE_EVERY_S = 0.1


def countdown(what: str, count: Callable[[int], str] = str) -> Callable[[int, int], None]:
    """A function of (done, total) that shows `what done of total, m:ss left`.

    count: writes a number (of cases, of bytes). On a terminal the line is rewritten and ends with
    the last call; elsewhere there is a line every half minute, none for what is quick.
    """
    said = time.perf_counter()
    first: tuple[float, int] | None = None  # not 0: a download may begin in the middle

    def show(done: int, total: int) -> None:
        nonlocal said, first
        now = time.perf_counter()
        first = first or (now, done)
        live = sys.stderr.isatty()
        if now - said < (_LIVE_EVERY_S if live else LINE_EVERY_S) and not (live and done == total):
            return
        said = now
        rate = (done - first[1]) / (now - first[0]) if now > first[0] else 0.0
        left = f", {clock((total - done) / rate)} left" if rate and done < total else ""
        line = f"{what} {count(done)} of {count(total)}{left}"
        if live:
            end = "\n" if done == total else ""
            print(f"\r\x1b[K{line}", file=sys.stderr, end=end, flush=True)  # noqa: T201
        else:
            say(line)

    return show


def clock(seconds: float) -> str:
    """`3:07` or `1:02:45`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """Bytes for a person: `437 kB`, `1.2 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
