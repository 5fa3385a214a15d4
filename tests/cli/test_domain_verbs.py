"""The verbs of a domain's life, as typed: what they change, what they say, what they refuse."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from u2net3d import store
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import DomainSpec, ModelSpec, Plan, ZScoreNormalisation

BOOKS = {"manifest.json", "ledger.jsonl"}


@pytest.fixture
def model(tmp_path):
    """A model of liver and heart, weights drawn at random."""
    plan = Plan(
        spacing_mm=(1, 1, 1),
        normalisation=(ZScoreNormalisation(),),
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
    )
    labels = ("background", "organ")
    specs = {
        name: DomainSpec(name=name, channels=("CT",), labels=labels, plan=plan)
        for name in ("liver", "heart")
    }
    torch.manual_seed(0)
    net = UniversalNet(base_channels=2, stages=2)
    for name, spec in specs.items():
        net.add_bank(name, BankShape.of(spec))
    spec = ModelSpec(base_channels=2, stages=2)
    store.save_model(tmp_path / "model", net, spec, specs, {})
    return tmp_path / "model"


@pytest.fixture
def does(u2net3d, model):
    """does("remove-domain", "liver"): the places whose bytes the verb changed; it says no error."""

    def bytes_of():
        paths = [path for path in model.rglob("*") if path.is_file()]
        return {path.relative_to(model).as_posix(): path.read_bytes() for path in paths}

    def run(*arguments):
        before = bytes_of()
        said = u2net3d(*arguments, "--model", model)
        assert (said.code, said.out, said.errors) == (0, "", [])
        assert u2net3d("verify", "--model", model).code == 0
        after = bytes_of()
        return {name for name in {*before, *after} if before.get(name) != after.get(name)}

    return run


def domains_of(model):
    return set(store.read_domains(model))


def test_a_domain_lives_through_every_verb_and_no_other_file_changes(does, model, tmp_path):
    liver, kept = "domains/liver.safetensors", None
    (kept,) = does("remove-domain", "Liver") - {liver, *BOOKS}
    assert kept.startswith("previous/liver-")
    assert domains_of(model) == {"heart"}
    assert does("rollback", "liver") == {liver, *BOOKS}
    assert does("rename-domain", "liver", "Left-Lobe") == {
        *(liver, "domains/leftlobe.safetensors", *BOOKS)
    }
    sent = tmp_path / "mail"
    sent.mkdir()
    assert does("export-domain", "leftlobe", "-o", sent) == BOOKS
    file = sent / "leftlobe.safetensors"
    assert file.read_bytes() == (model / "domains/leftlobe.safetensors").read_bytes()
    assert does("import-domain", file, "--as", "copy") == {"domains/copy.safetensors", *BOOKS}
    assert domains_of(model) == {"heart", "leftlobe", "copy"}
    lines = (model / "ledger.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["train", "remove", "rollback", "rename", "export", "import"]


def test_half_precision_says_its_parity_on_an_image(does, u2net3d, model, tmp_path):
    image = tmp_path / "scan.nii.gz"
    array = np.random.default_rng(0).normal(size=(10, 10, 10)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), image)
    whole, half, bare = (tmp_path / f"{name}.safetensors" for name in ("whole", "half", "bare"))
    assert does("export-domain", "liver", "-o", whole) == BOOKS
    said = u2net3d("export-domain", "liver", "-o", half, "--half", "-i", image, "--model", model)
    assert said.code == 0
    assert "weights rounded by at most" in said.err
    assert "of the voxels have the same label" in said.err
    said = u2net3d("export-domain", "liver", "-o", bare, "--half", "--model", model)
    assert "was not measured: give an image with -i" in said.err
    assert half.stat().st_size < whole.stat().st_size
    does("import-domain", half, "--as", "rounded")
    card = store.read_domains(model)["rounded"].said.card["half_precision"]
    assert 0.9 < card["equal_labels"] <= 1
    assert card["dice"].keys() == {"organ"}


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("remove-domain", "livre"), 2, ("did you mean liver?",)),
        (("rename-domain", "liver", "heart"), 2, ("'heart' is in",)),
        (("rename-domain", "liver", "all"), 2, ("reserved",)),
        (("rollback", "liver"), 2, ("no earlier version",)),
        (("rollback", "liver", "--to", "abc"), 2, ("no earlier version abc",)),
        (("export-domain", "spleen", "-o", "x.safetensors"), 2, ("'spleen'",)),
        (("export-domain", "liver", "-o", "x.safetensors", "-i", "a.nii"), 2, ("--half",)),
        (("import-domain", "nowhere.safetensors"), 2, ("is no file",)),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(u2net3d, model, words, code, parts):
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    said = u2net3d(*words, "--model", model)
    assert (said.code, said.out, len(said.errors)) == (code, "", 1)
    assert all(part in said.errors[0] for part in parts)
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "words",
    [
        *(("remove-domain", "liver"), ("rename-domain", "a", "b"), ("rollback", "liver")),
        ("export-domain", "liver", "-o", "x.safetensors"),
    ],
)
def test_no_model_is_one_line_and_no_folder_is_made(u2net3d, tmp_path, words):
    said = u2net3d(*words, "--model", tmp_path / "nowhere")
    assert (said.code, len(said.errors)) == (1, 1)
    assert "u2net3d train" in said.errors[0]
    assert not (tmp_path / "nowhere").exists()


def test_verify_says_what_is_no_fault_and_names_what_is(u2net3d, model):
    path = model / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"time"')
    said = u2net3d("verify", "--model", model)
    assert said.code == 0
    assert "its last line was cut off" in said.err
    path.write_bytes(whole.replace(b'"train"', b'"found"'))
    said = u2net3d("verify", "--model", model)
    assert said.code == 1
    assert "ledger.jsonl: line 1 was changed" in said.err


def test_an_update_replaces_the_bank_and_rolls_back(copied, u2net3d, tmp_path):
    liver = copied.model / "domains/liver.safetensors"
    before = liver.read_bytes()
    others = {
        path: path.read_bytes() for path in copied.model.rglob("*.safetensors") if path != liver
    }
    places = ("--data", copied.data, "--model", copied.model, "--cache", copied.cache)
    said = u2net3d("update-domain", "liver", "--steps", 2, "--force", *places)
    assert (said.code, said.out, said.errors) == (0, "", [])
    assert "of the old one" in said.err
    assert "`u2net3d rollback liver`" in said.err
    assert liver.read_bytes() != before
    assert u2net3d("rollback", "liver", "--model", copied.model).code == 0
    assert liver.read_bytes() == before
    assert all(path.read_bytes() == content for path, content in others.items())
    assert u2net3d("verify", "--model", copied.model).code == 0
    said = u2net3d("update-domain", "pancreas", *places)
    assert said.code == 2
    shutil.rmtree(tmp_path / "model")


def test_a_training_taken_up_again_never_takes_the_place_of_an_updated_bank(copied, u2net3d):
    places = ("--data", copied.data, "--model", copied.model, "--cache", copied.cache)
    update = ("update-domain", "liver", "--steps", 1, "--force", *places)
    assert u2net3d(*update).code == 0
    before = (copied.model / "domains/liver.safetensors").read_bytes()
    train = ("train", "--domains", "liver,prostate", "--steps", 4, "--resume", *places)
    said = u2net3d(*train)
    assert said.code == 2
    assert "liver stands on the trunk" in said.errors[0]
    assert (copied.model / "domains/liver.safetensors").read_bytes() == before
    assert u2net3d("rollback", "liver", "--model", copied.model).code == 0
    assert u2net3d(*train).code == 0
