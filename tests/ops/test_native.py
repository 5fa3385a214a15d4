"""Loading the kernels, and doing without them."""

from __future__ import annotations

import pytest
import torch

from u2net3d.ops import library, native
from u2net3d.ops.memory import keep_freed_memory
from u2net3d.ops.pending import Features


def test_without_a_library_nothing_is_usable(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    x = torch.zeros(1, 5, 2, 2, 2)
    assert not native.usable(x)
    with pytest.raises(RuntimeError, match="not built"):
        native.sum_forward([Features(x, None)], 0.01)


def test_a_library_of_another_machine_is_passed_over(monkeypatch, tmp_path):
    (tmp_path / "_kernels.other.so").write_bytes(b"not a library")
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    assert library.library.__wrapped__() is None


def test_keeping_freed_memory_only_says_whether_it_could():
    assert keep_freed_memory() in (True, False)
