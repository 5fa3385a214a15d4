"""`doctor`: what a machine has, which paths run and why, and whether they are right."""

from __future__ import annotations

import json

import pytest
import torch

from u2net3d.cli import doctor
from u2net3d.models.universal import UniversalNet
from u2net3d.ops import gpu, library, native

NAMES = [
    "python", "machine", "threads", "gpu", "native kernels", "self-check", "triton", "allocator",
    "cache", "engine",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def without_kernels(monkeypatch, tmp_path):
    """Gives the folder in which the kernels are looked for, and holds none."""
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(library, "library", lambda: None)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    return tmp_path


def looked(said):
    """name -> (status, text) of the lines on stdout."""
    lines = [line.split(maxsplit=1) for line in said.out.splitlines()]
    return {rest.split(":")[0]: (status, rest) for status, rest in lines}


def test_every_item_is_one_line_and_a_sound_machine_passes(u2net3d):
    said = u2net3d("doctor")
    items = looked(said)
    assert (said.code, said.errors) == (0, [])
    assert list(items) == NAMES
    assert {status for status, _ in items.values()} <= {"ok", "note"}
    assert items["self-check"][0] == "ok"


def test_the_json_says_the_same(u2net3d):
    content = json.loads(u2net3d("doctor", "--json").out)
    assert content["wrong"] == 0
    assert [item["name"] for item in content["items"]] == NAMES
    assert {frozenset(item) for item in content["items"]} == {frozenset(["name", "status", "said"])}


@pytest.mark.usefixtures("without_kernels")
def test_without_kernels_it_works_and_says_how_to_get_them(u2net3d):
    said = u2net3d("doctor")
    status, line = looked(said)["native kernels"]
    assert (said.code, status) == (0, "note")
    assert "pure-torch" in line
    assert "install a C compiler (gcc)" in line
    assert looked(said)["self-check"][0] == "ok"


def test_kernels_that_are_there_and_cannot_be_loaded_are_wrong(without_kernels, u2net3d):
    (without_kernels / "_kernels.other.so").write_bytes(b"of another machine")
    said = u2net3d("doctor")
    status, line = looked(said)["native kernels"]
    assert (said.code, status) == (1, "wrong")
    assert "_kernels.other.so cannot be used here" in line
    assert said.errors == [
        "error: doctor: something is wrong with: native kernels — "
        "mend what the lines above name, then ask again"
    ]


def test_a_network_that_computes_something_else_is_found_out(monkeypatch, u2net3d):
    right = UniversalNet.forward

    def wrong(self, x, domain):
        outputs = right(self, x, domain)
        return outputs if x.dtype == torch.float64 else [1.01 * output for output in outputs]

    monkeypatch.setattr(UniversalNet, "forward", wrong)
    said = u2net3d("doctor")
    assert said.code == 1
    assert looked(said)["self-check"][0] == "wrong"
    assert "self-check" in said.errors[0]


def test_numbers_that_are_none_do_not_pass(monkeypatch, u2net3d):
    monkeypatch.setattr(doctor, "disagreement", lambda _: float("nan"))
    assert looked(u2net3d("doctor"))["self-check"][0] == "wrong"


def test_a_look_that_fails_is_a_finding(monkeypatch, u2net3d):
    def fails():
        raise OSError("no such thing")

    monkeypatch.setitem(doctor.ITEMS, "gpu", fails)
    said = u2net3d("doctor")
    assert said.code == 1
    assert looked(said)["gpu"] == ("wrong", "gpu: OSError: no such thing")


def test_a_cache_that_cannot_be_written_is_a_note(monkeypatch, tmp_path, u2net3d):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = u2net3d("doctor")
    status, line = looked(said)["cache"]
    assert (said.code, status) == (0, "note")
    assert "give --cache" in line


def test_fewer_or_more_threads_than_cores_are_noted(monkeypatch, u2net3d):
    monkeypatch.setattr(doctor, "_cores", lambda: torch.get_num_threads() + 1)
    assert looked(u2net3d("doctor"))["threads"][0] == "note"
    monkeypatch.setattr(doctor, "_cores", torch.get_num_threads)
    assert looked(u2net3d("doctor"))["threads"][0] == "ok"


@pytest.mark.parametrize(
    ("installed", "why", "status", "said"),
    [
        (False, None, "note", "not installed: the GPU goes the pure-torch way"),
        (True, "finish is off by 1", "note", "does not run: finish is off by 1; the GPU goes"),
        (True, None, "ok", "runs on the GPU: its kernels agree with torch (not tuned"),
    ],
)
def test_triton_runs_on_a_gpu_or_the_line_says_why_not(monkeypatch, installed, why, status, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(doctor, "find_spec", lambda _: installed or None)
    monkeypatch.setattr(gpu, "checked", lambda _: why)
    found, line = doctor._triton()
    assert found == status
    assert said in line


def test_without_a_gpu_triton_is_not_needed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, line = doctor._triton()
    assert status == "ok"
    assert line.endswith("not needed, its kernels are for a CUDA device")
