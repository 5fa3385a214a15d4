"""Folds as typed: trained, added to, listed, checked, predicted with and cross-validated."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from u2net3d import store


@pytest.fixture(scope="module")
def folded(trained, tmp_path_factory):
    """Two folds of the liver, one step each."""
    from u2net3d.cli.app import run

    model = tmp_path_factory.mktemp("folded") / "model"
    places = ("--data", trained.data, "--model", model, "--cache", trained.cache)
    words = ("train", "--domains", "liver", "--fold", "0,1", "--steps", 1, *places)
    assert run([str(word) for word in words]) == 0
    return model, places


def test_every_fold_is_a_model_and_all_are_listed_and_verified(folded, u2net3d):
    model, _ = folded
    said = u2net3d("verify", "--model", model)
    assert said.code == 0
    assert said.out.count("trunk and 1 domains are whole") == 2
    told = json.loads(u2net3d("domains", "--model", model, "--json").out)
    assert set(told["folds"]) == {"fold0", "fold1"}
    assert [told["folds"][f"fold{n}"]["domains"]["liver"]["card"]["fold"] for n in (0, 1)] == [0, 1]
    assert u2net3d("domains", "--model", model).out.count("liver") >= 2
    assert u2net3d("verify", "--model", model / "fold1").code == 0


def test_a_difference_in_one_fold_is_named_with_it(folded, u2net3d):
    path = folded[0] / "fold1/domains/liver.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1])
        said = u2net3d("verify", "--model", folded[0])
    finally:
        path.write_bytes(content)
    assert (said.code, said.out) == (1, "")
    assert "fold1: domains/liver.safetensors: its bytes are not" in said.err


def test_finished_folds_are_left_out_when_taken_up_again(folded, u2net3d):
    _, places = folded
    words = ("train", "--domains", "liver", "--fold", "0,1", "--steps", 1, *places)
    assert u2net3d(*words).code == 2
    said = u2net3d(*words, "--resume")
    assert said.code == 0
    assert "fold 0: was finished before" in said.err
    assert "fold 1: was finished before" in said.err
    said = u2net3d("train", "--domains", "liver", "--steps", 1, *places)
    assert said.code == 2
    assert "holds folds" in said.errors[0]


def test_folds_predict_as_one_and_are_cross_validated(folded, u2net3d, trained, tmp_path):
    model, _ = folded
    image, _ = trained.case("Task03_Liver", "liver_000")
    output = tmp_path / "label.nii.gz"
    said = u2net3d("predict", "-i", image, "-o", output, "--domain", "liver", "--model", model)
    assert (said.code, said.errors) == (0, [])
    assert nib.load(output).shape == nib.load(image).shape
    table = tmp_path / "table.json"
    words = ("evaluate", "--cross-validated", "--domain", "liver", "--json", table)
    said = u2net3d(*words, "--data", trained.data, "--model", model)
    assert (said.code, said.errors) == (0, [])
    cases = json.loads(table.read_text())["cases"]
    held = {}
    for fold in (0, 1):
        run = json.loads((model / f"fold{fold}/runs/train/run.json").read_text())
        held[fold] = set(run["domains"]["liver"]["validation"])
    assert set(cases) == held[0] | held[1]
    assert not held[0] & held[1]
    case = min(held[1])  # the score is that of the fold that never saw it
    image, label = trained.case("Task03_Liver", case)
    alone = tmp_path / "alone"
    options = ("--domain", "liver", "--model", model / "fold1", "--no-cleanup")
    assert u2net3d("predict", "-i", image, "-o", alone / f"{case}.nii.gz", *options).code == 0
    predicted = np.asarray(nib.load(alone / f"{case}.nii.gz").dataobj) == 1
    reference = np.asarray(nib.load(label).dataobj) == 1
    dice = 2 * (predicted & reference).sum() / max(predicted.sum() + reference.sum(), 1)
    assert cases[case]["liver"]["dice"] == pytest.approx(dice)


def test_a_domain_is_added_to_every_fold(folded, u2net3d):
    model, places = folded
    said = u2net3d("add-domain", "pancreas", "--steps", 1, *places)
    assert (said.code, said.errors) == (0, [])
    for part in store.models_in(model):
        assert set(store.read_domains(part)) == {"liver", "pancreas"}
        fold = store.read_domains(part)["pancreas"].said.card["fold"]
        assert part.name == f"fold{fold}"
    assert u2net3d("verify", "--model", model).code == 0


@pytest.mark.parametrize("fold", ["2,1", "1,1", "3-1", "0-100", "0,", "-1", "a"])
def test_what_are_no_folds_is_refused(u2net3d, trained, tmp_path, fold):
    said = u2net3d(
        *("train", "--domains", "liver", f"--fold={fold}", "--steps", 1),
        *("--data", trained.data, "--model", tmp_path / "model"),
    )
    assert said.code == 2
    assert len(said.errors) == 1
    assert not (tmp_path / "model").exists()


def test_cross_validation_needs_folds_and_a_domain(u2net3d, trained):
    words = ("evaluate", "--cross-validated", "--data", trained.data, "--model", trained.model)
    said = u2net3d(*words, "--domain", "liver")
    assert said.code == 2
    assert "holds no folds" in said.errors[0]
    assert "--domain" in u2net3d(*words).errors[0]
    assert "--pred" in u2net3d("evaluate", "--ref", trained.data).errors[0]


def test_a_fold_that_there_is_not_is_said_before_any_is_trained(u2net3d, trained, tmp_path):
    said = u2net3d(
        *("train", "--domains", "liver", "--fold", "0-7", "--steps", 1),
        *("--data", trained.data, "--model", tmp_path / "model", "--cache", trained.cache),
    )
    assert said.code == 2
    assert said.errors == ["error: --fold: there is no fold 5 — use 0 to 4, or all"]
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("verb", [("add-domain", "pancreas"), ("update-domain", "liver")])
def test_several_folds_of_a_single_model_are_refused_not_passed_over(verb, u2net3d, copied):
    places = ("--data", copied.data, "--model", copied.model, "--cache", copied.cache)
    said = u2net3d(*verb, "--fold", "0,1", "--steps", 1, *places)
    assert said.code == 2
    assert "--fold: " in said.errors[0]
    assert "holds a single model" in said.errors[0]


def test_other_folds_than_there_are_cannot_be_added_to(folded, u2net3d):
    model, places = folded
    for fold in ("1", "0-2", "all"):
        said = u2net3d("add-domain", "pancreas", "--fold", fold, "--steps", 1, *places)
        assert said.code == 2
        assert f"{model} holds the folds 0,1" in said.errors[0]
