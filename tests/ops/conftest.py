"""Every way an operator can be computed on this machine, one after the other."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from u2net3d.ops import native

PROCESSORS = ("portable", "avx2", "avx512")


def kernels_of(processor: str) -> native.Kernels:
    """The native kernels for `processor`; skips where they were not built or cannot run."""
    built = sorted(Path(native.__file__).parent.glob("_kernels*.so"))
    if not built:
        pytest.skip("the native kernels were not built")
    library = ctypes.CDLL(str(built[0]))
    if PROCESSORS.index(processor) > library.u2_processor():
        pytest.skip(f"this processor has no {processor}")
    return native.Kernels(library, processor)


@pytest.fixture(params=["torch", *PROCESSORS])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Computes by pure torch, or by the native kernels of one kind of processor."""
    name: str = request.param
    kernels = None if name == "torch" else kernels_of(name)
    monkeypatch.setattr(native, "library", lambda: kernels)
    return name


@pytest.fixture(params=PROCESSORS)
def native_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The native kernels of one kind of processor."""
    name: str = request.param
    kernels = kernels_of(name)
    monkeypatch.setattr(native, "library", lambda: kernels)
    return name


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """threads(n) lets torch and the kernels use n threads, for this test alone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
