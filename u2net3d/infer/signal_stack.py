"""Keeps OpenVINO from taking the stack on which signals are handled.

A network that it compiles, or reads back, puts a signal stack of its own in the place of the one
there was, and when it goes puts back that one. Two networks that do not go in the reverse order of
their coming leave the stack of one that is gone: the next signal, a Ctrl-C, is then a segmentation
fault. Networks of several domains and folds come and go in any order.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Stack(ctypes.Structure):
    """stack_t of <signal.h> as Linux has it."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def own_signal_stack() -> Iterator[None]:
    """What happens inside leaves this thread's signal stack as it was; on Linux alone."""
    function = _sigaltstack()
    if function is None:
        yield
        return
    before = _Stack()
    known = function(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            function(ctypes.byref(before), None)


def _sigaltstack() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).sigaltstack
    except (OSError, AttributeError):
        return None
