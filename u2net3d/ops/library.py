"""The native CPU kernels: loaded by ctypes when they were built at install, else absent.

Plain C (`csrc/`), compiled for AVX-512, AVX2 and any processor, never compiled at run time.
No torch here: what brings images to a grid, joins tiles and writes labels does without it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any

_PROCESSORS = ("portable", "avx2", "avx512")


class Kernels:
    """The C functions for one kind of processor."""

    def __init__(self, library: ctypes.CDLL, processor: str) -> None:
        self.processor = processor
        p, n, f = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float

        def function(name: str, *arguments: Any, result: Any = ctypes.c_int) -> Any:
            found = library[f"u2_{name}_{processor}"]
            found.argtypes, found.restype = arguments, result
            return found

        self.depthwise_forward = function("depthwise_forward", p, p, f, p, f, p, p, n)
        self.depthwise_backward = function("depthwise_backward", p, p, f, p, p, p, n)
        self.pointwise_forward = function("pointwise_forward", p, p, f, p, f, p, p, n)
        self.pointwise_backward = function("pointwise_backward", p, p, f, p, p, p, p, n)
        self.stem_forward = function("stem_forward", p, p, p, p, f, p, p, n)
        self.stem_backward = function("stem_backward", p, p, p, p, n)
        self.sum_forward = function("sum_forward", p, p, p, p, n)
        self.sum_backward = function("sum_backward", p, p, p, p, p, n)
        self.finish = function("finish", p, p, p, n, result=None)
        self.largest = function("largest", p, p, p, n, result=None)
        self.add_tile = function("add_tile", p, p, p, p, n, result=None)
        self.labels_between = function("labels_between", p, p, p, p, p, f, p, n)
        self.resample = function("resample", p, p, p, p, p, p, n)
        self.range = function("range", p, p, p, n, result=None)


@functools.cache
def library() -> Kernels | None:
    """The native kernels, or None where the package was installed without a C compiler."""
    for path in sorted(Path(__file__).parent.glob("_kernels*.so")):
        try:
            found = ctypes.CDLL(str(path))
            best = found.u2_processor()
            return Kernels(found, _PROCESSORS[best])
        except (OSError, AttributeError):  # built for another machine, or by another version
            continue
    return None


def threads() -> int:
    """How many threads may compute: torch's number where it is loaded, else the processors.

    OMP_NUM_THREADS and the processors that this process may use are kept to, as torch does.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
