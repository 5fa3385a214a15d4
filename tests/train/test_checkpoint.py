"""A checkpoint comes back as it was, or is refused in one line."""

from __future__ import annotations

import math
import pickle
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from u2net3d.errors import TrainingError
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
    }
    return Checkpoint(**{**content, **changes})


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path, identical):
    saved = example()
    checkpoint.save(tmp_path, saved)
    loaded = checkpoint.load(tmp_path, "abc")
    assert identical(vars(loaded), vars(saved))
    assert not identical(vars(loaded), vars(example(step=8)))


def test_an_interrupted_save_leaves_the_earlier_one(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, example())
    monkeypatch.setattr("u2net3d.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        checkpoint.save(tmp_path, example(step=8))
    assert checkpoint.load(tmp_path, "abc").step == 7
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]


def test_another_configuration_is_refused(tmp_path):
    checkpoint.save(tmp_path, example())
    with pytest.raises(TrainingError, match="another configuration") as error:
        checkpoint.load(tmp_path, "abd")
    assert "\n" not in str(error.value)


def test_no_checkpoint_is_said(tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint — leave --resume out"):
        checkpoint.load(tmp_path, "abc")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_torn_file_is_refused_in_one_line(tmp_path, share):
    checkpoint.save(tmp_path, example())
    path = tmp_path / checkpoint.FILE
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(TrainingError, match="is no checkpoint of this version") as error:
        checkpoint.load(tmp_path, "abc")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["identity", "best_net"])
def test_a_checkpoint_of_another_version_is_refused(tmp_path, missing):
    content = {f.name: getattr(example(), f.name) for f in fields(Checkpoint) if f.name != missing}
    torch.save(content, tmp_path / checkpoint.FILE)
    with pytest.raises(TrainingError, match="is no checkpoint of this version"):
        checkpoint.load(tmp_path, "abc")


class Code:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_code_in_a_checkpoint_is_not_run(tmp_path, writer):
    run = tmp_path / "run"
    writer({"identity": Code(run)}, tmp_path / checkpoint.FILE)
    with pytest.raises(TrainingError):
        checkpoint.load(tmp_path, "abc")
    assert not run.exists()
