"""The demo's test cases are never in its training set, and it empties only folders of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from u2net3d.io.dataset import find_dataset

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_a_fifth_of_the_patients_leaves_the_training_set(make_dataset, tmp_path):
    from test_cases import hold_out

    names = [f"patient{n:03d}_frame{f:02d}" for n in range(10) for f in (1, 2)]
    make_dataset(tmp_path / "data", "Task22_CardiacCine", cases=names)
    folder = hold_out(tmp_path / "data", "cardiaccine", tmp_path / "view")
    kept = {case.name for case in find_dataset(tmp_path / "view", "cardiaccine").cases}
    tests = {path.name.removesuffix(".nii.gz") for path in (folder / "imagesTs").iterdir()}
    assert len(tests) == 4  # both frames of two of ten patients
    assert kept | tests == set(names)
    assert not {name[:10] for name in kept} & {name[:10] for name in tests}
    assert {path.name for path in (folder / "labelsTs").iterdir()} == {f"{n}.nii.gz" for n in tests}
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 16


def test_test_cases_with_labels_are_taken_as_they_are():
    data = SCRIPTS.parent / "data"
    dataset = find_dataset(data, "liver")
    assert len(dataset.cases) == 12
    assert not {case.name for case in dataset.cases} & {
        path.name.removesuffix(".nii.gz") for path in (data / "Task03_Liver/labelsTs").iterdir()
    }


def test_a_folder_that_no_demo_made_is_not_emptied(tmp_path):
    from demo import empty

    out = tmp_path / "out"
    empty(out)
    (out / "old.txt").write_text("of an earlier demo")
    empty(out)
    assert [path.name for path in out.iterdir()] == ["made-by-the-demo"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="holds files that no demo made"):
        empty(mine)
    assert (mine / "thesis.txt").exists()


def test_labels_that_differ_in_one_byte_are_seen_and_records_of_time_do_not_count(tmp_path):
    from demo import same_labels

    for name, content, seconds in (("a", b"1", "0.1"), ("b", b"1", "0.2"), ("c", b"2", "0.1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.nii.gz").write_bytes(content)
        (tmp_path / name / "x.json").write_text(seconds)  # written beside each label by predict
    assert same_labels(tmp_path / "a", tmp_path / "b")
    assert not same_labels(tmp_path / "a", tmp_path / "c")
    (tmp_path / "b" / "y.nii.gz").write_bytes(b"")
    assert not same_labels(tmp_path / "a", tmp_path / "b")


def test_real_sets_that_are_there_are_not_fetched_again(make_dataset, tmp_path, monkeypatch):
    import demo

    asked = []

    def fetch(*words):
        asked.append(words)
        make_dataset(tmp_path, "Task05_Prostate", cases=1)

    monkeypatch.setattr(demo, "u2net3d", fetch)
    make_dataset(tmp_path, "Task04_Hippocampus", cases=1)
    assert demo.fetched(tmp_path) == demo.fetched(tmp_path) == tmp_path
    assert asked == [("download", "prostate", "--data", str(tmp_path))]


def test_without_a_network_the_way_on_is_said(tmp_path, monkeypatch):
    import demo

    monkeypatch.setattr(demo, "u2net3d", lambda *_: sys.exit(1))
    with pytest.raises(SystemExit, match=r"could not be fetched.*unpack its archive.*phantoms"):
        demo.fetched(tmp_path)
