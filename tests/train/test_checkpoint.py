"""A checkpoint comes back as it was; a damaged one is passed over, or refused in one line."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import pickle
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from u2net3d.errors import DiskError, TrainingError
from u2net3d.train import checkpoint
from u2net3d.train.checkpoint import Checkpoint


def example(**changes):
    weight = torch.nn.Parameter(torch.tensor([1.0, -0.0, math.pi]))
    optimiser = torch.optim.AdamW([weight], 1e-3)
    weight.sum().backward()
    optimiser.step()
    content = {
        "identity": "abc",
        "step": 7,
        "elapsed_s": 1.5,
        "validated_at_s": 1.25,
        "validation_s": 0.25,
        "validations": 2,
        "net": {"weight": weight.detach()},
        "optimiser": optimiser.state_dict(),
        "best_net": {"weight": torch.zeros(3)},
        "best_step": 5,
        "best_scores": {"liver": [[0.5, float("nan")], [0.25, 1.0]]},
        "guard": {"scale": 0.5, "good": {"weight": torch.ones(3)}, "pending": None},
    }
    return Checkpoint(**{**content, **changes})


def wrapped(body, **said):
    """A file that is whole by its hash, whatever is in it."""
    digest = hashlib.sha256(body).hexdigest()
    head = {"format": checkpoint.FORMAT, "version": checkpoint.VERSION, "sha256": digest, **said}
    return json.dumps(head).encode() + b"\n" + body


def put(folder, content, step=7):
    path = folder / checkpoint.FOLDER / f"{step:08d}.checkpoint"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def steps(folder):
    return [checkpoint.step_of(path) for path in checkpoint.generations(folder)]


def refused(folder, identity="abc"):
    with pytest.raises(TrainingError) as error:
        checkpoint.load(folder, identity)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path, identical):
    saved = example()
    checkpoint.save(tmp_path, saved)
    loaded = checkpoint.load(tmp_path, "abc")
    assert identical(vars(loaded), vars(saved))
    assert not identical(vars(loaded), vars(example(step=8)))


def test_the_newest_three_are_kept_whatever_the_number_of_digits(tmp_path):
    for step in (1, 2, 9, 10, 100_000_000):
        checkpoint.save(tmp_path, example(step=step))
    assert steps(tmp_path) == [100_000_000, 10, 9]
    checkpoint.save(tmp_path, example(step=100_000_000))  # as after a stop between two steps
    assert steps(tmp_path) == [100_000_000, 10, 9]


@pytest.mark.parametrize("failing", [errno.ENOSPC, errno.EIO])
def test_a_failed_save_leaves_every_earlier_one(tmp_path, monkeypatch, failing):
    for step in (5, 6, 7):
        checkpoint.save(tmp_path, example(step=step))

    def refuse(_descriptor):
        raise OSError(failing, "as the system says it")

    monkeypatch.setattr("u2net3d.files.os.fsync", refuse)
    with pytest.raises(DiskError):
        checkpoint.save(tmp_path, example(step=8))
    assert checkpoint.load(tmp_path, "abc").step == 7
    assert len(list((tmp_path / checkpoint.FOLDER).iterdir())) == 3


def test_another_configuration_is_refused(tmp_path):
    checkpoint.save(tmp_path, example())
    assert "another configuration" in refused(tmp_path, "abd")


def test_no_checkpoint_is_said(tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint — leave --resume out"):
        checkpoint.load(tmp_path, "abc")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_torn_file_is_refused_in_one_line(tmp_path, share):
    path = checkpoint.save(tmp_path, example())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    said = refused(tmp_path)
    assert said.startswith(f"{path}: is ")
    assert "torn" in said or "damaged" in said


def test_not_one_flipped_bit_is_read(tmp_path):
    path = checkpoint.save(tmp_path, example())
    content = path.read_bytes()
    for at in [*range(0, 200, 7), *range(200, len(content), 997), len(content) - 1]:
        spoilt = bytearray(content)
        spoilt[at] ^= 0x10
        path.write_bytes(spoilt)
        refused(tmp_path)


def test_the_newest_whole_one_is_taken_and_the_others_are_named(tmp_path):
    for step in (5, 6, 7):
        last = checkpoint.save(tmp_path, example(step=step))
    last.write_bytes(last.read_bytes()[:-1])
    put(tmp_path, b"", 6)
    heard = []
    assert checkpoint.load(tmp_path, "abc", heard.append).step == 5
    assert [line.split(": ")[0][-19:] for line in heard] == [
        "00000007.checkpoint",
        "00000006.checkpoint",
    ]
    assert all(line.endswith("; going on from step 5 instead") for line in heard)
    assert steps(tmp_path) == [7, 6, 5]  # nothing is removed by looking


def test_what_was_passed_over_is_gone_after_the_next_save(tmp_path):
    checkpoint.save(tmp_path, example(step=5))
    put(tmp_path, b"torn", 9)
    checkpoint.save(tmp_path, example(step=6))
    assert steps(tmp_path) == [6, 5]


def test_where_none_is_whole_the_newest_is_named(tmp_path):
    for step in (5, 6):
        put(tmp_path, b"torn", step)
    said = refused(tmp_path)
    assert "00000006.checkpoint: is no checkpoint of u2net3d, or is torn" in said
    assert "nor is one of the 1 before it whole" in said
    assert "--overwrite" in said


def test_an_unknown_version_or_format_is_named(tmp_path):
    put(tmp_path, wrapped(b"", version=9))
    assert "is u2net3d-checkpoint of version 9, not" in refused(tmp_path)
    put(tmp_path, wrapped(b"", format="other"))
    assert "is other of version 1, not u2net3d-checkpoint" in refused(tmp_path)


@pytest.mark.parametrize("missing", ["identity", "best_net", "guard"])
def test_another_content_is_refused(tmp_path, missing):
    content = {f.name: getattr(example(), f.name) for f in fields(Checkpoint) if f.name != missing}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    put(tmp_path, wrapped(buffer.getvalue()))
    assert "holds something else" in refused(tmp_path)


class Code:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def by_torch(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("writer", [by_torch, pickle.dumps])
@pytest.mark.parametrize("wrapping", [wrapped, lambda body: body])
def test_code_in_a_checkpoint_is_not_run(tmp_path, writer, wrapping):
    run = tmp_path / "run"
    put(tmp_path, wrapping(writer({"identity": Code(run)})))
    refused(tmp_path)
    assert not run.exists()
