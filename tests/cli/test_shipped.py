"""Right after install: the model that ships answers where there is no other, and is where a
newcomer's own domain begins. It is drawn here; what the package really brings has its own test.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import u2net3d as door
from u2net3d import files, store
from u2net3d.store import shipping

LIVER = "Task03_Liver"
COPIED = "begun as a copy of the model that ships"
USED = "the model that ships with u2net3d is used"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that the commands are typed in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def ships(trained, tmp_path, here, monkeypatch):
    """The trained model, rounded, as the one that ships."""
    net, model, specs = store.load(trained.model)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(weight.half())
    place = tmp_path / "package" / "weights"
    store.save_model(place, net, model, specs, {}, half=True)
    (place / "NOTICE").write_text("licences\n")
    monkeypatch.setattr(shipping, "SHIPPED", place)
    return place


def bytes_of(folder):
    return {path: files.sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def told(said):
    """The lines of stderr that speak of the model that ships."""
    return [line for line in said.err.splitlines() if "ships" in line]


def test_predict_answers_by_it_and_says_so_in_one_line(ships, here, trained, u2net3d):
    image, _ = trained.case(LIVER, "liver_000")
    before = bytes_of(ships)
    predict = ("predict", "-i", image, "--domain", "liver", "--device", "cpu")
    said = u2net3d(*predict, "-o", "label.nii.gz")
    assert (said.code, said.out, said.errors) == (0, "", [])
    assert len(told(said)) == 1
    assert USED in told(said)[0]
    named = u2net3d(*predict, "-o", "named.nii.gz", "--model", ships)
    assert told(named) == []
    assert (here / "label.nii.gz").read_bytes() == (here / "named.nii.gz").read_bytes()
    assert bytes_of(ships) == before
    assert not (here / "model").exists()


def test_a_model_that_exists_wins(ships, here, trained, u2net3d):
    shutil.copytree(trained.model, here / "model")
    said = u2net3d("domains", "--json")
    assert told(said) == []
    trunk = store.read_manifest(trained.model).trunk_id
    assert json.loads(said.out)["trunk"]["id"] == trunk != store.read_manifest(ships).trunk_id
    shutil.rmtree(here / "model")
    (here / "model").mkdir()
    said = u2net3d("domains")
    assert said.code == 1
    assert said.errors[0].startswith("error: model: holds no model")


def test_what_only_the_model_that_ships_knows_is_said_with_its_place(ships, here, trained, u2net3d):
    shutil.copytree(trained.model, here / "model")
    assert u2net3d("remove-domain", "liver").code == 0
    image, _ = trained.case(LIVER, "liver_000")
    predict = ("predict", "-i", image, "-o", "label.nii.gz", "--device", "cpu", "--domain", "liver")
    (line,) = u2net3d(*predict).errors
    assert "'liver' is not in model" in line
    assert line.endswith(f"the model that ships with u2net3d has it: --model {ships}")
    assert u2net3d(*predict, "--model", ships).code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("domains", "--json"),
        ("verify",),
        ("card",),
        ("card", "liver"),
        ("models", "--preset", "base", "--domain", "liver"),
    ],
)
def test_what_reads_a_model_reads_it(ships, u2net3d, words):
    said = u2net3d(*words)
    assert (said.code, said.errors) == (0, [])
    assert said.out
    assert len(told(said)) == 1


def test_evaluate_takes_the_names_of_labels_from_it(ships, trained, u2net3d):
    labels = trained.data / LIVER / "labelsTr"
    both = ("evaluate", "--pred", labels, "--ref", labels)
    assert told(u2net3d(*both)) == []  # no model is asked
    said = u2net3d(*both, "--domain", "liver")
    assert (said.code, len(told(said))) == (0, 1)


def test_python_loads_it_without_arguments_and_prints_nothing(ships, here, trained, capsys):
    model = door.load(device="cpu")
    assert (model.folder, model.domains) == (ships, ("liver", "prostate"))
    assert capsys.readouterr() == ("", "")
    shutil.copytree(trained.model, here / "model")
    assert door.load(device="cpu").folder == Path("model")


def test_a_newcomers_domain_begins_with_a_copy(ships, here, trained, u2net3d):
    before = bytes_of(ships)
    add = ("add-domain", "pancreas", "--data", trained.data, "--cache", trained.cache)
    said = u2net3d(*add, "--steps", 2, "--device", "cpu")
    assert (said.code, said.out, said.errors) == (0, "", [])
    assert [COPIED in line for line in told(said)] == [True]
    assert "pancreas: on the trunk of model, trained on liver, prostate" in said.err
    assert bytes_of(ships) == before
    assert list(store.read_domains(here / "model")) == ["liver", "pancreas", "prostate"]
    assert store.read_manifest(here / "model").trunk_id == store.read_manifest(ships).trunk_id
    assert (here / "model" / "NOTICE").is_file()
    assert store.verify(here / "model") == []
    again = u2net3d(*add, "--steps", 2, "--device", "cpu")
    assert (again.code, told(again)) == (2, [])
    assert "pancreas is in model already" in again.errors[0]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("liver",), "liver is in the model that ships"),
        (("nothing",), "'nothing' is not in"),
        (("pancreas", "--time", "5x"), "--time"),
        (("pancreas", "--resume"), "model: is no folder"),
        (("pancreas", "--model", "elsewhere"), "elsewhere: is no folder"),
    ],
)
def test_what_is_refused_copies_nothing(ships, here, trained, u2net3d, words, named):
    said = u2net3d("add-domain", *words, "--data", trained.data, "--steps", 1)
    assert said.code in (1, 2)
    assert named in said.errors[0]
    assert [*here.iterdir()] == []


def test_nothing_trains_in_it(ships, trained, u2net3d):
    before = bytes_of(ships)
    places = ("--data", trained.data, "--model", ships, "--steps", 1, "--overwrite")
    for words in (
        ("train", "--domains", "liver"),
        ("train", "--domains", "liver", "--fold", "0-1"),
        ("add-domain", "pancreas"),
        ("update-domain", "liver"),
    ):
        said = u2net3d(*words, *places)
        assert said.code == 2
        assert bytes_of(ships) == before
        if "0-1" not in words:
            assert "is never changed" in said.errors[0]


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "-i", "a.nii.gz", "-o", "b.nii.gz", "--domain", "liver"),
        ("domains",),
        ("verify",),
        ("card",),
        ("add-domain", "pancreas"),
    ],
)
def test_without_one_that_ships_the_message_says_what_to_do(
    here, tmp_path, monkeypatch, u2net3d, words
):
    monkeypatch.setattr(shipping, "SHIPPED", tmp_path / "none")
    said = u2net3d(*words)
    assert said.code == 1
    assert said.errors == [
        "error: model: is no folder — train one with `u2net3d train`, or name another with --model"
    ]
    assert [*here.iterdir()] == []
