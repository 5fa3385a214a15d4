"""What the verbs do and say, on a model trained in four steps."""

from __future__ import annotations

import csv
import io
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from u2net3d import __version__, files
from u2net3d.infer.predict import Options

LIVER, PROSTATE = "Task03_Liver", "Task05_Prostate"


def weight_files(model):
    return {
        str(path.relative_to(model)): files.sha256_file(path)
        for path in model.rglob("*.safetensors")
    }


def test_training_leaves_a_model_its_run_and_nothing_on_stdout(trained, tmp_path, u2net3d):
    model = tmp_path / "model"
    said = u2net3d(
        *("train", "--domains", f"first={trained.data / LIVER}", "--steps", 2),
        *("--data", trained.data, "--model", model, "--cache", trained.cache, "--device", "cpu"),
    )
    assert (said.code, said.out, said.errors) == (0, "", [])
    assert sorted(weight_files(model)) == ["domains/first.safetensors", "trunk.safetensors"]
    run = model / "runs" / "train"
    told = json.loads((run / "run.json").read_text())
    assert told["command"].startswith("u2net3d ")
    assert told["training"]["steps"] == 2
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [0, 1]
    assert (run / "progress.png").read_bytes().startswith(b"\x89PNG")
    pictures = sorted(path.name for path in (run / "cases").iterdir())
    assert pictures == ["first_best.png", "first_median.png", "first_worst.png"]


def test_adding_a_domain_leaves_every_other_file_and_answer_alone(copied, tmp_path, u2net3d):
    image, _ = copied.case(LIVER, "liver_000")
    before = weight_files(copied.model)
    predict = ("predict", "-i", image, "--domain", "liver", "--model", copied.model)
    assert u2net3d(*predict, "-o", tmp_path / "before.nii.gz").code == 0
    said = u2net3d(
        *("add-domain", "pancreas", "--init", "mean", "--steps", 2, "--cases", 3),
        *("--data", copied.data, "--model", copied.model, "--cache", copied.cache),
    )
    assert (said.code, said.out, said.errors) == (0, "", [])
    after = weight_files(copied.model)
    assert after.keys() - before.keys() == {"domains/pancreas.safetensors"}
    assert before.items() <= after.items()
    assert u2net3d(*predict, "-o", tmp_path / "after.nii.gz").code == 0
    answers = [(tmp_path / name).read_bytes() for name in ("before.nii.gz", "after.nii.gz")]
    assert answers[0] == answers[1]
    listed = json.loads(u2net3d("domains", "--model", copied.model, "--json").out)["domains"]
    assert set(listed) == {"liver", "prostate", "pancreas"}
    assert listed["pancreas"]["card"]["training_cases"] == 3


def test_an_existing_model_is_replaced_only_when_told(copied, u2net3d):
    before = weight_files(copied.model)
    command = ("train", "--domains", "liver", "--steps", 1, "--seed", 1, "--fold", "all")
    places = ("--data", copied.data, "--model", copied.model, "--cache", copied.cache)
    assert u2net3d(*command, *places).code == 2
    assert weight_files(copied.model) == before
    assert u2net3d(*command, *places, "--overwrite").code == 0
    assert sorted(weight_files(copied.model)) == ["domains/liver.safetensors", "trunk.safetensors"]
    assert u2net3d("verify", "--model", copied.model).code == 0


def test_one_image_gives_one_label_on_its_own_grid(trained, tmp_path, u2net3d):
    image, _ = trained.case(LIVER, "liver_000")
    output = tmp_path / "new" / "label.nii.gz"
    said = u2net3d(
        *("predict", "-i", image, "-o", output, "--domain", "Liver", "--model", trained.model),
        *("--device", "cpu", "--overlap", 0.3, "--tta"),
    )
    assert (said.code, said.out, said.errors) == (0, "", [])
    label, source = nib.load(output), nib.load(image)
    assert label.shape == source.shape
    np.testing.assert_array_equal(label.affine, source.affine)
    assert set(np.unique(np.asarray(label.dataobj))) <= {0, 1}
    assert {path.name for path in output.parent.iterdir()} == {"label.nii.gz", "label.json"}


@pytest.mark.parametrize(
    ("words", "overlap", "tta"),
    [
        ((), Options().overlap, Options().tta),
        (("--fast",), 0.25, False),
        (("--best",), 0.5, True),
        (("--fast", "--tta"), 0.25, True),
        (("--best", "--overlap", 0.6), 0.6, True),
    ],
)
def test_fast_and_best_choose_overlap_and_reflections(
    trained, tmp_path, u2net3d, words, overlap, tta
):
    image, _ = trained.case(LIVER, "liver_000")
    said = u2net3d(
        *("predict", "-i", image, "-o", tmp_path / "label.nii.gz", "--domain", "liver"),
        *("--model", trained.model, "--device", "cpu", "--max-memory", "100M", *words),
    )
    assert said.code == 0
    options = json.loads((tmp_path / "label.json").read_text())["options"]
    assert (options["overlap"], options["tta"]) == (overlap, tta)


def test_channels_may_be_given_one_by_one(trained, tmp_path, u2net3d):
    image, _ = trained.case(PROSTATE, "prostate_000")
    whole = nib.load(image)
    channels = []
    for i in range(2):
        channels += ["-i", tmp_path / f"{i}.nii.gz"]
        nib.save(nib.Nifti1Image(np.asarray(whole.dataobj)[..., i], whole.affine), channels[-1])
    options = ("--domain", "prostate", "--model", trained.model)
    assert u2net3d("predict", *channels, "-o", tmp_path / "a.nii.gz", *options).code == 0
    assert u2net3d("predict", "-i", image, "-o", tmp_path / "b.nii.gz", *options).code == 0
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_folder_goes_on_after_a_bad_case_and_exits_with_3(trained, tmp_path, u2net3d):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("liver_000", "liver_002"):
        shutil.copy(trained.case(LIVER, name)[0], images)
    (images / "liver_001.nii.gz").write_bytes(b"\x1f\x8bbroken")
    said = u2net3d(
        *("predict", "-i", images, "-o", tmp_path / "out", "--domain", "liver"),
        *("--model", trained.model),
    )
    assert said.code == 3
    assert len(said.errors) == 2  # the file, and how many failed
    assert "liver_001.nii.gz: cannot be read" in said.errors[0]
    assert "1 of 3 cases failed" in said.errors[1]
    written = sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz"))
    assert written == ["liver_000.nii.gz", "liver_002.nii.gz"]


def test_evaluation_prints_a_table_and_writes_json_and_csv(trained, tmp_path, u2net3d):
    labels = trained.data / PROSTATE / "labelsTr"
    said = u2net3d(
        *("evaluate", "--pred", labels, "--ref", labels, "--domain", "prostate"),
        *("--model", trained.model, "--json", tmp_path / "s.json", "--csv", tmp_path / "s.csv"),
    )
    assert (said.code, said.errors) == (0, [])
    assert "transition" in said.out
    report = json.loads((tmp_path / "s.json").read_text())
    assert (report["n"], report["mean"]["dice"], report["mean"]["hd95_mm"]) == (5, 1, 0)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert len(rows) == 5 * 2
    assert {row["label"] for row in rows} == {"peripheral", "transition"}


def test_evaluation_needs_no_model(trained, u2net3d):
    labels = trained.data / LIVER / "labelsTr"
    assert u2net3d("evaluate", "--pred", labels, "--ref", labels).code == 0


def test_predictions_of_a_model_can_be_evaluated(trained, tmp_path, u2net3d):
    source = trained.data / LIVER
    options = ("--domain", "liver", "--model", trained.model)
    assert u2net3d("predict", "-i", source / "imagesTr", "-o", tmp_path, *options).code == 0
    said = u2net3d("evaluate", "--pred", tmp_path, "--ref", source / "labelsTr", *options)
    assert (said.code, said.errors) == (0, [])


def test_a_prediction_without_its_grid_is_scored_as_failed_and_exits_with_3(
    trained, tmp_path, u2net3d
):
    labels = trained.data / LIVER / "labelsTr"
    shutil.copytree(labels, tmp_path / "pred")
    nib.save(
        nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)),
        tmp_path / "pred" / "liver_000.nii.gz",
    )
    said = u2net3d("evaluate", "--pred", tmp_path / "pred", "--ref", labels)
    assert said.code == 3
    assert "liver_000" in said.errors[0]
    assert "1 case" in said.errors[-1]


def test_domains_as_json_hold_labels_sizes_and_counts(trained, u2net3d):
    said = u2net3d("domains", "--model", trained.model, "--json")
    assert (said.code, said.err) == (0, "")
    told = json.loads(said.out)
    trunk, prostate = told["trunk"], told["domains"]["prostate"]
    assert len(trunk["id"]) == 64
    assert trunk["bytes"] == (trained.model / "trunk.safetensors").stat().st_size
    assert trunk["bytes"] > 4 * trunk["weights"]
    assert prostate["labels"] == ["background", "peripheral", "transition"]
    assert prostate["channels"] == ["T2", "ADC"]
    assert prostate["listed"] is True
    path = trained.model / "domains" / "prostate.safetensors"
    assert prostate["sha256"] == files.sha256_file(path)
    assert prostate["bytes"] == path.stat().st_size
    assert 0 < prostate["adapters"] < prostate["weights"] < prostate["bytes"] / 4


def test_domains_as_a_table_name_every_domain(trained, u2net3d):
    said = u2net3d("domains", "--model", trained.model)
    assert (said.code, said.err) == (0, "")
    assert all(word in said.out for word in ("liver", "prostate", "transition"))


def test_a_bank_put_in_by_hand_is_listed_and_works(copied, tmp_path, u2net3d):
    content = json.loads((copied.model / "manifest.json").read_text())
    del content["domains"]["liver"], content["ledger"]
    (copied.model / "manifest.json").write_text(json.dumps(content))
    (copied.model / "ledger.jsonl").unlink()
    listed = json.loads(u2net3d("domains", "--model", copied.model, "--json").out)["domains"]
    assert (listed["liver"]["listed"], listed["prostate"]["listed"]) == (False, True)
    said = u2net3d("verify", "--model", copied.model)
    assert said.code == 0
    assert "put in by hand, on the same trunk: liver" in said.out
    image, _ = copied.case(LIVER, "liver_000")
    output = tmp_path / "label.nii.gz"
    options = ("--domain", "liver", "--model", copied.model)
    assert u2net3d("predict", "-i", image, "-o", output, *options).code == 0


def test_verify_exits_with_0_or_1(copied, u2net3d):
    said = u2net3d("verify", "--model", copied.model)
    assert (said.code, said.err) == (0, "")
    assert "2 domains are whole" in said.out
    path = copied.model / "domains" / "liver.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    said = u2net3d("verify", "--model", copied.model)
    assert (said.code, said.out) == (1, "")
    assert "domains/liver.safetensors: its bytes are not those that were saved" in said.err
    assert len(said.errors) == 1


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_lists_every_verb(u2net3d, arguments):
    said = u2net3d(*arguments)
    assert (said.code, said.err) == (0, "")
    for verb in ("train", "add-domain", "predict", "evaluate", "domains", "verify"):
        assert f" {verb} " in said.out


@pytest.mark.parametrize(
    "verb", ["train", "add-domain", "predict", "evaluate", "domains", "verify"]
)
def test_every_verb_has_help(u2net3d, verb):
    said = u2net3d(verb, "--help")
    assert (said.code, said.err) == (0, "")
    assert f"Usage: u2net3d {verb} " in said.out


def test_the_version_is_printed(u2net3d):
    assert u2net3d("--version").out == f"{__version__}\n"
