"""What happened to a model: `ledger.jsonl`, append-only, every line naming the one before it.

A line is written before the change takes effect, and the manifest names the last line that did. So
a kill leaves at worst one line too many, or the beginning of one: the next change cuts an
unfinished line off (it never took effect) and says of a finished one that it was undone. Hashes of
the training data stand in it, no names of cases and no paths.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from u2net3d import files
from u2net3d.errors import ModelError
from u2net3d.spec import Frozen
from u2net3d.store.shipping import require_own

LEDGER = "ledger.jsonl"

# found: the folder as it stood when its ledger began, or no longer led to it;
# undone: the line before was cut off by a kill and did not take effect.
Event = Literal[
    "train",
    "add",
    "update",
    "remove",
    "rename",
    "rollback",
    "export",
    "import",
    "found",
    "undone",
]


class Change(Frozen):
    """What an event did to one domain. SHA-256 of files; None where there was, or is, no file.

    data_sha256: of the cases a bank was trained on; sent_sha256: of the file an export wrote.
    """

    file_sha256: str | None = None
    was: str | None = None
    data_sha256: str | None = None
    sent_sha256: str | None = None


class Line(Frozen):
    """One event. sha256 is of all the rest; previous is that of the line before, None at first."""

    time: str
    event: Event
    domains: dict[str, Change]
    trunk_id: str
    version: str
    previous: str | None = None
    sha256: str = ""

    def hashed(self) -> Line:
        """The same with its own `sha256`."""
        said = self.model_dump(mode="json", exclude={"sha256"}, exclude_none=True)
        return self.model_copy(update={"sha256": files.sha256_json(said)})


@dataclass(frozen=True)
class State:
    """What a model folder holds: its trunk, and the SHA-256 of every listed domain's file."""

    trunk_id: str
    domains: Mapping[str, str]


@dataclass(frozen=True)
class Ledger:
    """The lines of a ledger; torn: the last one was never finished, and is not among them."""

    lines: tuple[Line, ...]
    torn: bool

    def until(self, head: str | None) -> tuple[Line, ...] | None:
        """The lines up to that of the hash `head`; None where there is no such line."""
        places = [n for n, line in enumerate(self.lines, start=1) if line.sha256 == head]
        return self.lines[: places[-1]] if places else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One change at a time: others wait. A killed process leaves no lock behind.

    Where the system or its disk knows no such locks nobody waits. Raises UsageError for the model
    that ships with the package.
    """
    require_own(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def append(folder: Path, event: Event, domains: Mapping[str, Change], trunk_id: str) -> str:
    """Writes one line to the disk; its hash. Called by one process at a time (`locked`)."""
    from u2net3d import __version__

    path = folder / LEDGER
    content = path.read_bytes() if path.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    line = Line(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        event=event,
        domains=dict(domains),
        trunk_id=trunk_id,
        version=__version__,
        previous=_last_hash(whole),
    ).hashed()
    if len(whole) < len(content):  # an unfinished line of a killed process
        os.truncate(path, len(whole))
    text = json.dumps(line.model_dump(mode="json", exclude_none=True))
    files.append_line(path, text, flush=True)  # before the manifest that names it
    return line.sha256


def read(folder: Path) -> Ledger | None:
    """The ledger of a model folder; None where there is none.

    Raises ModelError that names the first line which was changed, or does not follow the one
    before it.
    """
    path = folder / LEDGER
    if not path.is_file():
        return None
    *whole, rest = path.read_bytes().split(b"\n")
    lines: list[Line] = []
    for number, text in enumerate(whole, start=1):
        try:
            line = Line.model_validate_json(text)
        except ValueError as error:
            raise _broken(path, f"line {number} is no line of a ledger") from error
        if line.hashed() != line:
            raise _broken(path, f"line {number} was changed")
        lines.append(line)
    _require_chain(path, lines)
    return Ledger(tuple(lines), torn=bool(rest))


def state(lines: Sequence[Line]) -> State:
    """What the folder held after the last of `lines`."""
    domains: dict[str, str] = {}
    for line in lines:
        if line.event in ("train", "found"):
            domains = {}
        if line.event == "export":
            continue
        for name, change in line.domains.items():
            domains.pop(name, None)
            if change.file_sha256 is not None:
                domains[name] = change.file_sha256
    return State(lines[-1].trunk_id if lines else "", domains)


def check(folder: Path, head: str | None, now: State) -> tuple[list[str], list[str]]:
    """Faults and remarks: does the ledger lead to what the manifest lists (`head`, `now`)?"""
    try:
        ledger = read(folder)
    except ModelError as error:
        return [f"{LEDGER}: {error.what}"], []
    if ledger is None:
        if head is None:
            return [], ["there is no ledger: this model is older than ledgers are"]
        return [f"{LEDGER}: missing"], []
    known = ledger.until(head)
    fault = _disagreement(known, now)
    if known is None or fault:
        return [f"{LEDGER}: {fault}"], []
    return [], _remarks(ledger, len(known))


def _disagreement(known: Sequence[Line] | None, now: State) -> str | None:
    if known is None:
        return "the line that the manifest names as the last is gone"
    then = state(known)
    if then.trunk_id != now.trunk_id:
        return f"its trunk is {then.trunk_id[:12]}, the manifest's {now.trunk_id[:12]}"
    names = sorted({*then.domains, *now.domains})
    other = [name for name in names if then.domains.get(name) != now.domains.get(name)]
    return f"leads to other files than the manifest lists ({', '.join(other)})" if other else None


def _remarks(ledger: Ledger, known: int) -> list[str]:
    remarks = [
        f"{LEDGER}: line {number} took the folder as it was found"
        for number, line in enumerate(ledger.lines, start=1)
        if line.event == "found" and number > 1
    ]
    for number, line in enumerate(ledger.lines[known:], start=known + 1):
        what = f"line {number} ({line.event} of {', '.join(line.domains)})"
        remarks.append(f"{LEDGER}: {what} was cut off and did not take effect")
    if ledger.torn:
        remarks.append(f"{LEDGER}: its last line was cut off; the next change takes it away")
    return remarks


def _require_chain(path: Path, lines: Sequence[Line]) -> None:
    hashes = [None, *(line.sha256 for line in lines)]
    for number, line in enumerate(lines, start=1):
        if line.previous == hashes[number - 1]:
            continue
        if line.previous in hashes:
            raise _broken(path, f"line {number} stands in the wrong place")
        raise _broken(path, f"line {number} does not follow: one or more before it are gone")


def _last_hash(content: bytes) -> str | None:
    """The hash of the last line of `content`, which ends with a whole one; None of nothing."""
    if not content:
        return None
    last = content.split(b"\n")[-2]
    try:
        return Line.model_validate_json(last).sha256
    except ValueError:  # `read` will name it
        return None


def _broken(path: Path, what: str) -> ModelError:
    return ModelError(path, what, "restore it from a copy; `u2net3d verify` checks it")
