"""Bad input gets one clear line and the exit code of the contract, before any work is done."""

from __future__ import annotations

import json
import os
import re

import nibabel as nib
import numpy as np
import pytest
import torch

from u2net3d.store import shipping

LINE = re.compile(r"error: (?P<where>.+?): (?P<what>.+) — (?P<mend>.+)")
LIVER, PROSTATE = "Task03_Liver", "Task05_Prostate"


def refused(said, code, *parts, lines=1):
    """Asserts exit code, nothing on stdout and one error line that holds `parts`, the last of
    `lines`."""
    assert said.code == code, said.err
    assert said.out == ""
    assert len(said.err.splitlines()) == lines, said.err
    assert len(said.errors) == 1, said.err
    line = said.err.splitlines()[-1]
    assert LINE.fullmatch(line), line
    for part in parts:
        assert part in line


def replace(path, array, affine=None):
    """Writes other voxels, or another affine, over a NIfTI file."""
    old = nib.load(path)
    array = np.asarray(old.dataobj) if array is None else array
    nib.save(nib.Nifti1Image(array, old.affine if affine is None else affine), path)


@pytest.fixture(autouse=True)
def none_ships(monkeypatch, tmp_path):
    """A line about the model that ships would come before that of the fault."""
    monkeypatch.setattr(shipping, "SHIPPED", tmp_path / "none")


@pytest.fixture
def places(trained):
    return "--data", trained.data, "--model", trained.model, "--cache", trained.cache


@pytest.fixture
def predict(trained, tmp_path, u2net3d):
    """predict(image, output, option, ...) with the trained model."""

    def command(image, output=tmp_path / "label.nii.gz", domain="liver", *more):
        options = ("--domain", domain, "--model", trained.model, *more)
        return u2net3d("predict", "-i", image, "-o", output, *options)

    return command


@pytest.fixture
def train(tmp_path, make_dataset, u2net3d):
    """train(spoil) draws a data set, lets spoil(folder) change it and trains on all of it."""

    def command(spoil):
        spoil(make_dataset(tmp_path / "data", LIVER, cases=2, shape=(6, 6, 6)))
        options = ("--fold", "all", "--steps", 1, "--cache", tmp_path / "cache")
        places = ("--data", tmp_path / "data", "--model", tmp_path / "model")
        said = u2net3d("train", "--domains", "liver", *options, *places)
        assert not (tmp_path / "model").exists()
        return said

    return command


def first(folder, kind):
    return folder / kind / "liver_000.nii.gz"


def test_an_unknown_domain_is_answered_with_the_nearest_name(trained, places, predict, u2net3d):
    image, _ = trained.case(LIVER, "liver_000")
    refused(predict(image, domain="livre"), 2, "'livre'", "did you mean liver?", "prostate")
    said = u2net3d("train", "--domains", "livre", *places, "--overwrite")
    refused(said, 2, "'livre'", "did you mean 'liver'?")
    refused(u2net3d("add-domain", "pancrea", *places), 2, "did you mean 'pancreas'?")
    labels = trained.data / LIVER / "labelsTr"
    options = ("--ref", labels, "--domain", "lover", "--model", trained.model)
    refused(u2net3d("evaluate", "--pred", labels, *options), 2, "did you mean liver?")


def test_no_data_is_said_so(tmp_path, u2net3d):
    train = ("train", "--domains", "liver", "--model", tmp_path / "model", "--data")
    refused(u2net3d(*train, tmp_path / "nowhere"), 2, "--data", "nowhere does not exist")
    (tmp_path / "empty").mkdir()
    refused(u2net3d(*train, tmp_path / "empty"), 2, "--data", "holds no data set")
    (tmp_path / "file").touch()
    refused(u2net3d(*train, tmp_path / "file"), 2, "--data", "is no folder")
    said = u2net3d(
        *("train", "--domains", f"liver={tmp_path / 'gone'}"), "--model", tmp_path / "model"
    )
    refused(said, 2, "gone is no folder")


@pytest.mark.parametrize("domains", ["", ",", "liver,", "liver,,prostate", " ,liver"])
def test_an_empty_name_is_refused(tmp_path, u2net3d, domains):
    said = u2net3d("train", "--domains", domains, "--model", tmp_path / "model")
    refused(said, 2, "--domains", "empty name")


@pytest.mark.parametrize("domains", ["liver,liver", "liver,Liver", "liver,Task03_Liver", "a=x,a=y"])
def test_a_name_given_twice_is_refused(trained, tmp_path, u2net3d, domains):
    options = ("--data", trained.data, "--model", tmp_path / "model")
    refused(u2net3d("train", "--domains", domains, *options), 2, "is named twice")


@pytest.mark.parametrize("name", ["mean", "Train", "type", "all", "Task01_Nearest"])
def test_a_reserved_word_is_no_domain(trained, places, predict, u2net3d, name):
    image, _ = trained.case(LIVER, "liver_000")
    refused(u2net3d("train", "--domains", name, *places, "--overwrite"), 2, "is a reserved word")
    refused(u2net3d("add-domain", name, *places), 2, "is a reserved word")
    refused(predict(image, domain=name), 2, "is a reserved word")


def test_a_wrong_number_of_channels(trained, predict, train):
    image, _ = trained.case(LIVER, "liver_000")
    refused(predict(image, domain="prostate"), 1, "has 1 channel, expected 2 (T2, ADC)")
    image, _ = trained.case(PROSTATE, "prostate_000")
    refused(predict(image), 1, str(image), "has 2 channels, expected 1 (CT)")

    def spoil(folder):
        replace(first(folder, "imagesTr"), np.ones((6, 6, 6, 3), np.float32))

    refused(train(spoil), 1, "liver_000.nii.gz", "has 3 channels, expected 1 (CT)")


def test_a_2d_image(tmp_path, predict, train):
    path = tmp_path / "slice.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((6, 6), np.float32), np.eye(4)), path)
    refused(predict(path), 1, str(path), "not a volume")
    assert not (tmp_path / "label.nii.gz").exists()

    def spoil(folder):
        replace(first(folder, "imagesTr"), np.ones((6, 6), np.float32))

    refused(train(spoil), 1, "liver_000.nii.gz", "not a volume")


def test_an_image_that_is_missing_broken_or_of_no_known_format(tmp_path, predict):
    refused(predict(tmp_path / "nowhere.nii.gz"), 2, "-i", "nowhere.nii.gz does not exist")
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b and no more")
    refused(predict(tmp_path / "broken.nii.gz"), 1, "broken.nii.gz", "cannot be read")
    (tmp_path / "scan.png").touch()
    refused(predict(tmp_path / "scan.png"), 1, "scan.png", ".nii.gz")
    (tmp_path / "empty").mkdir()
    refused(predict(tmp_path / "empty", tmp_path / "out"), 2, "-i", "holds no image")


def test_label_values_outside_dataset_json(train):
    def spoil(folder):
        label = np.zeros((6, 6, 6), np.uint8)
        label[3, 3, 2:4] = 7
        replace(first(folder, "labelsTr"), label)

    parts = "liver_000.nii.gz", "label value 7 (2 voxels)", "dataset.json knows 0, 1"
    refused(train(spoil), 1, *parts)


def test_image_and_label_that_differ_in_shape(train):
    def spoil(folder):
        replace(first(folder, "labelsTr"), np.ones((6, 6, 5), np.uint8))

    refused(train(spoil), 1, "liver_000.nii.gz", "6×6×5", "6×6×6")


def test_image_and_label_that_differ_in_affine(train):
    def spoil(folder):
        affine = np.diag([1.0, 1.0, 2.0, 1.0])
        affine[0, 3] = 1
        replace(first(folder, "labelsTr"), None, affine)

    refused(train(spoil), 1, "liver_000.nii.gz", "1 mm", "affines differ")


def test_no_foreground_in_a_training_set(train):
    def spoil(folder):
        for path in (folder / "labelsTr").iterdir():
            replace(path, np.zeros((6, 6, 6), np.uint8))

    parts = "error: liver: ", "none of the 2 training cases holds a voxel of any label"
    refused(train(spoil), 1, *parts, lines=2)  # after the line that says how many were read


def test_a_dataset_json_that_cannot_be_used(train):
    def spoil(folder):
        (folder / "dataset.json").write_text("{")

    refused(train(spoil), 1, "dataset.json", "is not JSON")


def test_an_output_that_is_the_input(trained, predict):
    image, _ = trained.case(LIVER, "liver_000")
    before = image.read_bytes()
    refused(predict(image, image), 2, "-o", "is the input itself")
    refused(predict(image, image.parent), 2, "-o", "is the input itself")
    refused(predict(image.parent, image.parent), 2, "-o", "is the input folder itself")
    assert image.read_bytes() == before


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    trained, tmp_path, predict, u2net3d, monkeypatch
):
    def work(*_args, **_kwargs):
        raise AssertionError("the work was begun")

    for name in ("cli.predicting.load", "train.run.planned", "evaluate.report.scores"):
        monkeypatch.setattr(f"u2net3d.{name}", work)
    image, label = trained.case(LIVER, "liver_000")
    file = tmp_path / "file"
    file.touch()
    refused(predict(image, file / "label.nii.gz"), 2, "-o", "is a file, not a folder")
    refused(predict(image, file / "deep" / "label.nii.gz"), 2, "-o", "is a file, not a folder")
    refused(predict(image.parent, file), 2, "-o", "is a file")
    refused(predict(image, tmp_path / "label.png"), 2, "-o", "is no NIfTI name")
    train = ("train", "--domains", "liver", "--data", trained.data, "--model")
    refused(u2net3d(*train, file), 2, "--model", "is a file, not a folder")
    refused(u2net3d(*train, file / "model"), 2, "--model", "is a file, not a folder")
    evaluate = ("evaluate", "--pred", label.parent, "--ref", label.parent)
    refused(u2net3d(*evaluate, "--json", file / "s.json"), 2, "--json", "is a file, not a folder")
    refused(u2net3d(*evaluate, "--csv", tmp_path), 2, "--csv", "is a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_read_only_folder_is_refused_before_the_work(trained, tmp_path, predict):
    image, _ = trained.case(LIVER, "liver_000")
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    refused(predict(image, folder / "label.nii.gz"), 2, "-o", "cannot write in")


def test_cuda_where_there_is_none(trained, places, predict, u2net3d, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    image, _ = trained.case(LIVER, "liver_000")
    parts = "--device", "there is no CUDA device here", "--device cpu"
    refused(predict(image, image.parent / "x.nii.gz", "liver", "--device", "cuda"), 2, *parts)
    train = ("train", "--domains", "liver", *places, "--overwrite", "--device")
    refused(u2net3d(*train, "cuda"), 2, *parts)
    refused(u2net3d(*train, "gpu"), 2, "--device", "'gpu' is no device")
    refused(u2net3d("add-domain", "pancreas", *places, "--device", "cuda"), 2, *parts)


def test_an_existing_model_is_not_trained_over(places, u2net3d):
    said = u2net3d("train", "--domains", "liver", *places)
    refused(said, 2, "--model", "holds a model already", "u2net3d add-domain", "--overwrite")


def test_a_domain_that_is_there_is_not_added_again(places, u2net3d):
    refused(u2net3d("add-domain", "liver", *places), 2, "liver is in", "--overwrite")


def test_a_checkpoint_of_another_configuration_is_not_resumed(copied, u2net3d):
    places = ("--data", copied.data, "--model", copied.model, "--cache", copied.cache)
    said = u2net3d("train", "--domains", "liver,prostate", "--seed", 1, "--resume", *places)
    assert said.code == 1
    assert len(said.errors) == 1
    assert ".checkpoint: belongs to another configuration" in said.errors[0]
    assert u2net3d("verify", "--model", copied.model).code == 0


def test_there_is_nothing_to_resume(trained, tmp_path, u2net3d):
    options = ("--data", trained.data, "--model", tmp_path / "model", "--cache", trained.cache)
    said = u2net3d("train", "--domains", "liver", "--steps", 1, "--resume", *options)
    assert said.code == 1
    assert len(said.errors) == 1
    assert "there is no checkpoint" in said.errors[0]


def test_an_unknown_start(copied, u2net3d):
    places = ("--data", copied.data, "--model", copied.model, "--cache", copied.cache)
    for init in ("spleen", "pancreas"):
        said = u2net3d("add-domain", "pancreas", "--init", init, "--steps", 1, *places)
        assert said.code == 2
        assert len(said.errors) == 1
        assert LINE.fullmatch(said.errors[0])
        assert said.errors[0].startswith("error: --init: ")
    assert "pancreas" not in json.loads(u2net3d("domains", "--json", *places[2:4]).out)["domains"]


def test_more_patients_than_there_are(places, u2net3d):
    said = u2net3d("add-domain", "pancreas", "--cases", 99, *places)
    refused(said, 2, "--cases", "99 asked for, 4 patients", "use 1 to 4")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--steps", 5, "--time", "1m"), ("--time", "--steps is given as well")),
        (("--time", "soon"), ("--time", "'soon' is no duration", "30m")),
        (("--time", "0m"), ("--time", "'0m' is no duration")),
        (("--time", "-5m"), ("--time", "'-5m' is no duration")),
        (("--fold", "first"), ("--fold", "'first' is no fold")),
        (("--fold", "²"), ("--fold", "is no fold")),
        (("--fold", 5), ("--fold", "there is no fold 5", "0 to 4")),
        (("--steps", 0), ("--steps", "greater than or equal to 1")),
        (("--steps", "many"), ("--steps", "valid integer")),
        (("--seed", -1), ("--seed", "greater than or equal to 0")),
        (("--stepz", 3), ("No such option: --stepz", "--steps", "u2net3d train --help")),
    ],
)
def test_options_that_make_no_sense(trained, tmp_path, u2net3d, options, parts):
    places = ("--data", trained.data, "--model", tmp_path / "model", "--cache", trained.cache)
    refused(u2net3d("train", "--domains", "liver", *options, *places), 2, *parts)
    assert not (tmp_path / "model").exists()


def test_commands_that_there_are_not(u2net3d):
    refused(u2net3d("predit"), 2, "predit", "u2net3d --help")
    refused(u2net3d("--frobnicate"), 2, "No such option: --frobnicate", "u2net3d --help")
    refused(u2net3d("train"), 2, "Missing option '--domains'", "u2net3d train --help")
    refused(u2net3d("add-domain"), 2, "Missing argument", "u2net3d add-domain --help")
    refused(u2net3d("verify", "model"), 2, "unexpected extra argument", "u2net3d verify --help")
    said = u2net3d("predict", "-i", "a", "-o", "b", "--domain", "liver", "--overlap", 2)
    refused(said, 2, "--overlap", "0.95")
    said = u2net3d("predict", "-i", "a", "-o", "b", "--domain", "liver", "--fast", "--best")
    refused(said, 2, "--fast", "exclude each other", "give one of them")
    said = u2net3d("predict", "-i", "a", "-o", "b", "--domain", "liver", "--max-memory", "much")
    refused(said, 2, "--max-memory", "'much' is no size", "4G")


def test_no_model_is_said_with_what_to_do(trained, tmp_path, u2net3d):
    image, label = trained.case(LIVER, "liver_000")
    model = ("--model", tmp_path / "model")
    predict = ("predict", "-i", image, "-o", tmp_path / "x.nii.gz", "--domain", "liver")
    evaluate = ("evaluate", "--pred", label.parent, "--ref", label.parent, "--domain", "liver")
    commands = [("domains",), ("domains", "--json"), ("verify",), predict, evaluate]
    commands.append(("add-domain", "pancreas", "--data", trained.data))
    for command in commands:
        refused(u2net3d(*command, *model), 1, str(tmp_path / "model"), "u2net3d train")


def test_a_damaged_model_is_not_used(copied, tmp_path, u2net3d):
    image, _ = copied.case(LIVER, "liver_000")
    path = copied.model / "trunk.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    options = ("--domain", "liver", "--model", copied.model)
    said = u2net3d("predict", "-i", image, "-o", tmp_path / "x.nii.gz", *options)
    refused(said, 1, str(path), "its bytes are not those that were saved", "u2net3d verify")
    assert not (tmp_path / "x.nii.gz").exists()


def test_folders_to_compare_that_do_not_fit(trained, tmp_path, u2net3d):
    labels = trained.data / LIVER / "labelsTr"
    said = u2net3d("evaluate", "--pred", tmp_path / "nowhere", "--ref", labels)
    refused(said, 2, "--pred", "does not exist")
    others = trained.data / PROSTATE / "labelsTr"
    refused(u2net3d("evaluate", "--pred", others, "--ref", labels), 2, "no file has a name of")


def test_a_fault_of_the_program_is_one_line_too(u2net3d, monkeypatch, tmp_path):
    def fail(_model):
        raise ValueError("two\nlines")

    monkeypatch.setattr("u2net3d.store.verify", fail)
    refused(u2net3d("verify"), 1, "ValueError: two lines", "--debug")
    with pytest.raises(ValueError, match="two"):
        u2net3d("verify", "--debug")

    def full(_model):
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr("u2net3d.store.verify", full)
    refused(u2net3d("verify"), 1, f"error: {tmp_path}: No space left on device")


def test_ctrl_c_exits_with_130(u2net3d, monkeypatch):
    def interrupted(_model):
        raise KeyboardInterrupt

    monkeypatch.setattr("u2net3d.store.verify", interrupted)
    said = u2net3d("verify")
    assert (said.code, said.out) == (130, "")
    assert said.err.startswith("stopped")


def test_debug_shows_the_traceback_of_a_refusal(tmp_path, u2net3d):
    from u2net3d.errors import ModelError

    with pytest.raises(ModelError):
        u2net3d("--debug", "verify", "--model", tmp_path)


def test_training_on_would_orphan_the_domains_added_since(copied, u2net3d):
    places = ("--data", copied.data, "--model", copied.model, "--cache", copied.cache)
    assert u2net3d("add-domain", "pancreas", "--steps", 1, *places).code == 0
    said = u2net3d("train", "--domains", "liver,prostate", "--steps", 4, "--resume", *places)
    refused(said, 2, "--resume", "pancreas stands on the trunk", "another --model")
    assert u2net3d("verify", "--model", copied.model).code == 0


def test_references_without_a_prediction_are_not_passed_over(trained, tmp_path, u2net3d):
    label = trained.case("Task03_Liver", "liver_000")[1]
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    for folder, names in ((pred, "a"), (ref, "ab")):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.nii.gz").write_bytes(label.read_bytes())
    said = u2net3d("evaluate", "--pred", pred, "--ref", ref)
    assert said.code == 3
    assert len(said.errors) == 1
    assert "1 of 2 references have no prediction" in said.errors[0]
