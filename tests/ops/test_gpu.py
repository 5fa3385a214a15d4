"""The Triton passes without a GPU: interpreted, compiled, chosen, and where triton is absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from u2net3d.ops import gpu, layers, native, plain
from u2net3d.ops.pending import Features

HERE = Path(__file__).parent
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    forget = gpu.checked.cache_clear  # of the function itself, which a test may replace
    forget()
    yield
    forget()


def run_tests(*arguments: str, **environment: str) -> None:
    """Runs tests in a process of their own: triton reads the environment at its import."""
    pytest.importorskip("triton", reason="triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, env={**os.environ, **environment}, cwd=HERE, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_passes_keep_their_promises_under_the_interpreter():
    run_tests("test_triton.py", TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


def test_the_operators_keep_theirs_by_those_passes():
    run_tests("test_layers.py", "-k", "triton", TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


def test_the_kernels_pass_the_compiler(tmp_path):
    run_tests("compiled.py", TRITON_CACHE_DIR=str(tmp_path))


def test_a_cpu_goes_by_other_ways():
    assert gpu.checked(CPU) == "triton's kernels are for cuda, not for cpu"
    assert not gpu.usable(torch.zeros(1, 2, 3, 4, 5))


def test_without_triton_the_reason_says_so(monkeypatch):
    for name in [n for n in sys.modules if n.startswith("u2net3d.ops.triton")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert gpu.checked(CUDA).startswith("triton cannot be imported: ")


def test_a_kernel_that_fails_leaves_the_device_to_torch(monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    from u2net3d.ops import gpu_check

    def fails(*_):
        raise RuntimeError("no code for this device")

    monkeypatch.setattr(gpu_check, "first_difference", fails)
    assert gpu.checked(CUDA).endswith("RuntimeError: no code for this device")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32])
def test_types_that_the_kernels_do_not_take_go_through_torch(monkeypatch, dtype):
    monkeypatch.setattr(gpu, "checked", lambda *_: None)
    assert gpu.usable(torch.ones(1), torch.ones(1).bfloat16())
    assert not gpu.usable(torch.ones(1), torch.ones(1).to(dtype))
    assert not gpu.usable(torch.ones(1), torch.ones(0))


@pytest.mark.parametrize(
    ("by_native", "by_triton", "want"),
    [(True, True, native), (False, True, gpu), (False, False, plain)],
)
def test_native_kernels_come_first_then_tritons_then_torch(monkeypatch, by_native, by_triton, want):
    monkeypatch.setattr(native, "usable", lambda *_: by_native)
    monkeypatch.setattr(gpu, "usable", lambda *_: by_triton)
    one = torch.ones(1, 1, 1, 1, 1)
    asked = []
    for passes in (native, gpu, plain):
        monkeypatch.setattr(
            passes, "sum_forward", lambda *_, of=passes: asked.append(of) or one.clone()
        )
    layers.summed([Features(one, None)], 0.1)
    assert asked == [want]


def test_a_sample_that_32_bits_cannot_count_is_refused():
    rows = torch.empty(1, device="meta").expand(1, 2**10, 2**10, 2**10, 2)
    with pytest.raises(ValueError, match="2147483648 values in one sample"):
        gpu.Blocks(rows)
