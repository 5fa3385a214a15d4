"""Every way an operator can be computed on this machine, one after the other."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from u2net3d.ops import gpu, labels, native, resample, tiles

PROCESSORS = ("portable", "avx2", "avx512")


def runnable() -> dict[str, native.Kernels]:
    """The native kernels of every kind that was built and that this processor has."""
    built = sorted(Path(native.__file__).parent.glob("_kernels*.so"))
    if not built:
        return {}
    library = ctypes.CDLL(str(built[0]))
    here = PROCESSORS[: library.u2_processor() + 1]
    return {name: native.Kernels(library, name) for name in here}


KERNELS = runnable()
# Triton's passes take tensors on the CPU in its interpreter; `test_gpu.py` runs tests that way.
INTERPRETED = ["triton"] if os.environ.get("TRITON_INTERPRET") == "1" else []


@pytest.fixture(params=["torch", *KERNELS, *INTERPRETED])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Computes by pure torch, by the native kernels of one kind of processor, or by Triton's."""
    name: str = request.param
    monkeypatch.setattr(native, "library", lambda: KERNELS.get(name))
    for module in (labels, resample, tiles):
        monkeypatch.setattr(module, "library", lambda: KERNELS.get(name))
    if name != "triton":
        monkeypatch.setattr(gpu, "usable", lambda *_: False)
    return name


@pytest.fixture(params=list(KERNELS) or ["none"])
def native_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The native kernels of one kind of processor."""
    name: str = request.param
    if name not in KERNELS:
        pytest.skip("the native kernels were not built")
    for module in (native, labels, resample, tiles):
        monkeypatch.setattr(module, "library", lambda: KERNELS[name])
    return name


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """threads(n) lets torch and the kernels use n threads, for this test alone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
