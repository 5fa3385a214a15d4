"""The weights that ship: rounded before banks are trained on them, judged rounded, resumable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import voxel_sizes
from safetensors.torch import load_file

from u2net3d import files, store
from u2net3d.cli.app import run
from u2net3d.evaluate.card import DomainCard
from u2net3d.infer.predict import choose_device
from u2net3d.io.dataset import find_dataset, read_case, split
from u2net3d.store.weights import HALF, state, tensors_id
from u2net3d.train.validate import judge

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
MSD = {"licence": "CC-BY-SA 4.0", "reference": "Medical Segmentation Decathlon, Task03"}
MIT = {"licence": "MIT (repository)", "reference": "OpenKBP (Babier et al. 2021)"}
ASKED = ("--base", "liver,brain", "--add", "pancreas", "--turn", "brain=PLI")


@pytest.fixture(scope="module")
def ship():
    """The script, its commands run in this process and noted in `ship.ran`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import ship_weights

        ship_weights.ran = []

        def command(*words):
            ship_weights.ran.append(words)
            assert run([*words]) == 0

        patch.setattr(ship_weights, "u2net3d", command)
        patch.setitem(ship_weights.IMAGES, "Brain", "drawn by a program")
        yield ship_weights
        for name in ("ship_weights", "ship_notices", "ship_turned"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_dataset):
    """data: liver (CC-BY-SA), brain (MIT), pancreas (CC-BY-SA) and spleen (not to be passed on)."""
    root = tmp_path_factory.mktemp("ship")
    sets = {"Task03_Liver": MSD, "Task04_Brain": MIT, "Task07_Pancreas": MSD, "Task09_Spleen": {}}
    for seed, (name, facts) in enumerate(sets.items()):
        folder = make_dataset(root / "data", name, cases=5, shape=(12, 12, 10), seed=seed)
        described = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(described | facts))
    return root


def options(root, *more):
    places = ("--data", root / "data", "--work", root / "work", "--out", root / "weights")
    steps = ("--trunk-steps", 2, "--bank-steps", 1, "--device", "cpu", "--cache", root / "cache")
    return [*map(str, (*places, *steps, *more))]


@pytest.fixture(scope="module")
def shipped(ship, root):
    """The folder that the script made of two base domains and an added one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["x", *options(root, *ASKED)])
        ship.main()
    return root / "weights"


def test_it_is_a_whole_model_in_half_precision(shipped):
    assert store.verify(shipped) == []
    assert list(store.read_domains(shipped)) == ["brain", "liver", "pancreas"]
    assert store.trained_on(shipped) == ("brain", "liver")
    for path in shipped.rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}


def test_banks_were_trained_on_the_rounded_trunk_that_ships(shipped, root):
    trained, _, _ = store.load(root / "work" / "trunk", [])
    rounded = {name: tensor.half().float() for name, tensor in state(trained.trunk).items()}
    trunk_id = tensors_id(rounded)
    assert trunk_id != store.read_manifest(root / "work" / "trunk").trunk_id
    for folder in (root / "work" / "model", shipped):
        assert store.read_manifest(folder).trunk_id == trunk_id
    runs = {
        path.name.rpartition("-")[0] or path.name for path in (root / "work/model/runs").iterdir()
    }
    assert runs == {"train", "update-liver", "update-brain", "add"}


def test_dice_on_the_cards_is_that_of_the_weights_that_ship(shipped, root):
    net, _, specs = store.load(shipped)
    for name, record in store.read_domains(shipped).items():
        typed = f"brain={root}/work/turned/brain" if name == "brain" else name
        dataset = find_dataset(root / "data", typed)
        score = judge(net, specs[name], dataset, split(dataset, 0).validation, choose_device("cpu"))
        card = record.said.card
        assert card["validation_dice"] == score.per_label()
        assert card["dice_of_cases"] == score.of_cases()
        assert card[HALF]["dice_of_rounded"] is True
        assert 0 < card[HALF]["largest_rounding"] < 2**-10
        written = DomainCard.model_validate_json((shipped / "cards" / f"{name}.json").read_text())
        assert written.hashes.file_sha256 == files.sha256_file(record.path)
        assert written.data.licence in (MSD["licence"], MIT["licence"])
        assert ("from: drawn by a program." in written.intended_use) == (name == "brain")


def test_nobody_that_was_learnt_from_judges_when_the_data_set_has_grown(
    ship, shipped, root, make_dataset, tmp_path, monkeypatch
):
    grown = make_dataset(tmp_path, "Task03_Liver", cases=12, shape=(12, 12, 10))
    dataset, model = find_dataset(grown.parent, "liver"), root / "work" / "model"
    said = json.loads((model / "runs/train/run.json").read_text())["domains"]["liver"]
    fold = {case.name for case in split(dataset, 0).validation}
    assert fold & {*said["training"]}  # else nothing is shown
    asked = []

    def judge_by(net, spec, dataset, cases, device):
        asked.extend(case.name for case in cases)
        return judge(net, spec, dataset, cases, device)

    monkeypatch.setattr(ship, "judge", judge_by)
    net, _, specs = store.load(model)
    card = ship.judged(net, model, specs["liver"], dataset, "0", choose_device("cpu"))
    assert {*said["validation"]} <= {*asked}
    assert not {*asked} & {*said["training"]}
    assert card["validation_cases"] == len(asked)


def test_licences_and_how_it_was_made_lie_beside_the_weights(shipped):
    notice = " ".join((shipped / "NOTICE").read_text().split())
    assert "shared under CC-BY-SA-4.0" in notice
    assert "trunk.safetensors was trained on: liver, brain." in notice
    assert notice.count("Permission is hereby granted") == 1
    assert "Copyright (c) 2021 Aaron Babier" in notice
    for name in ("liver", "brain", "pancreas"):
        assert f"domains/{name}.safetensors" in notice
    made = json.loads((shipped / "made.json").read_text())
    assert made["options"]["base"] == ["liver", "brain"]
    assert (made["options"]["trunk_steps"], made["options"]["seed"]) == (2, 0)
    assert "torch" in made["versions"]


def test_the_same_command_does_nothing_twice_and_another_one_is_refused(
    ship, shipped, root, monkeypatch
):
    before = {path: files.sha256_file(path) for path in shipped.rglob("*.safetensors")}
    ship.ran.clear()
    words = options(root, *ASKED)
    monkeypatch.setattr(sys, "argv", ["x", *words])
    ship.main()
    assert ship.ran == []
    assert {path: files.sha256_file(path) for path in shipped.rglob("*.safetensors")} == before
    monkeypatch.setattr(sys, "argv", ["x", *words, "--seed", "1"])
    with pytest.raises(SystemExit, match="of another command"):
        ship.main()


def test_a_bank_that_became_worse_is_not_taken(ship, root, shipped, tmp_path, monkeypatch):
    model = tmp_path / "model"
    ship.round_trunk(root / "work" / "trunk", model)
    first = store.read_manifest(model).domains["liver"].sha256
    dice = iter([0.5, 0.4])  # of the earlier version, then of the present one
    monkeypatch.setattr(ship, "mean_dice", lambda _: next(dice))
    asked = ship.argparse.Namespace(
        data=root / "data", seed=0, fold="0", device="cpu", cache=root / "cache",
        bank_time=None, bank_steps=1,
    )  # fmt: skip
    ship.train_further(asked, model, "liver", "liver")
    assert store.read_manifest(model).domains["liver"].sha256 == first
    assert store.verify(model) == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"licence": "research use; cite the challenge"}, "does not allow"),
        ({"licence": "CC BY-NC-SA 3.0"}, "does not allow"),
        ({}, "'nothing'"),
        ({"licence": "MIT", "reference": "someone"}, "whose copyright"),
    ],
)
def test_weights_of_other_data_are_not_made(ship, root, tmp_path, monkeypatch, facts, said):
    from ship_notices import licence_of

    with pytest.raises(SystemExit, match=said):
        licence_of("spleen", facts)
    ship.ran.clear()
    words = options(root, "--base", "liver,spleen", "--work", tmp_path / "work")
    monkeypatch.setattr(sys, "argv", ["x", *words])
    with pytest.raises(SystemExit, match="does not allow"):
        ship.main()
    assert ship.ran == []
    assert not (tmp_path / "work").exists()


def test_a_turned_set_has_the_same_voxels_on_axes_that_run_as_it_was_said(shipped, root):
    source, copy = root / "data/Task04_Brain", root / "work/turned/brain"
    for name in ("imagesTr", "labelsTr"):
        assert len([*(copy / name).iterdir()]) == 5
        for path in (copy / name).iterdir():
            before, after = nib.load(source / name / path.name), nib.load(path)
            assert np.array_equal(before.dataobj, after.dataobj)
            assert before.get_data_dtype() == after.get_data_dtype()
            assert nib.aff2axcodes(after.affine) == ("P", "L", "I")
            assert np.allclose(voxel_sizes(before.affine), voxel_sizes(after.affine))
            # the qform says the same, for readers that take that one
            assert np.allclose(after.get_qform(), after.affine, atol=1e-5)
    # one step along the first axis is one to the back: no longer D = S, but H = A, from behind
    sets = (find_dataset(folder.parent, f"brain={folder}") for folder in (source, copy))
    was, now = (read_case(each, each.cases[0]).image.array[0] for each in sets)  # (S, A, R)
    assert np.array_equal(now, was.transpose(0, 2, 1)[::-1, ::-1, ::-1])
    release = json.loads((shipped / "cards/brain.json").read_text())["data"]["release"]
    assert release == "release not known; headers turned to PLI"
    assert "changes: headers turned to PLI; a network was trained" in " ".join(
        (shipped / "NOTICE").read_text().split()
    )


@pytest.fixture
def to_turn(make_dataset, tmp_path):
    return find_dataset(tmp_path, f"brain={make_dataset(tmp_path, 'Task04_Brain', cases=2)}")


def test_scaled_numbers_are_not_turned(ship, to_turn, tmp_path):
    from ship_turned import turned

    (path,) = to_turn.cases[1].images
    image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj).astype(np.int16), np.eye(4))
    image.header.set_slope_inter(1, -1024)
    nib.save(image, path)
    assert nib.load(path).dataobj.inter == -1024
    with pytest.raises(SystemExit, match=r"brain_001.nii.gz: holds scaled numbers"):
        turned(to_turn, "PLI", tmp_path / "copy")


def test_a_label_that_lies_otherwise_than_its_image_is_not_turned(ship, to_turn, tmp_path):
    from ship_turned import turned

    path = to_turn.cases[0].label
    label = nib.load(path)
    other = label.as_reoriented(nib.orientations.axcodes2ornt(("L", "P", "S")))
    nib.save(other, path)
    read_case(to_turn, to_turn.cases[0])  # it is read rightly
    with pytest.raises(SystemExit, match=r"lies otherwise than its image"):
        turned(to_turn, "PLI", tmp_path / "copy")


def test_what_is_turned_onto_itself_is_refused_with_nothing_lost(ship, to_turn):
    from ship_turned import turned

    with pytest.raises(SystemExit, match="holds the data itself"):
        turned(to_turn, "PLI", to_turn.root)
    assert all(path.is_file() for case in to_turn.cases for path in (*case.images, case.label))


@pytest.mark.parametrize("text", ["brain", "brain=PL", "brain=PAI", "brain=XYZ", "=PLI"])
def test_axes_that_are_none_are_refused(ship, text):
    from ship_turned import axes_of

    with pytest.raises(SystemExit, match="names no three axes — such as headneckct=PLI"):
        axes_of(text)


def test_only_a_domain_that_is_trained_can_be_turned(ship, root, tmp_path, monkeypatch):
    words = options(root, "--base", "liver", "--turn", "brain=PLI", "--work", tmp_path / "work")
    monkeypatch.setattr(sys, "argv", ["x", *words])
    with pytest.raises(SystemExit, match="brain is neither in --base nor in --add"):
        ship.main()
    assert not (tmp_path / "work").exists()


def test_a_folder_that_is_no_model_is_not_replaced(ship, shipped, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="holds files that are no model"):
        ship.put(shipped, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
