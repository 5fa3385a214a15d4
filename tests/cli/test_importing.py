"""`import-reference`, as typed."""

from __future__ import annotations

import json

import pytest
import torch

from u2net3d import store
from u2net3d.cli.app import run
from u2net3d.models import network
from u2net3d.models.network import BankShape
from u2net3d.spec import PRESETS
from u2net3d.store.official import Official, _modules
from u2net3d.store.official_domains import official_domain

NAMES = ("spleen", "prostate")


@pytest.fixture(scope="module")
def trained():
    """A network of two official domains, and its weights by the names of the official code."""
    torch.manual_seed(0)
    model = PRESETS["reference-separable"].model_copy(update={"base_channels": 2})
    net, specs = network(model), [official_domain(name, 6) for name in NAMES]
    for spec in specs:
        net.add_bank(spec.name, BankShape.of(spec))
    ours = net.state_dict()
    like = Official(None, "separable", 2, 6, (), {})
    theirs = {
        f"{there}.{part}": ours[f"{name}.{part}"]
        for name, there in _modules(like, NAMES)
        for part in ("weight", "bias")
    }
    for t in range(2):
        head = theirs[f"out_tr_list.{t}.conv1.weight"]
        theirs[f"out_tr_list.{t}.conv1.weight"] = head[:, :, None, None, None]
    return net.eval(), specs, theirs


@pytest.fixture
def checkpoint(trained, tmp_path):
    path = tmp_path / "state.pth"
    torch.save(trained[2], path)
    return path


def test_a_checkpoint_of_official_domains_needs_their_names_alone(trained, checkpoint, tmp_path):
    net, specs, _ = trained
    folder = tmp_path / "model"
    words = ["import-reference", str(checkpoint), "--domains", "Task09_Spleen,prostate"]
    assert run([*words, "--model", str(folder)]) == 0
    found, _, known = store.load(folder)
    assert known == {spec.name: spec for spec in specs}
    image = torch.randn(1, 2, 32, 32, 64)
    with torch.no_grad():
        assert torch.equal(found(image, "prostate")[0], net(image, "prostate")[0])


def test_an_independent_checkpoint_keeps_the_grid_that_it_learnt_on(tmp_path, capsys):
    model = PRESETS["reference-independent"].model_copy(update={"base_channels": 2, "stages": 4})
    net, spec = network(model), official_domain("hippocampus", 4, independent=True)
    net.add_bank(spec.name, BankShape.of(spec))
    ours, like = net.state_dict(), Official(None, "independent", 2, 4, (), {})
    theirs = {
        f"{there}.{part}": ours[f"{name}.{part}"]
        for name, there in _modules(like, ["hippocampus"])
        for part in ("weight", "bias")
    }
    torch.save(theirs, tmp_path / "state.pth")
    words = ["import-reference", str(tmp_path / "state.pth"), "--domains", "hippocampus"]
    assert run([*words, "--model", str(tmp_path / "model")]) == 0
    assert store.read_specs(tmp_path / "model") == {"hippocampus": spec}
    assert store.read_manifest(tmp_path / "model").model.preset == "reference-independent"
    assert "patches of 40×56×40 voxels of 1×1×1 mm" in capsys.readouterr().err


def test_other_domains_are_described_in_a_file(trained, checkpoint, tmp_path):
    specs = [spec.model_copy(update={"name": f"{spec.name}2"}) for spec in trained[1]]
    plan, folder = tmp_path / "plan.json", tmp_path / "model"
    plan.write_text(json.dumps([spec.model_dump(mode="json") for spec in specs]))
    words = ["import-reference", str(checkpoint), "--plan", str(plan), "--model", str(folder)]
    assert run(words) == 0
    assert store.read_specs(folder) == {spec.name: spec for spec in specs}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "one of --domains and --plan is needed"),
        (["--domains", "spleen,prostate", "--plan", "plan.json"], "one of --domains and --plan"),
        (["--domains", "spleen,kidney"], "'kidney' is no domain of the official code"),
        (["--domains", "spleen,spleen"], "twice"),
        (["--domains", "prostate,spleen"], "prostate has 2 channels"),
        (["--plan", "missing.json"], "cannot be read"),
    ],
)
def test_wrong_domains_are_usage_errors(checkpoint, tmp_path, capsys, options, said):
    folder = tmp_path / "model"
    words = ["import-reference", str(checkpoint), *options, "--model", str(folder)]
    assert run(words) == 2
    assert said in capsys.readouterr().err
    assert not (folder / store.MANIFEST).exists()


def test_a_plan_that_is_none_is_refused_by_its_place(checkpoint, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    plan.write_text('[{"name": "spleen"}]')
    words = ["import-reference", str(checkpoint), "--plan", str(plan), "--model", str(tmp_path)]
    assert run(words) == 2
    assert "0.channels" in capsys.readouterr().err


def test_a_model_that_is_there_is_replaced_only_when_asked(checkpoint, tmp_path, capsys):
    words = ["import-reference", str(checkpoint), "--domains", ",".join(NAMES)]
    words += ["--model", str(tmp_path / "model")]
    assert run(words) == 0
    assert run(words) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert run([*words, "--overwrite"]) == 0
