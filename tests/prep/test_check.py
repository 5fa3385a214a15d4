"""Every fault of a data set at once, each with its file and its mend; a whole one has none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from u2net3d.io.dataset import find_dataset, split
from u2net3d.prep.cache import prepare_cases
from u2net3d.prep.check import cache_bytes, check
from u2net3d.prep.plan import domain_spec, spec_of

SHAPE = (12, 10, 8)
STAGES = 3


@pytest.fixture
def folder(make_dataset, tmp_path):
    """Four whole cases of one channel and one label."""
    return make_dataset(tmp_path, cases=4, shape=SHAPE)


@pytest.fixture
def raw(tmp_path):
    """Two cases of two channels in nnU-Net's layout."""
    root = tmp_path / "Dataset005_Prostate"
    rng = np.random.default_rng(0)
    for case in ("p_01", "p_02"):
        for channel in range(2):
            write(image(root, f"{case}_{channel:04d}"), rng.normal(size=SHAPE).astype(np.float32))
        write(label(root, case), blob())
    content = {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "gland": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def blob(value=1):
    array = np.zeros(SHAPE, np.int16)
    array[3:6, 3:6, 3:6] = value
    return array


def image(folder, name="liver_000"):
    return folder / "imagesTr" / f"{name}.nii.gz"


def label(folder, name="liver_000"):
    return folder / "labelsTr" / f"{name}.nii.gz"


def write(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(array, affine), path)


def edit(folder, **changes):
    path = folder / "dataset.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def findings(folder, kind):
    """`file: what` of every finding of a kind; each has a mend and is one line."""
    found = check("liver", folder).findings
    assert all(one.mend and "\n" not in str(one) for one in found)
    return [f"{Path(one.where).name}: {one.what}" for one in found if one.kind == kind]


def only_fault(folder):
    (found,) = findings(folder, "fault")
    return found


def test_a_whole_data_set_has_no_finding(folder, raw):
    counted = []
    checked = check("liver", folder, lambda done, total: counted.append((done, total)))
    assert checked.findings == ()
    assert counted == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert check("prostate", raw).findings == ()


def test_all_faults_of_all_files_are_found_at_once(folder):
    image(folder, "liver_000").write_bytes(b"no image")
    write(label(folder, "liver_001"), blob(value=7)[:, :, :-1])  # another shape, unknown value
    label(folder, "liver_002").unlink()
    write(image(folder, "liver_003"), np.zeros((*SHAPE, 2), np.int16))
    edit(folder, numTraining=9)
    found = findings(folder, "fault")
    wanted = [
        ("liver_002.nii.gz", "is missing"),
        ("dataset.json", "numTraining is 9, but there are 4"),
        ("liver_000.nii.gz", "its content is not NIfTI"),
        ("liver_001.nii.gz", "has 12×10×7 voxels, liver_001.nii.gz has 12×10×8"),
        ("liver_001.nii.gz", "holds the label value 7 (27 voxels)"),
        ("liver_003.nii.gz", "has 2 channels, expected 1 (CT)"),
    ]
    for name, what in wanted:
        assert any(name in line and what in line for line in found), (name, what, found)
    assert len(found) == len(wanted)


def test_a_file_of_broken_voxels_is_still_compared_by_its_header(folder):
    broken = np.full((*SHAPE[:2], 9), np.nan, np.float32)
    write(image(folder), np.stack([broken, broken], -1))
    found = findings(folder, "fault")
    assert any("NaN" in line or "finite" in line for line in found)
    assert any("has 2 channels" in line for line in found)
    assert any("has 12×10×8 voxels" in line for line in found)
    assert len(found) == 3


def test_nan_in_a_label_is_a_fault_and_a_few_in_an_image_a_warning(folder):
    array = blob().astype(np.float32)
    array[0, 0, 0] = np.nan
    write(label(folder), array)
    assert "liver_000.nii.gz: " in only_fault(folder)
    array = np.random.default_rng(0).normal(size=(30, 30, 30)).astype(np.float32)
    array[0, 0, 0] = np.nan
    write(image(folder), array)
    write(label(folder), np.pad(blob(), [(0, 30 - n) for n in SHAPE]))
    assert findings(folder, "fault") == []
    (warning,) = findings(folder, "warning")
    assert "1 voxel" in warning


def test_every_unknown_value_of_a_label_is_named(folder):
    array = blob()
    array[0, 0, :3], array[1, 0, 0] = 4, -2
    write(label(folder), array)
    assert "holds the label values -2 (1 voxel), 4 (3 voxels)" in only_fault(folder)


def test_channels_that_differ_from_each_other_are_each_named(raw):
    shifted = np.diag([1.0, 1.0, 2.0, 1.0])
    shifted[0, 3] = 5
    write(image(raw, "p_01_0001"), blob(), shifted)
    image(raw, "p_02_0000").write_bytes(b"")
    image(raw, "p_02_0001").write_bytes(gzip.compress(b"short"))
    found = findings(raw, "fault")
    assert "p_01_0001.nii.gz: lies up to 5 mm beside p_01_0000.nii.gz (the affines differ)" in found
    assert sum(line.startswith("p_02_0000.nii.gz") for line in found) == 1
    assert sum(line.startswith("p_02_0001.nii.gz") for line in found) == 1
    assert len(found) == 3


def test_a_case_without_foreground_is_a_warning_all_of_them_a_fault(folder):
    write(label(folder), np.zeros(SHAPE, np.uint8))
    assert findings(folder, "fault") == []
    assert findings(folder, "warning") == ["liver_000.nii.gz: holds no voxel of any label"]
    for name in ("liver_001", "liver_002", "liver_003"):
        write(label(folder, name), np.zeros(SHAPE, np.uint8))
    assert "none of the 4 training cases holds a voxel of any label" in only_fault(folder)


def test_voxels_to_ignore_are_no_foreground(folder):
    edit(folder, labels={"background": 0, "liver": 1, "ignore": 2})
    write(label(folder), blob(value=2))
    assert findings(folder, "warning") == ["liver_000.nii.gz: holds no voxel of any label"]


def test_a_label_that_no_case_holds_is_a_warning(folder):
    edit(folder, labels={"background": 0, "liver": 1, "tumour": 2})
    assert findings(folder, "fault") == []
    assert findings(folder, "warning") == ["Task03_Liver: no case holds tumour"]


def test_left_and_right_that_speak_against_the_headers_are_a_warning(folder):
    edit(folder, labels={"background": 0, "left kidney": 1, "right kidney": 2})
    for place in range(4):
        both = blob()
        both[3:6, 7:9, 3:6] = 2  # the second axis of the file: to the front
        write(label(folder, f"liver_{place:03d}"), both)
    assert findings(folder, "fault") == []
    assert findings(folder, "warning") == [
        "Task03_Liver: left kidney and right kidney lie apart from front to back by the headers"
    ]


def test_what_stands_in_the_place_of_a_file_is_told(folder):
    places = [image(folder, f"liver_00{i}") for i in range(3)]
    for path in places:
        path.unlink()
    places[1].mkdir()
    places[2].symlink_to("nowhere")
    assert findings(folder, "fault") == [
        "liver_000.nii.gz: is missing",
        "liver_001.nii.gz: is no file",
        "liver_002.nii.gz: is a link that leads to no file",
    ]


def test_a_name_that_holds_a_line_break_is_still_one_line(folder):
    training = json.loads((folder / "dataset.json").read_text())["training"]
    training[0]["image"] = "./imagesTr/a\n\x1b[31mred.nii.gz"
    edit(folder, training=training)
    (found,) = [one for one in check("liver", folder).findings if one.what == "is missing"]
    assert r"a\n\x1b[31mred.nii.gz: is missing" in str(found)
    assert str(found).isprintable()


def test_files_that_no_case_lists_are_faults(folder, raw):
    write(image(folder, "liver_900"), blob())
    write(folder / "imagesTr" / "liver_001.nii", blob())
    (folder / "imagesTr" / "._liver_901.nii.gz").write_bytes(b"of macOS")
    (folder / "imagesTr" / "notes.txt").write_text("of nobody")
    assert findings(folder, "fault") == [
        "liver_001.nii: is a second file of case liver_001",
        "liver_900.nii.gz: belongs to no case that dataset.json lists",
    ]
    write(label(raw, "p_07"), blob())
    write(raw / "labelsTr" / "p_01.nii", blob())
    assert findings(raw, "fault") == [
        "p_07_0000.nii.gz: is missing",
        "p_07_0001.nii.gz: is missing",
        "p_01.nii: is a second file of case p_01",
        "dataset.json: numTraining is 2, but there are 3 training cases",
    ]


def test_pairs_that_are_listed_twice_or_mixed_up_are_found(folder):
    training = json.loads((folder / "dataset.json").read_text())["training"]
    edit(folder, training=[*training, training[0]])
    assert only_fault(folder) == "dataset.json: lists case liver_000 twice"
    training[0]["label"] = training[1]["label"]
    edit(folder, training=training)
    found = findings(folder, "fault")
    assert "liver_001.nii.gz: is the label of both liver_000 and liver_001" in found
    assert "liver_000.nii.gz: is a second file of case liver_000" in found  # its own label
    training[1]["label"] = "./labelsTr/liver_000.nii.gz"
    edit(folder, training=training)
    assert findings(folder, "fault") == []
    mixed = "is the label of liver_000, but is named like another case"
    assert f"liver_001.nii.gz: {mixed}" in findings(folder, "warning")


def test_the_same_voxels_under_two_names_are_a_warning(folder):
    copy = nib.load(image(folder, "liver_001"))
    write(folder / "imagesTs" / "liver_900.nii.gz", np.asarray(copy.dataobj), np.eye(4))
    edit(folder, test=["./imagesTs/liver_900.nii.gz"])
    assert findings(folder, "fault") == []
    same = "liver_900.nii.gz: has the same voxels as liver_001.nii.gz"
    assert findings(folder, "warning") == [same]


def test_an_image_that_shows_nothing_is_a_warning(folder):
    write(image(folder), np.full(SHAPE, 5, np.int16))
    assert findings(folder, "warning") == ["liver_000.nii.gz: channel 0 is 5 everywhere"]


def test_a_split_is_held_against_the_cases_and_their_patients(make_dataset, tmp_path):
    names = ["p1_a", "p1_b", "p2_a", "p2_b", "q_x"]
    folder = make_dataset(tmp_path, cases=names, shape=SHAPE)
    folds = [
        {"train": ["p1_a", "p2_a"], "val": ["p1_b", "p2_b"]},
        {"train": ["p1_a", "p1_b", "gone"], "val": ["p1_a", "p2_b"]},
        {"train": [], "val": ["p1_a"]},
    ]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    assert [line.removeprefix("splits_final.json: ") for line in findings(folder, "fault")] == [
        "fold 0 has cases of one patient on both sides (p1, p2)",
        "fold 1 names case gone, which has no labelled image",
        "fold 1 has p1_a on both sides",
        "fold 2 trains on no case",
    ]
    assert findings(folder, "warning") == [
        "splits_final.json: leaves 1 cases out of every fold (q_x)"
    ]
    for content in ('{"train": 7}', "[]", "{}", "[7]", "7"):
        (folder / "splits_final.json").write_text(content)
        assert "is no list of folds" in only_fault(folder)


def test_a_broken_dataset_json_does_not_hide_the_rest(folder):
    edit(folder, labels={"0": "background", "2": "liver"}, modality={"1": "CT"})
    image(folder, "liver_003").write_bytes(b"no image")
    write(label(folder), blob()[:, :, 1:])
    found = findings(folder, "fault")
    assert [line.split(":")[0] for line in found] == [
        "dataset.json",
        "dataset.json",
        "liver_000.nii.gz",
        "liver_003.nii.gz",
    ]
    (folder / "dataset.json").write_text("[" * 100_000)
    assert "is not JSON" in only_fault(folder)
    (folder / "dataset.json").unlink()
    assert "holds no dataset.json" in only_fault(folder)


def test_only_cases_without_a_fault_are_counted_in_the_facts(folder):
    write(label(folder), blob(value=7))
    facts = check("liver", folder).facts
    assert [case.name for case in facts.cases] == ["liver_001", "liver_002", "liver_003"]


def test_the_plan_that_is_expected_is_the_one_that_training_makes(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, cases=6, shape=SHAPE)
    dataset = find_dataset(tmp_path, "liver")
    checked = check("liver", folder)
    trained = domain_spec(dataset, split(dataset, 0).training, STAGES)
    assert spec_of(dataset, checked.training, STAGES) == trained


def test_the_cache_takes_no_more_than_was_said_and_not_much_less(folder, tmp_path):
    dataset = find_dataset(tmp_path, "liver")
    checked = check("liver", folder)
    spec = spec_of(dataset, checked.training, STAGES)
    said = cache_bytes(checked.training, spec)
    prepare_cases(dataset, split(dataset, 0).training, spec.plan, tmp_path / "cache")
    taken = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.np?"))
    assert 0.8 * taken < said  # headers of the files are not counted
    places = 120_000 * len(split(dataset, 0).training)
    assert said - places < taken
