"""Arrays that may be larger than memory: beyond a limit they lie in a mapped temporary file.

The system keeps such a file in memory that nobody else wants, and writes the rest to disk. The file
has no name and is gone with the process. `TMPDIR` says where it lies.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from u2net3d.errors import DataError, UsageError
from u2net3d.volume import Array

DEFAULT_BYTES = 256 * 2**20  # what an array may take of memory where nothing else is asked for
_UNITS = {"": 1, "M": 2**20, "G": 2**30, "T": 2**40}


class Scratch:
    """An array of zeros, in memory up to limit_bytes, else in a temporary file.

    Raises DataError where there is no room for the file: a smaller volume may have it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic], limit_bytes: int) -> None:
        size = prod(shape) * np.dtype(dtype).itemsize
        self._map = _mapped(size) if size > max(limit_bytes, 0) else None
        self.array: Array = (
            np.zeros(shape, dtype)
            if self._map is None
            else np.frombuffer(self._map, dtype).reshape(shape)
        )

    @property
    def in_file(self) -> bool:
        """Whether the array lies in a file."""
        return self._map is not None

    def hand_back(self) -> None:
        """Lets the system have the memory of what lies in a file; its content stays."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def _mapped(size: int) -> mmap.mmap:
    try:
        with tempfile.TemporaryFile(prefix="u2net3d-") as file:
            if hasattr(os, "posix_fallocate"):  # no room is to be known now, not by a signal later
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        what = f"has no room for {size / 2**20:,.0f} MB of sums ({error.strerror or error})"
        mend = "set TMPDIR to a folder on a larger disk, or give a larger --max-memory"
        raise DataError(tempfile.gettempdir(), what, mend) from error


def bytes_of(size: str | float) -> int:
    """Bytes of `4G`, `800M`, `1.5G`, in units of 1024; a number is bytes. UsageError for others."""
    number, unit = size, ""
    if isinstance(size, str):
        number, unit = size.strip()[:-1], size.strip()[-1:].upper()
    try:
        found = float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        found = 0
    if not 0 < found < 2**60:
        raise UsageError("--max-memory", f"'{size}' is no size", "write it like 800M or 4G")
    return int(found)


@dataclass(frozen=True)
class Room:
    """What arrays may take of memory: max_bytes, of the whole process, shared by `streams` of them.

    None: `DEFAULT_BYTES` for all of them, whatever the process holds.
    """

    max_bytes: int | None = None
    streams: int = 1

    def left(self, reserved_bytes: int = 0) -> int:
        """Bytes for one of them; reserved_bytes: what the process will need beside them."""
        if self.max_bytes is None:
            return DEFAULT_BYTES // self.streams
        return max(0, self.max_bytes - held_bytes() - reserved_bytes) // self.streams


def held_bytes() -> int:
    """Memory that this process holds now; where the system does not tell, 0."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * mmap.PAGESIZE
