"""Freed memory: kept in the process, so that it is not paged in anew, or handed back."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_KEEP_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Raises glibc's mmap and trim thresholds; True when the C library took them.

    By default glibc hands every block above 32 MiB back to the kernel, which zeroes it again at
    the next allocation, which can cost more than the arithmetic.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, e.g. musl
        return False
    taken = [mallopt(name, _KEEP_BYTES) for name in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)]
    return all(taken)


def hand_back_freed_memory() -> bool:
    """Gives the system what was freed and kept; True when there was any.

    For a point where much was freed and what follows needs less, or something else.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    return bool(trim(0))
