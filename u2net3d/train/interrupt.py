"""Ctrl-C and SIGTERM between two steps, never in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from u2net3d.errors import Stopped

_BEFORE: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
_STOPPING = "stopping when this step is done; once more stops at once"


@contextmanager
def stopping() -> Iterator[None]:
    """Ctrl-C and SIGTERM inside raise Stopped where they come.

    A signal that somebody else handles, or that is ignored, is left alone; so are all of them
    outside the main thread.
    """
    with _handling(_stop):
        yield


@contextmanager
def held_back(tell: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Ctrl-C and SIGTERM inside raise Stopped on leaving, so that no half-made step is ever saved.

    tell: hears of the first signal; the second one raises Stopped at once.
    """
    came: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        if came:
            raise Stopped(number)
        came.append(number)
        tell(_STOPPING)

    with _handling(remember):
        yield
    if came:
        raise Stopped(came[0])


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Puts `handler` in the place of Python's own, or of another of ours, and back on leaving."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number, default in _BEFORE.items():
            now = signal.getsignal(number)
            if now is default or getattr(now, "__module__", None) == __name__:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
