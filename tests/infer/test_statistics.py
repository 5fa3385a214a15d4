"""Volumes and intensities worked out by hand."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from u2net3d.errors import UsageError
from u2net3d.infer.statistics import label_statistics, require_table, write_statistics
from u2net3d.volume import Volume

LABELS = ("background", "liver", "tumour", "vessel")


@pytest.fixture
def rows():
    """liver: 3 voxels inside; tumour: 1 at the border; vessel: none. A voxel has 0.006 ml."""
    image = np.zeros((2, 4, 4, 4), np.float32)
    label = np.zeros((4, 4, 4), np.int16)
    label[1, 1, 1:3], label[2, 1, 1] = 1, 1
    image[0][label == 1] = 10, 20, 60  # mean 30, variance (400 + 100 + 900) / 3
    image[1][label == 1] = 7
    label[2, 3, 1], image[0, 2, 3, 1], image[1, 2, 3, 1] = 2, -5, 1.5
    return label_statistics(Volume(image, np.diag([1.0, 2.0, 3.0, 1.0])), label, LABELS)


def test_voxels_millilitres_intensity_and_border(rows):
    liver, tumour, vessel = rows
    assert (liver.label, liver.voxels, liver.touches_border) == ("liver", 3, False)
    assert liver.millilitres == pytest.approx(0.018)
    assert liver.mean == pytest.approx((30, 7))
    assert liver.std == pytest.approx(((1400 / 3) ** 0.5, 0))
    assert (tumour.voxels, tumour.touches_border, tumour.mean) == (1, True, (-5, 1.5))
    assert (vessel.voxels, vessel.millilitres, vessel.touches_border) == (0, 0, False)
    assert (vessel.mean, vessel.std) == ((None, None), (None, None))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("place", [0, -1])
def test_each_of_the_six_outermost_slices_is_the_border(axis, place):
    label = np.zeros((5, 5, 5), np.uint8)
    label[2, 2, 2] = 1
    assert not _only(label).touches_border
    at = [2, 2, 2]
    at[axis] = place
    label[tuple(at)] = 1
    assert _only(label).touches_border


def test_the_volume_of_a_sheared_voxel_is_that_of_its_affine():
    label = np.ones((1, 1, 1), np.uint8)
    affine = np.array([[2.0, 1.0, 0, 0], [0, 2.0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]])
    image = Volume(np.zeros((1, 1, 1, 1), np.float32), affine)
    assert label_statistics(image, label, LABELS[:2])[0].millilitres == pytest.approx(0.02)


def test_large_values_lose_no_digits():
    image = np.full((1, 60, 60, 60), 30000.0, np.float32)
    image[0, 0, 0, 0] = 30001
    (row,) = label_statistics(Volume(image, np.eye(4)), np.ones((60,) * 3, np.uint8), LABELS[:2])
    assert row.mean[0] == pytest.approx(30000 + 1 / 216000, abs=1e-9)


def test_json_and_csv_say_the_same_in_the_order_of_the_cases(tmp_path, model, rows):
    spec = model.spec("prostate").model_copy(update={"labels": LABELS})
    for end in ("json", "csv"):
        write_statistics(tmp_path / f"s.{end}", spec, {"b, c": rows, "a": rows}, ["z", "d"])
    said = json.loads((tmp_path / "s.json").read_text())
    assert list(said["cases"]) == ["a", "b, c"]
    assert said["failed"] == ["d", "z"]
    assert said["labels"] == list(LABELS[1:])
    assert said["cases"]["a"]["vessel"]["intensity"]["channel 1"] == {"mean": None, "std": None}
    table = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert [(row["case"], row["label"]) for row in table[:4]] == [
        ("a", "liver"), ("a", "tumour"), ("a", "vessel"), ("b, c", "liver"),
    ]  # fmt: skip
    entry = said["cases"]["a"]["liver"]
    assert int(table[0]["voxels"]) == entry["voxels"] == 3
    assert float(table[0]["millilitres"]) == entry["millilitres"]
    assert float(table[0]["std channel 0"]) == entry["intensity"]["channel 0"]["std"]
    assert (table[0]["touches_border"], table[1]["touches_border"]) == ("false", "true")
    assert table[2]["mean channel 0"] == ""


def test_a_table_of_another_format_or_a_folder_is_refused(tmp_path):
    for path, what in ((tmp_path, "is a folder"), (tmp_path / "a.xlsx", r"no \.json and no \.csv")):
        with pytest.raises(UsageError, match=what):
            require_table(path, "--statistics")


def _only(label):
    image = Volume(np.zeros((1, *label.shape), np.float32), np.eye(4))
    return label_statistics(image, label, LABELS[:2])[0]
