"""Keeps freed memory in the process, so that large tensors are not paged in again each time."""

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
