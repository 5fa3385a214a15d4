"""Files that are never half written, and the hashes that name their content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from u2net3d.errors import DiskError, UsageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FAILING = {errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV}
_NOT_FLUSHED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}  # by file systems that know no folders
_OURS = re.compile(r"\.u2net3d-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\..*", re.DOTALL)
_STRANGERS_AGE_S = 86_400.0  # no write takes a day: what another machine left is then nobody's
_CHUNK = 1 << 20


@contextmanager
def replacing(path: Path, verify: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on leaving it is flushed and renamed over `path`.

    An exception inside leaves what stood at `path` untouched and removes the temporary file. The
    temporary name keeps the suffixes, since writers choose a format by them. A link is written
    through, and a file that is replaced keeps its permissions. verify: called with the flushed
    temporary path before the renaming; raises where the file is not what it should be. Raises
    DiskError where there is no room or the disk fails, UsageError for a device or a pipe.
    """
    target = _target(path)
    with _blaming(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(target)
        try:
            yield temporary
            _settle(temporary, target)
            if verify is not None:
                verify(temporary)
            temporary.replace(target)
            _flush_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path` whole or not at all; it is read back from the disk and compared.

    Raises DiskError where there is no room, or where the disk gives other bytes back.
    """
    wanted = hashlib.sha256(content).hexdigest()

    def verify(temporary: Path) -> None:
        if sha256_file(temporary) != wanted:
            what = "what was written is not what is read back"
            raise DiskError(path, what, "the disk may be failing: check it, then repeat")

    with replacing(path, verify) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Writes `content` as UTF-8 to `path` whole or not at all.

    Names in no known encoding are escaped, in the way of JSON.
    """
    write_bytes(path, content.encode(errors="backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON to `path` whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, line: str, *, flush: bool = False) -> None:
    """Adds `line` and a line break at the end of `path`; DiskError, nothing added, without room.

    A kill may leave a last line without its break: readers must leave such a line out. flush: it
    lies on the disk on return, so that it outlives a power cut.
    """
    rest = memoryview(f"{line}\n".encode())
    with _blaming(path), path.open("ab", buffering=0) as handle:
        end = handle.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[handle.write(rest) :]
            if flush:
                os.fsync(handle.fileno())
        except OSError:
            handle.truncate(end)
            raise


def temporary_beside(path: Path) -> Path:
    """A name in the folder of `path` that says which process writes it; `sweep` knows it again."""
    # names may have 255 bytes, letters up to four: the end is kept for its suffixes
    mine = f".u2net3d-{_place()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{mine}.{path.name[-50:]}")


def sweep(*folders: Path) -> list[Path]:
    """Removes what killed processes left half written in `folders`; gives what was removed.

    Of this machine what no living process writes, of others what is older than a day.
    """
    removed = []
    for folder in folders:
        with suppress(OSError):  # it is not there, or may not be read
            for path in list(folder.iterdir()):
                match = _OURS.fullmatch(path.name)
                if match and _is_nobodys(path, match[1], int(match[2])):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                    removed.append(path)
    return removed


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(content: Any) -> str:
    """SHA-256 of the canonical JSON of `content` (sorted keys, no spaces), in hexadecimal."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def require_writable(path: Path, option: str) -> None:
    """Raises UsageError, naming `option`, when no file can be made at `path` or in that folder.

    Asked before long work begins, so that hours are not lost on a read-only disk.
    """
    folder = path if path.is_dir() else path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(option, f"{folder} is a file, not a folder", "name another place")
    probe = temporary_beside(folder / "probe")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            option, f"cannot write in {folder} ({reason})", "name a folder you may write to"
        ) from error


def is_alive(pid: int) -> bool:
    """Whether this machine runs a process of that number, whoever owns it."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turns what a full or failing disk raises into a DiskError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            what, mend = f"no room left on {path.parent}{_free_on(path.parent)}", "make room"
        elif error.errno in _FAILING:
            what, mend = f"cannot be written ({error.strerror})", "check the disk"
        else:
            raise
        raise DiskError(
            path, what, f"what stood there is untouched: {mend}, then repeat"
        ) from error


def _free_on(folder: Path) -> str:
    with suppress(OSError):
        return f" ({shutil.disk_usage(folder).free / 2**20:.1f} MiB free)"
    return ""


def _target(path: Path) -> Path:
    """The file to be written: where a link leads, so that the link stays."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.exists() and not target.is_file():
        raise UsageError(path, "is no regular file", "name another file")
    return target


def _settle(temporary: Path, target: Path) -> None:
    """Brings the temporary file onto the disk, with the permissions of the one it replaces."""
    with temporary.open("rb+") as handle:
        with suppress(OSError):  # there is none yet, or the file system knows no permissions
            os.fchmod(handle.fileno(), stat.S_IMODE(target.stat().st_mode))
        os.fsync(handle.fileno())
        if hasattr(os, "posix_fadvise"):  # so that reading back asks the disk, not the memory
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FLUSHED:
            raise
    finally:
        os.close(descriptor)


def _place() -> str:
    """Names what process numbers belong to: this machine since it was started, this container."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [platform.node()]
    with suppress(OSError):  # where there is no /proc the machine's name must do
        parts += [boot.read_text(), str(space.readlink())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _is_nobodys(path: Path, place: str, pid: int) -> bool:
    if place == _place():
        return not is_alive(pid)
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > _STRANGERS_AGE_S
    return False
