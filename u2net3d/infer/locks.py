"""One run at a time at a case, however many share the folder; a dead run's lock is taken over.

A lock is a small file, made by O_EXCL, so that of all runs, on one machine or on several that share
a disk, one makes it. It says who holds it. Whether that run still lives is known

- on the same machine (same boot, same namespace of processes): by the number of the process and the
  time it was started at, since numbers are given out again;
- elsewhere (another machine or container): by its heartbeat. The holder touches the file every
  HEARTBEAT_S; a file that does not change for LEASE_S, by the clock of who watches it, is nobody's.

No clock is compared with another machine's. A holder that was taken for dead (a machine asleep)
finds it out at `require_held`, before it puts a result in its place.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from types import TracebackType

from u2net3d import files
from u2net3d.errors import DataError, DiskError

HEARTBEAT_S = 15.0
LEASE_S = 180.0  # NFS may show a file's time a minute late


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. boot, namespace, started: None where the system does not tell."""

    token: str
    pid: int
    host: str
    boot: str | None
    namespace: str | None
    started: str | None

    @classmethod
    def of_this_process(cls) -> Holder:
        """This process, with a token of its own."""
        return cls(
            token=secrets.token_hex(8),
            pid=os.getpid(),
            host=platform.node(),
            boot=_boot(),
            namespace=_namespace(),
            started=_started(os.getpid()),
        )

    def is_dead(self) -> bool | None:
        """Whether that process is gone; None where it cannot be known from here."""
        same_machine = (self.boot, self.namespace) == (_boot(), _namespace())
        if not same_machine or (self.boot is None and self.host != platform.node()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # somebody else's, and alive
        return self.started is not None and _started(self.pid) != self.started


class Lock:
    """A lock that this process holds; leaving it as a context removes the file.

    inherited: it was taken over from a run that died.
    """

    def __init__(self, path: Path, content: bytes, *, inherited: bool) -> None:
        self.path, self.inherited = path, inherited
        self._content = content
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Stops the heartbeat and removes the file, if it is still ours."""
        self._released.set()
        self._heart.join()
        if _content_of(self.path) == self._content:
            self.path.unlink(missing_ok=True)

    def require_held(self) -> None:
        """Raises DataError where another run has taken the lock over meanwhile."""
        if _content_of(self.path) != self._content:
            what = "another run took this case over, since this one gave no sign of life"
            raise DataError(self.path, what, "nothing was written here; the other run goes on")

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            with suppress(OSError):  # a server that is away for a while
                if _content_of(self.path) == self._content:
                    os.utime(self.path)


class Watch:
    """Takes locks, and remembers since when those of others have not changed."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[bytes, int, float]] = {}

    def acquire(self, path: Path) -> Lock | None:
        """The lock at `path`, or None while another run that may be alive holds it.

        Raises DiskError where no file can be made there, DataError where a folder stands.
        """
        mine = json.dumps(asdict(Holder.of_this_process())).encode()
        if _create(path, mine):
            return Lock(path, mine, inherited=False)
        theirs = _content_of(path)
        if theirs is None or not self._is_dead(path, theirs):
            return None
        # Of several that see the same dead holder one may replace it: who holds the gate named
        # after that holder, and still finds its lock there.
        gate = self.acquire(path.with_name(f"{path.name}.{_token(theirs)}"))
        if gate is None:
            return None
        with gate:
            if _content_of(path) != theirs:
                return None
            _replace(path, mine)
            for old in path.parent.glob(f"{escape(path.name)}.*"):
                if old != gate.path:  # of who died here: nobody waits at an older holder's gate
                    old.unlink(missing_ok=True)
            return Lock(path, mine, inherited=True)

    def holder(self, path: Path) -> str:
        """Who holds a lock, for people."""
        said = _parsed(_content_of(path) or b"")
        return f"process {said.pid} on {said.host}" if said else "another run"

    def _is_dead(self, path: Path, content: bytes) -> bool:
        said = _parsed(content)
        known = said.is_dead() if said else None
        if known is not None:
            return known
        try:
            touched = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        now = time.monotonic()
        seen, at, since = self._seen.get(path, (content, touched, now))
        if (seen, at) != (content, touched):
            since = now
        self._seen[path] = content, touched, since
        return now - since > LEASE_S


def _create(path: Path, content: bytes) -> bool:
    """Makes the file with this content; False where there is one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        if path.is_dir():
            raise DataError(path, "is a folder", "remove it, or choose another place") from None
        return False
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        os.write(descriptor, content)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritable(path, error) from error
    finally:
        os.close(descriptor)
    return True


def _replace(path: Path, content: bytes) -> None:
    try:
        files.write_bytes(path, content)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> DiskError:
    what = f"cannot be made ({error.strerror or error})"
    return DiskError(path, what, "make room, or choose a place that you may write to")


def _content_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _parsed(content: bytes) -> Holder | None:
    """None for what a kill left empty, or a file of somebody else."""
    try:
        said = Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None
    return said if re.fullmatch(r"[0-9a-f]{16}", str(said.token)) and said.pid > 0 else None


def _token(content: bytes) -> str:
    said = _parsed(content)
    return said.token if said else "unknown"


def _boot() -> str | None:
    return _text("/proc/sys/kernel/random/boot_id")


def _namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since boot; None where it is gone or nobody tells.

    Gone is also one that was killed and that its parent has not yet asked about (a zombie).
    """
    stat = _text(f"/proc/{pid}/stat")
    fields = stat.rpartition(")")[2].split() if stat else []
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
