"""The bytes of a file that nobody vouches for: regular files only, unzipped piece by piece.

Whether a file is gzip is told by its first bytes, never by its name. What is unzipped is handed out
in pieces of the size asked for, so a bomb never fills the memory, and every CRC and length that
gzip keeps is compared before `Stream.at_end` says yes.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from u2net3d.errors import DataError
from u2net3d.io import zipping

AGAIN = "copy, download or export it again"
GZIP = b"\x1f\x8b"

PIECE_BYTES = 1 << 20
READ_BYTES = 1 << 18

# Deflate cannot make more than this of one byte (zlib's technical notes say 1032); some to spare.
MOST_PER_ZIPPED_BYTE = 1040

_ZLIB_OR_GZIP_WINDOW = 47

_KINDS = (
    (stat.S_ISDIR, "is a folder, not a file", "name an image file"),
    (stat.S_ISFIFO, "is a pipe, not a file", "write the image to a file first"),
    (stat.S_ISSOCK, "is a socket, not a file", "name an image file"),
    (stat.S_ISCHR, "is a device, not a file", "name an image file"),
    (stat.S_ISBLK, "is a device, not a file", "name an image file"),
)


def damaged(path: Path, reason: str, mend: str = AGAIN) -> DataError:
    """The one line for a file whose content is not whole, or contradicts itself."""
    return DataError(path, f"cannot be read ({reason})", mend)


def unreadable(path: Path, error: Exception) -> DataError:
    """The one line for a file that a library could not read."""
    if isinstance(error, FileNotFoundError):
        return DataError(path, "does not exist", "check the name")
    if isinstance(error, IsADirectoryError):
        return DataError(path, "is a folder, not a file", "name an image file")
    if isinstance(error, PermissionError):
        return DataError(path, "may not be read", "ask for the right to read it")
    if isinstance(error, MemoryError):
        mend = "crop it, or read it on a machine with more memory"
        return damaged(path, "there is not enough memory for it", mend)
    reason = " ".join(str(error).split())[-200:] or type(error).__name__
    return damaged(path, reason)


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turns what Python, gzip and numpy raise about the content of `path` into a DataError."""
    try:
        yield
    except zipping.ERRORS as error:
        raise damaged(path, zipping.damage(error)) from error
    except (OSError, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise unreadable(path, error) from error


class Stream:
    """The content of an open file from its first byte to its last, unzipped where it is gzip.

    file_bytes: the size of the file; most_bytes: the content holds no more than so many.
    """

    def __init__(self, handle: BinaryIO, zipped: bool) -> None:
        self.zipped = zipped
        self.file_bytes = os.fstat(handle.fileno()).st_size
        self.most_bytes = self.file_bytes * (MOST_PER_ZIPPED_BYTE if zipped else 1)
        self._handle = handle
        self._member = zipping.unzipper()
        self._waiting = b""

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only where the content ends."""
        pieces = []
        while size > 0 and (piece := self._next(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def fill(self, view: memoryview) -> int:
        """Writes the next bytes into `view` (of bytes); how many, fewer only at the end."""
        done = 0
        while done < len(view) and (piece := self._next(len(view) - done)):
            view[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def skip(self, size: int) -> bool:
        """Passes over `size` bytes; whether there were so many."""
        while size > 0 and (piece := self._next(size)):
            size -= len(piece)
        return size == 0

    def at_end(self) -> bool:
        """Whether nothing follows; of gzip then every CRC and length was right."""
        return not self._next(1)

    def _next(self, most: int) -> bytes:
        """At least one byte and at most `most`; none at the end."""
        most = min(most, PIECE_BYTES)
        if not self.zipped:
            return self._handle.read(most)
        while not (self._member.eof and self._no_further_member()):
            data = self._waiting or self._handle.read(READ_BYTES)
            piece: bytes = self._member.decompress(data, most)
            self._waiting = self._member.unconsumed_tail
            if piece:
                return piece
            if not data and not self._member.eof:
                raise EOFError("it ends in the middle of its gzip data")
        return b""

    def _no_further_member(self) -> bool:
        """Begins the next gzip member; True where only zeros, which some tapes add, or nothing."""
        rest = self._member.unused_data
        while not (rest := rest.lstrip(b"\0")):
            rest = self._handle.read(READ_BYTES)
            if not rest:
                return True
        self._member, self._waiting = zipping.unzipper(), rest
        return False


@contextmanager
def opened(path: Path, plain_bytes: int | None = None) -> Iterator[Stream]:
    """The content of the file at `path`, or at the end of its links.

    plain_bytes: a file of exactly so many bytes is not zipped, whatever it begins with (voxels
    alone may look like gzip). Raises DataError for what is no regular file, may not be read, is
    damaged, or changes while it is read.
    """
    require_regular(path)
    with blaming(path), path.open("rb") as handle:
        before = os.fstat(handle.fileno())
        zipped = handle.read(2) == GZIP and before.st_size != plain_bytes
        handle.seek(0)
        yield Stream(handle, zipped)
        after = os.fstat(handle.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            mend = "wait until the program that writes it has finished"
            raise damaged(path, "it changed while it was read", mend)


def require_regular(path: Path) -> None:
    """Raises DataError unless `path` is a file with content: pipes and devices would block us."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    for is_kind, what, mend in _KINDS:
        if is_kind(mode):
            raise DataError(path, what, mend)


def require_memory(path: Path, needed_bytes: int) -> None:
    """Raises DataError where a volume needs more memory than this machine has."""
    there = memory_bytes()
    if needed_bytes > there:
        sizes = f"{needed_bytes / 2**30:.1f} GiB of memory, {there / 2**30:.1f} GiB are there"
        mend = "crop it, or read it on a machine with more memory"
        raise DataError(path, f"its header asks for {sizes}", mend)


def memory_bytes() -> int:
    """The memory of this machine, or of the control group that this process runs in."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            there = min(there, int(Path("/sys/fs/cgroup", limit).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return there


def unpacked_bytes(stream: Stream, most: int) -> int:
    """How many bytes the zlib or gzip data in the rest of `stream` unpack to, to the last byte.

    Counts to `most` + 1 and no further. Raises EOFError where the data end too early, zlib.error
    where a checksum is wrong, ValueError where other bytes follow.
    """
    unpack, count = zlib.decompressobj(_ZLIB_OR_GZIP_WINDOW), 0
    waiting = b""
    while not unpack.eof and count <= most:
        data = waiting or stream.read(READ_BYTES)
        piece = unpack.decompress(data, PIECE_BYTES)
        waiting, count = unpack.unconsumed_tail, count + len(piece)
        if not data and not piece and not unpack.eof:
            raise EOFError("it ends in the middle of its compressed data")
    if unpack.eof and (unpack.unused_data.strip(b"\0") or not stream.at_end()):
        raise ValueError("other bytes follow its compressed data")
    return count
