"""How a script of many runs ends, and how the process of one of them does: exit codes, signals."""

from __future__ import annotations

import fcntl
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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


class Busy(Exception):
    """Another process is at it."""


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[None]:
    """This process alone holds `path` while the context lasts; Busy where another one does.

    wait: until it no longer does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Busy from error
        yield


def as_worker(folder: Path, threads: int | None, name: str, work: Callable[[], object]) -> None:
    """Does the run of a folder on so many threads; what ends it early is said in a line, under its
    name. A worker whose parent was killed may still be at it: then this one is refused.
    """
    import torch

    torch.set_num_threads(threads or torch.get_num_threads())
    try:
        with claimed(folder / "lock"):
            work()
    except Busy:
        sys.exit(f"error: {name}: another process is at this run — wait for it, or end it")
    except U2Net3dError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        sys.exit(130)


def _stopped(*_: object) -> None:
    raise KeyboardInterrupt
