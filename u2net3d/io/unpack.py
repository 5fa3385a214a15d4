"""Unpacks an archive of a data set: everything in it is looked at before anything is written."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from u2net3d import files
from u2net3d.errors import DataError, DiskError
from u2net3d.io.description import FILE_NAME

MOST_MEMBERS = 100_000  # the largest published data set has under 3,000
_BLOCK = 1 << 20
_MEND = "nothing was unpacked; get the archive from its publisher"


def unpack(archive: Path, target: Path, progress: Callable[[int, int], None]) -> None:
    """Unpacks a tar of one folder, named as `target` is, to `target`; whole or not at all.

    Only plain files and folders inside that folder are taken, none twice; what macOS adds (`._`) is
    left out. progress: called with (bytes written, bytes in all). Raises DataError for an archive
    that is damaged, compressed or holds anything else, and where `target` is there already.
    """
    folder = files.temporary_beside(target)
    try:
        # never one that is compressed: no bombs
        with archive.open("rb") as handle, tarfile.open(fileobj=handle, mode="r:") as tar:
            members = _looked_at(tar, archive, target.name)
            handle.seek(tar.offset)  # where tarfile ended, which takes a torn header for the end
            if handle.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends early")
            _write(tar, members, folder, progress)
        _put(folder / target.name, target, archive)
    except (tarfile.TarError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(archive, f"is no whole tar archive ({reason})", _MEND) from error
    except OSError as error:
        reason = error.strerror or str(error)
        what = f"cannot be unpacked ({reason})"
        raise DiskError(target, what, "make room, or name another place") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _looked_at(tar: tarfile.TarFile, archive: Path, name: str) -> list[tarfile.TarInfo]:
    """The files to write; DataError for the first member that may not be there."""
    limit, total = archive.stat().st_size, 0
    kept: list[tarfile.TarInfo] = []
    seen: set[str] = set()
    for count, member in enumerate(tar, start=1):
        total += max(member.size, 0)
        what = _fault(member, name)
        if count > MOST_MEMBERS:
            what = f"holds more than {MOST_MEMBERS} files"
        elif total > limit:
            what = f"says that it holds {total} bytes, and is {limit} bytes long"
        if what is not None:
            raise DataError(archive, what, _MEND)
        path = PurePosixPath(member.name)
        if not member.isreg() or path.name.startswith("._"):
            continue
        key = str(path).casefold()
        if key in seen:
            raise DataError(archive, f"holds {_shown(member)} twice", _MEND)
        seen.add(key)
        kept.append(member)
    return kept


def _fault(member: tarfile.TarInfo, name: str) -> str | None:
    """Why a member may not be there; None where it may."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or "\\" in member.name or ":" in member.name:
        return f"holds the absolute name {_shown(member)}"
    if ".." in path.parts:
        return f"holds {_shown(member)}, which leads out of its folder"
    if not (member.isreg() or member.isdir()) or member.issparse():
        return f"holds {_shown(member)}, which is a link, a device or a pipe"
    if member.size < 0:
        return f"holds {_shown(member)} of {member.size} bytes"
    if path.parts and path.parts[0] not in (name, f"._{name}"):
        return f"holds {_shown(member)}, which lies outside of {name}"
    return None


def _shown(member: tarfile.TarInfo) -> str:
    """A name that may hold anything, on one line."""
    return ascii(member.name[:80])


def _write(
    tar: tarfile.TarFile,
    members: list[tarfile.TarInfo],
    folder: Path,
    progress: Callable[[int, int], None],
) -> None:
    """Writes the files below `folder`; owners, permissions and times of the archive are dropped."""
    done, total = 0, sum(member.size for member in members)
    for member in members:
        path = folder / PurePosixPath(member.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        source = tar.extractfile(member)
        assert source is not None
        with source, path.open("xb") as handle:
            while block := source.read(_BLOCK):
                done += handle.write(block)
                progress(done, total)
            handle.flush()
            os.fsync(handle.fileno())


def _put(folder: Path, target: Path, archive: Path) -> None:
    if not (folder / FILE_NAME).is_file():
        raise DataError(archive, f"holds no {target.name}/{FILE_NAME}", _MEND)
    if os.path.lexists(target):
        raise DataError(target, "is there already", "nothing was changed")
    folder.rename(target)
