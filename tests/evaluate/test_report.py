"""Folders of small label files, with means worked out by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from u2net3d.errors import UsageError
from u2net3d.evaluate.metrics import LabelScore
from u2net3d.evaluate.report import CaseScores, Report, evaluate_folder

LABELS = ("background", "front", "back")
SPACING = np.diag([1.0, 1.0, 2.0, 1.0])


def save(folder, name, row, affine=SPACING):
    """A label of one row of voxels along the first stored axis."""
    folder.mkdir(exist_ok=True)
    array = np.array(row, dtype=np.uint8).reshape(-1, 1, 1)
    nib.save(nib.Nifti1Image(array, affine), folder / name)


@pytest.fixture
def folders(tmp_path):
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    save(ref, "a.nii.gz", [1, 1, 2, 2])
    save(pred, "a.nii.gz", [1, 1, 2, 0])  # Dice 1 and 2/3
    save(ref, "b.nii.gz", [1, 1, 0, 0])
    save(pred, "b.nii", [0, 0, 0, 0])  # front missed, back absent
    return pred, ref


def quiet(done, total):
    pass


def evaluate(folders, labels=LABELS, **kwargs):
    return evaluate_folder(*folders, labels, 1.0, quiet, **kwargs)


def test_means_are_over_cases_per_label_then_over_labels(folders):
    report = evaluate(folders)
    means = report.label_means()
    assert means["front"].dice == pytest.approx((1 + 0) / 2)
    assert (means["front"].counted, means["front"].missed) == (2, 1)
    assert means["back"].dice == pytest.approx(2 / 3)  # absent from b: not counted
    assert (means["back"].counted, means["back"].missed) == (1, 0)
    assert report.mean().dice == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert [case.mean_dice for case in report.cases] == pytest.approx([5 / 6, 0])


def test_cases_match_by_name_whatever_the_suffix_and_the_unmatched_are_named(folders):
    pred, ref = folders
    save(pred, "c.nii.gz", [1])
    save(ref, "d.nii.gz", [1])
    (ref / "notes.txt").write_text("not an image")
    (ref / "._a.nii.gz").write_bytes(b"what a Mac leaves behind")
    report = evaluate(folders)
    assert [case.case for case in report.cases] == ["a", "b"]
    assert report.without_reference == ("c",)
    assert report.without_prediction == ("d",)


def test_json_follows_its_schema_and_holds_no_nan(folders):
    content = evaluate(folders, domain="liver").to_json()
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again == content
    assert (content["n"], content["tolerance_mm"], content["domain"]) == (2, 1.0, "liver")
    assert content["cases"]["b"]["back"]["dice"] is None
    assert content["cases"]["b"]["back"]["outcome"] == "absent"
    assert content["cases"]["a"]["front"]["reference_ml"] == pytest.approx(2 * 2 / 1000)
    assert content["labels"]["front"]["missed"] == 1
    assert "surface" in content["definitions"]["nsd"]


def test_csv_has_one_row_per_case_and_label_and_leaves_the_undefined_empty(folders):
    rows = list(csv.DictReader(io.StringIO(evaluate(folders).to_csv())))
    assert [(row["case"], row["label"]) for row in rows] == [
        ("a", "front"), ("a", "back"), ("b", "front"), ("b", "back"),
    ]  # fmt: skip
    assert float(rows[1]["dice"]) == pytest.approx(2 / 3)
    assert (rows[3]["dice"], rows[3]["outcome"]) == ("", "absent")


def test_the_table_shows_every_case_the_means_and_names_with_brackets():
    from rich.console import Console

    score = LabelScore("[red]odd", 0.5, 1 / 3, 2.0, 0.75, 10, 10, 1.0, 1.0)
    absent = LabelScore("back", *[math.nan] * 4, 0, 0, 0.0, 0.0)
    report = Report(("[red]odd", "back"), 2.0, (CaseScores("case7", (score, absent)),))
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(report.to_table())
    text = console.export_text()
    for part in (
        "case7",
        "[red]odd",
        "0.500",
        "2.0",
        "absent",
        "over labels",
        "NSD 2 mm",
        "1 case",
    ):
        assert part in text
    assert "nan" not in text


def test_a_case_on_another_grid_fails_alone(folders):
    pred, _ = folders
    save(pred, "a.nii.gz", [1, 1, 2])
    report = evaluate(folders)
    assert [case.case for case in report.cases] == ["b"]
    (failure,) = report.failures
    assert failure.case == "a"
    assert "a.nii.gz" in failure.why
    assert report.to_json()["failed"] == {"a": failure.why}


def test_an_unreadable_file_and_a_value_without_a_name_fail_alone(folders):
    pred, ref = folders
    (pred / "a.nii.gz").write_bytes(b"no image")
    save(pred, "c.nii.gz", [7, 0])
    save(ref, "c.nii.gz", [1, 0])
    report = evaluate(folders)
    assert [failure.case for failure in report.failures] == ["a", "c"]
    assert "value 7" in report.failures[1].why
    assert [case.case for case in report.cases] == ["b"]


def test_files_stored_in_other_orientations_are_compared_in_space(folders):
    pred, _ = folders
    reversed_axis = SPACING.copy()
    reversed_axis[0, 0], reversed_axis[0, 3] = -1, 3
    save(pred, "a.nii.gz", [2, 2, 1, 1], reversed_axis)
    report = evaluate(folders)
    assert [score.dice for score in report.cases[0].scores] == [1.0, 1.0]


def test_without_names_labels_are_named_by_the_values_found(folders):
    pred, ref = folders
    save(ref, "c.nii.gz", [0, 10, 9])
    save(pred, "c.nii.gz", [0, 10, 0])
    report = evaluate(folders, labels=None)
    assert report.labels == ("label 1", "label 2", "label 9", "label 10")
    assert [score.label for score in report.cases[2].scores] == ["label 9", "label 10"]
    assert report.label_means()["label 2"].counted == 1


def test_the_ignore_value_needs_no_name(folders):
    _, ref = folders
    save(ref, "a.nii.gz", [1, 1, 2, 255])
    for labels in (LABELS, None):
        report = evaluate(folders, labels, ignore=255)
        assert [score.dice for score in report.cases[0].scores] == [1.0, 1.0]


def test_progress_counts_cases_up_to_their_number(folders):
    calls = []
    evaluate_folder(*folders, LABELS, 1.0, lambda done, total: calls.append((done, total)))
    assert calls == [(0, 2), (1, 2), (2, 2)]


def test_folders_without_a_common_name_are_refused_in_a_line(folders, tmp_path):
    pred, ref = folders
    with pytest.raises(UsageError, match="does not exist"):
        evaluate((tmp_path / "nowhere", ref))
    with pytest.raises(UsageError, match="is not a folder"):
        evaluate((pred, ref / "a.nii.gz"))
    save(tmp_path / "other", "x.nii.gz", [1])
    with pytest.raises(UsageError, match="x against a, b"):
        evaluate((tmp_path / "other", ref))
    save(pred, "b.nii.gz", [1])
    with pytest.raises(UsageError, match=r"b\.nii and b\.nii\.gz are two files of one case"):
        evaluate(folders)


def test_importing_the_report_imports_no_torch_matplotlib_scipy_or_rich():
    heavy = "{'torch', 'matplotlib', 'scipy', 'rich'}"
    code = f"import sys, u2net3d.evaluate.report; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


METRICS = ("pixel", "rand", "warping")


def test_errors_of_objects_stand_beside_the_scores_where_they_are_asked_for(tmp_path):
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    save(ref, "a.nii.gz", [1, 1, 0, 1, 1])
    save(pred, "a.nii.gz", [1, 1, 1, 1, 1])
    report = evaluate((pred, ref), labels=LABELS[:2], metrics=METRICS)
    expected = {"pixel_error": 1 / 5, "rand_error": 1 / 3, "warping_error": 1 / 5}
    told = report.to_json()
    for row in (told["mean"], told["labels"]["front"], told["cases"]["a"]["front"]):
        assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert expected.keys() <= told["definitions"].keys()
    (line,) = csv.DictReader(io.StringIO(report.to_csv()))
    assert float(line["rand_error"]) == pytest.approx(1 / 3)
    assert [column.header for column in report.to_table().columns][6:9] == [
        "pixel error",
        "rand error",
        "warping error",
    ]
    assert "probabilities beside: 0 of 1 cases" in str(report.to_table().caption)
    plain = evaluate((pred, ref), labels=LABELS[:2])
    assert "rand_error" not in json.dumps(plain.to_json()) + plain.to_csv()


def test_an_error_that_is_not_0_does_not_look_like_it():
    from u2net3d.evaluate.table import _error

    assert [_error(value) for value in (0, 1e-6, 0.00975)] == ["0.00000", "<0.00001", "0.00975"]


def test_probabilities_beside_a_prediction_are_thresholded(tmp_path):
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    front = np.tile(np.array([0.9, 0.9, 0.5, 0.9, 0.9], np.float32)[:, None, None], (1, 2, 3))
    for folder, least in ((ref, 0.6), (pred, 0.4)):
        folder.mkdir()
        label = (front > least).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, SPACING), folder / "a.nii.gz")
    shares = np.stack([1 - front, front], -1)
    nib.save(nib.Nifti1Image(shares, SPACING), pred / "a.probabilities.nii.gz")
    report = evaluate((pred, ref), labels=LABELS[:2], metrics=METRICS)
    assert set(report.mean().errors.values()) == {0}
    assert report.to_json()["with_probabilities"] == ["a"]
    nib.save(nib.Nifti1Image(shares[:3], SPACING), pred / "a.probabilities.nii.gz")
    (failure,) = evaluate((pred, ref), labels=LABELS[:2], metrics=METRICS).failures
    assert failure.why.startswith("--pred a.probabilities.nii.gz: ")
