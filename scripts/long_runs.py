"""How a script of many runs ends, and how the process of one of them does: exit codes, signals."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from u2net3d.errors import U2Net3dError


def exit_code(work: Callable[[], int]) -> int:
    """Of `work`, which says how many runs failed: 0, 3 where some did, 130 where it was stopped.

    An error of the user's is said in its one line and has its own exit code.
    """
    before = signal.signal(signal.SIGTERM, _stopped)
    try:
        return 3 if work() else 0
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except U2Net3dError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        signal.signal(signal.SIGTERM, before)


def as_worker(threads: int | None, name: str, work: Callable[[], object]) -> None:
    """Does one run on so many threads; what ends it early is said in a line, under its name."""
    import torch

    torch.set_num_threads(threads or torch.get_num_threads())
    try:
        work()
    except U2Net3dError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        sys.exit(130)


def _stopped(*_: object) -> None:
    raise KeyboardInterrupt
