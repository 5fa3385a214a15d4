"""One training at a time in a model folder, and a word about those that ended without one.

<model>/runs/running.json says who trains; the system's lock on it (flock) lives exactly as long as
the process. A file without a lock is that of a run that was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from u2net3d import files
from u2net3d.errors import UsageError
from u2net3d.train.history import History

FILE = "running.json"


class Mark:
    """The sign that a process trains into a model folder."""

    def __init__(self, descriptor: int, run: str) -> None:
        self._descriptor, self._run = descriptor, run
        self.says()

    def says(self, memory_gib: float | None = None) -> None:
        """Writes down who trains what, and how much memory it should need."""
        content = {
            "pid": os.getpid(),
            "host": platform.node(),
            "run": self._run,
            "memory_gib": memory_gib,
        }
        with suppress(OSError):  # a full disk: the lock holds without words
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(content).encode(), 0)


@contextmanager
def running(model: Path, run: str, say: Callable[[str], None]) -> Iterator[Mark]:
    """Holds the folder of a model while its run `run` (its name in runs/) goes on.

    say: hears of a run that ended without a word. Raises UsageError where another one goes on.
    What killed runs left half written in the folder is removed; so is, at the end, a folder made
    for this run into which it wrote nothing.
    """
    path = model / "runs" / FILE
    made = [folder for folder in path.absolute().parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    try:
        earlier = _read(path)
        if earlier is not None:
            say(_last_words(model, earlier))
        runs = [folder for folder in (model / "runs").iterdir() if folder.is_dir()]
        inner = [folder / name for folder in runs for name in ("checkpoints", "cases")]
        files.sweep(model, model / "domains", model / "runs", *runs, *inner)
        yield Mark(descriptor, run)
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)  # gives the lock back
        with suppress(OSError):  # the first one that is not empty
            for folder in made:
                folder.rmdir()


def _locked(path: Path) -> int:
    """A descriptor of `path` that alone holds its lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _taken(path) from None
        except OSError:  # a file system without locks: the number of the process must do
            said = _read(path) or {}
            if said.get("host") == platform.node() and files.is_alive(int(said.get("pid", 0))):
                os.close(descriptor)
                raise _taken(path) from None
        if _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # its last holder removed it just now


def _is_still(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    return False


def _taken(path: Path) -> UsageError:
    said = _read(path) or {}
    who = f"process {said.get('pid', '?')} on {said.get('host', '?')}"
    what = f"{path.parents[1]} is in use: {who} is at runs/{said.get('run', '?')}"
    return UsageError("--model", what, "wait for its end, or name another folder")


def _read(path: Path) -> dict[str, Any] | None:
    """What the file says; {} where it is torn; None where it is new."""
    try:
        text = path.read_text()
        content = json.loads(text)
    except (OSError, ValueError):
        return None if not path.exists() or not path.stat().st_size else {}
    return content if isinstance(content, dict) else {}


def _last_words(model: Path, earlier: dict[str, Any]) -> str:
    run = str(earlier.get("run", "one of this folder"))
    rows = History(model / "runs" / run).rows() if (model / "runs" / run).is_dir() else []
    where = f"at step {rows[-1]['step']}" if rows else "before its first step"
    memory = earlier.get("memory_gib")
    needed = f" (it was to need about {memory:.1f} GiB)" if isinstance(memory, float) else ""
    return f"{run}: the last run ended without a word {where}: killed, or out of memory{needed}"
