"""What `predict` writes beside the label, and what it does with labels that are there."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal

import nibabel as nib
import numpy as np
import pytest

from u2net3d.infer.predict import Model

LIVER, PROSTATE = "Task03_Liver", "Task05_Prostate"


@pytest.fixture
def images(trained, tmp_path):
    """A folder of three livers."""
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(3):
        shutil.copy(trained.case(LIVER, f"liver_00{n}")[0], folder)
    return folder


@pytest.fixture
def predict(trained, tmp_path, u2net3d):
    """predict(images, option, ...) into the folder `out`."""

    def command(images, *options, domain="liver", model=trained.model, output=tmp_path / "out"):
        words = ("-i", images, "-o", output, "--domain", domain, "--model", model)
        return u2net3d("predict", *words, "--device", "cpu", *options)

    return command


@pytest.fixture
def as_in_a_terminal():
    """A shell starts background jobs with SIGINT ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_second_run_skips_what_is_done_and_says_so(images, predict, tmp_path):
    first = predict(images)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    second = predict(images)
    assert (first.code, second.code, second.errors) == (0, 0, [])
    assert first.err.count(" of 3: ") == second.err.count(" of 3: ") == 3
    assert second.err.count("from the same image, model and options: skipped") == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_labels_of_another_model_are_refused_case_by_case_or_replaced_or_kept(
    images, predict, copied, u2net3d, tmp_path
):
    assert predict(images).code == 0
    (tmp_path / "out" / "liver_001.json").unlink()
    (tmp_path / "out" / "liver_001.nii.gz").unlink()
    more = ("--overlap", 0.2)
    said = predict(images, *more)
    assert said.code == 3
    assert len(said.errors) == 3  # two cases, and how many failed
    assert "liver_000.nii.gz: is there already and was made with other options" in said.errors[0]
    assert "give --overwrite to replace it, or --skip to keep it" in said.errors[0]
    assert (tmp_path / "out" / "liver_001.nii.gz").exists()  # the one that was free
    kept = predict(images, *more, "--skip")
    assert (kept.code, kept.err.count("is there already: skipped")) == (0, 3)
    replaced = predict(images, *more, "--overwrite")
    assert (replaced.code, replaced.err.count("skipped")) == (0, 1)
    assert predict(images, *more).err.count("skipped") == 3


def test_a_single_label_that_was_corrected_by_hand_is_not_lost(trained, predict, tmp_path):
    image, reference = trained.case(LIVER, "liver_000")
    output = tmp_path / "label.nii.gz"
    assert predict(image, output=output).code == 0
    shutil.copy(reference, output)
    said = predict(image, output=output)
    assert said.code == 2
    assert "label.nii.gz: is there already and was changed since it was written" in said.errors[0]
    assert output.read_bytes() == reference.read_bytes()
    assert predict(image, "--overwrite", output=output).code == 0
    assert output.read_bytes() != reference.read_bytes()


def test_statistics_agree_with_the_labels_that_were_written(images, predict, tmp_path):
    for end in ("json", "csv"):  # the second one of labels that are there already
        assert predict(images, "--statistics", tmp_path / f"s.{end}").code == 0
    said = json.loads((tmp_path / "s.json").read_text())
    table = csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text()))
    voxels = {row["case"]: int(row["voxels"]) for row in table}
    assert list(said["cases"]) == ["liver_000", "liver_001", "liver_002"]
    for case, labels in said["cases"].items():
        label = nib.load(tmp_path / "out" / f"{case}.nii.gz")
        mask = np.asarray(label.dataobj) == 1
        inside = nib.load(images / f"{case}.nii.gz").get_fdata()[mask]
        found = labels["liver"]
        assert found["voxels"] == mask.sum() == voxels[case]
        assert found["millilitres"] == pytest.approx(mask.sum() * 0.002)  # 1 × 1 × 2 mm
        if mask.any():
            assert found["intensity"]["CT"]["mean"] == pytest.approx(inside.mean())
            assert found["intensity"]["CT"]["std"] == pytest.approx(inside.std())


def test_statistics_name_the_cases_that_failed(images, predict, tmp_path):
    (images / "liver_001.nii.gz").write_bytes(b"\x1f\x8bbroken")
    said = predict(images, "--statistics", tmp_path / "s.json")
    assert said.code == 3
    told = json.loads((tmp_path / "s.json").read_text())
    assert (list(told["cases"]), told["failed"]) == (["liver_000", "liver_002"], ["liver_001"])


def test_preview_and_probabilities_stand_beside_the_label_and_are_no_labels(
    trained, predict, u2net3d, tmp_path
):
    image, _ = trained.case(PROSTATE, "prostate_000")
    out = tmp_path / "out"
    out.mkdir()
    assert predict(image, "--preview", "--probabilities", domain="prostate").code == 0
    ends = {"json", "nii.gz", "png", "probabilities.nii.gz"}
    assert {path.name for path in out.iterdir()} == {f"prostate_000.{end}" for end in ends}
    assert (out / "prostate_000.png").read_bytes().startswith(b"\x89PNG")
    label, shares = (nib.load(out / f"prostate_000{end}.nii.gz") for end in ("", ".probabilities"))
    np.testing.assert_array_equal(shares.affine, label.affine)
    values = shares.get_fdata()
    assert values.shape == (*label.shape, 3)
    assert np.abs(values.sum(-1) - 1).max() < 1e-4
    ordered = np.sort(values, axis=-1)
    clear = ordered[..., -1] - ordered[..., -2] > 1e-4
    assert np.array_equal(values.argmax(-1)[clear], np.asarray(label.dataobj)[clear])
    references = trained.data / PROSTATE / "labelsTr"
    said = u2net3d("evaluate", "--pred", out, "--ref", references)
    assert "without a reference" not in said.out


def test_a_table_that_cannot_be_written_is_refused_before_the_work(
    images, predict, tmp_path, monkeypatch
):
    def work(*_args, **_kwargs):
        raise AssertionError("the work was begun")

    monkeypatch.setattr("u2net3d.cli.predicting.load", work)
    for table, what in (
        (tmp_path / "s.xlsx", "is no .json and no .csv"),
        (images, "is a folder"),
        (tmp_path / "out" / "liver_001.json", "is another result or an input"),
    ):
        said = predict(images, "--statistics", table)
        assert said.code == 2
        assert len(said.errors) == 1
        assert what in said.errors[0]


def test_a_result_never_takes_the_place_of_an_input(trained, predict, tmp_path):
    image = tmp_path / "out" / "a.probabilities.nii.gz"
    image.parent.mkdir()
    shutil.copy(trained.case(LIVER, "liver_000")[0], image)
    before = image.read_bytes()
    output = tmp_path / "out" / "a.nii.gz"
    said = predict(image, "--probabilities", "--overwrite", output=output)
    assert said.code == 2
    assert image.read_bytes() == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.usefixtures("as_in_a_terminal")
def test_a_signal_ends_a_folder_after_the_case_at_hand(
    images, predict, tmp_path, monkeypatch, number, code
):
    plain, asked = Model.answer, []

    def answer(self, image, path, *args, **kwargs):
        asked.append(path.name)
        if len(asked) == 2:
            os.kill(os.getpid(), number)
        return plain(self, image, path, *args, **kwargs)

    monkeypatch.setattr(Model, "answer", answer)
    said = predict(images, "--statistics", tmp_path / "s.json")
    assert said.code == code
    lines = said.err.splitlines()
    assert "stopping when this case is done; once more stops at once" in lines
    assert lines[-1] == "stopped after 2 of 3 cases — the same command goes on"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"liver_00{n}.{end}" for n in (0, 1) for end in ("json", "nii.gz")}
    assert not (tmp_path / "s.json").exists()  # which would lack a case and not say so
    assert predict(images).err.count("skipped") == 2
    assert len(asked) == 3


@pytest.mark.usefixtures("as_in_a_terminal")
@pytest.mark.parametrize("alone", [True, False])
def test_a_case_alone_ends_at_once_and_of_a_folder_at_the_second_signal(
    trained, images, predict, tmp_path, monkeypatch, alone
):
    def answer(*_args, **_kwargs):
        for _ in range(1 if alone else 2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(Model, "answer", answer)
    (tmp_path / "out").mkdir()
    said = predict(images / "liver_000.nii.gz" if alone else images)
    assert said.code == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_what_killed_runs_left_half_written_is_swept(images, predict, tmp_path):
    from u2net3d import files

    left = files.temporary_beside(tmp_path / "out" / "liver_000.nii.gz")
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-"))
    left.parent.mkdir()
    left.write_bytes(b"half a label")
    assert predict(images).code == 0
    assert not left.exists()
