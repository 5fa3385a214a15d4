"""Data sets as they are: MSD and nnU-Net v2 raw; every fault one line with its mend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from u2net3d.errors import DataError, UsageError
from u2net3d.io.dataset import find_dataset, find_datasets, list_domains, read_case, split

SHAPE = (6, 5, 4)


def edit(folder: Path, **changes) -> None:
    """Changes keys of dataset.json; None removes one."""
    path = folder / "dataset.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def save(path: Path, array, affine=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def nnunet(root: Path, name="Dataset005_Prostate", cases=("p_01", "p_02"), **changes) -> Path:
    """A two-channel data set in nnU-Net v2 raw layout."""
    folder = root / name
    for case in cases:
        for channel in range(2):
            image = np.full(SHAPE, 10 * (channel + 1), np.int16)
            save(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz", image)
        label = np.zeros(SHAPE, np.uint8)
        label[1:3, 1:3, 1:3], label[4] = 1, 2
        save(folder / "labelsTr" / f"{case}.nii.gz", label)
    content = {
        "channel_names": {"1": "ADC", "0": "T2"},
        "labels": {"background": 0, "gland": 1, "ignore": 2},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content | changes))
    return folder


def read_everything(root: Path, text: str) -> None:
    dataset = find_dataset(root, text)
    for case in dataset.cases:
        read_case(dataset, case)


def refusal(root: Path, text: str = "liver") -> str:
    """The one line with which a data set, or a case of it, is refused as bad data."""
    with pytest.raises(DataError) as error:
        read_everything(root, text)
    assert "\n" not in str(error.value)
    assert error.value.mend
    return str(error.value)


def test_an_msd_folder_is_read_as_it_is(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, labels=("background", "liver", "cancer"), cases=3)
    dataset = find_dataset(tmp_path, "liver")
    assert dataset.domain == "liver"
    assert dataset.channels == ("CT",)
    assert dataset.labels == ("background", "liver", "cancer")
    assert dataset.ignore_label is None
    assert [case.name for case in dataset.cases] == ["liver_000", "liver_001", "liver_002"]
    assert dataset.cases[0].images == (folder / "imagesTr" / "liver_000.nii.gz",)
    loaded = read_case(dataset, dataset.cases[0])
    assert loaded.image.array.shape == loaded.label.array.shape == (1, 16, 20, 24)
    assert loaded.image.array.dtype == np.float32
    assert loaded.label.array.dtype == np.int16
    assert np.unique(loaded.label.array).tolist() == [0, 1, 2]
    assert loaded.source.stored_shape == (24, 20, 16)


@pytest.mark.parametrize(
    ("said", "facts"),
    [
        ({}, {"name": "Liver"}),
        (
            {
                "licence": "CC0-1.0",
                "reference": "A et al.,\n 2020 ",
                "release": 1.0,
                "description": "x",
            },
            {
                "name": "Liver",
                "licence": "CC0-1.0",
                "reference": "A et al., 2020",
                "release": "1.0",
            },
        ),
        ({"license": "MIT", "licence": ""}, {"name": "Liver", "licence": "MIT"}),
        ({"name": " ", "release": True, "licence": ["MIT"], "reference": {"a": 1}}, {}),
        ({"reference": "a" * 1000}, {"name": "Liver", "reference": "a" * 300}),
    ],
)
def test_facts_are_those_that_dataset_json_states_in_words(said, facts, make_dataset, tmp_path):
    path = make_dataset(tmp_path) / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    assert find_dataset(tmp_path, "liver").facts == facts


def test_the_channels_of_a_4d_msd_file_come_in_order(make_dataset, tmp_path):
    make_dataset(tmp_path, "Task05_Prostate", cases=1, channels=("T2", "ADC"))
    dataset = find_dataset(tmp_path, "prostate")
    assert dataset.channels == ("T2", "ADC")
    assert read_case(dataset, dataset.cases[0]).image.array.shape == (2, 16, 20, 24)


def test_an_nnunet_folder_is_read_as_it_is(tmp_path):
    folder = nnunet(tmp_path)
    save(folder / "imagesTs" / "p_09_0000.nii.gz", np.zeros(SHAPE, np.int16))
    save(folder / "imagesTs" / "p_09_0001.nii.gz", np.zeros(SHAPE, np.int16))
    dataset = find_dataset(tmp_path, "prostate")
    assert dataset.channels == ("T2", "ADC")  # in order of their number
    assert dataset.labels == ("background", "gland")
    assert dataset.ignore_label == 2
    assert [case.name for case in dataset.cases] == ["p_01", "p_02"]
    assert [case.name for case in dataset.unlabelled] == ["p_09"]
    assert dataset.unlabelled[0].label is None
    loaded = read_case(dataset, dataset.cases[0])
    assert loaded.image.array[:, 0, 0, 0].tolist() == [10, 20]
    assert np.unique(loaded.label.array).tolist() == [0, 1, 2]  # ignore is kept


def test_files_that_macos_left_behind_are_no_cases(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, cases=1)
    entry = {"image": "./imagesTr/._liver_000.nii.gz", "label": "./labelsTr/._liver_000.nii.gz"}
    content = json.loads((folder / "dataset.json").read_text())
    edit(folder, training=[*content["training"], entry], test=["./imagesTs/._x.nii.gz"])
    (tmp_path / "._Task03_Liver").mkdir()
    raw = nnunet(tmp_path)
    for sub, name in (("imagesTr", "._p_01_0000"), ("labelsTr", "._p_01"), ("imagesTr", ".DS")):
        (raw / sub / f"{name}.nii.gz").write_bytes(b"junk")
    liver, prostate = find_datasets(tmp_path, ["liver", "prostate"])
    assert [case.name for case in liver.cases] == ["liver_000"]
    assert liver.unlabelled == ()
    assert [case.name for case in prostate.cases] == ["p_01", "p_02"]


def test_test_cases_are_those_that_are_there(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, cases=1)
    save(folder / "imagesTs" / "liver_900.nii.gz", np.zeros(SHAPE, np.uint8))
    edit(folder, test=["./imagesTs/liver_900.nii.gz", "./imagesTs/liver_901.nii.gz"])
    dataset = find_dataset(tmp_path, "liver")
    assert [case.name for case in dataset.unlabelled] == ["liver_900"]


@pytest.mark.parametrize("text", ["liver", "Liver", "Task03_Liver", "LIVER ", "li-ver"])
def test_a_domain_is_found_however_its_name_is_written(text, make_dataset, tmp_path):
    folder = make_dataset(tmp_path, cases=1)
    assert find_dataset(tmp_path, text).root == folder
    assert find_dataset(tmp_path, text).domain == "liver"


def test_a_domain_is_found_by_the_name_in_its_dataset_json(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, "Task02_Heart", cases=1)
    edit(folder, name="Left Atrium")
    dataset = find_dataset(tmp_path, "leftatrium")
    assert dataset.root == folder
    assert dataset.domain == "leftatrium"  # what the user calls it
    own = make_dataset(tmp_path, "Task21_LeftAtrium", cases=1)
    assert find_dataset(tmp_path, "leftatrium").root == own  # a folder's own name goes first


def test_name_equals_path_names_the_folder_outright(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "elsewhere", "anything", cases=1)
    dataset = find_dataset(tmp_path / "none", f"liver={folder}")
    assert (dataset.domain, dataset.root) == ("liver", folder)


def test_the_domains_of_a_folder_are_listed_by_name(make_dataset, tmp_path):
    make_dataset(tmp_path, cases=1)
    make_dataset(tmp_path, "Dataset002_Heart", cases=1)
    (tmp_path / "Task09_Empty").mkdir()
    (tmp_path / "all").mkdir()  # a reserved word
    (tmp_path / "README.md").write_text("")
    assert list_domains(tmp_path) == ("heart", "liver")


def test_an_unknown_domain_is_refused_with_the_nearest_and_those_there_are(make_dataset, tmp_path):
    make_dataset(tmp_path, cases=1)
    make_dataset(tmp_path, "Task02_Heart", cases=1)
    with pytest.raises(UsageError, match=r"there: heart, liver.*did you mean 'liver'") as error:
        find_dataset(tmp_path, "livr")
    assert error.value.exit_code == 2


def test_two_folders_of_one_name_are_refused_with_the_way_to_say_which(make_dataset, tmp_path):
    make_dataset(tmp_path, "Task03_Liver", cases=1)
    make_dataset(tmp_path, "Dataset003_Liver", cases=1)
    with pytest.raises(UsageError, match=r"Dataset003_Liver and Task03_Liver.*liver="):
        find_dataset(tmp_path, "liver")


def test_a_missing_or_empty_data_root_is_refused_by_its_option(make_dataset, tmp_path):
    (tmp_path / "empty").mkdir()
    folder = make_dataset(tmp_path / "root", cases=1)
    for root, what in (
        (tmp_path / "none", "does not exist"),
        (folder / "dataset.json", "is no folder"),
        (tmp_path / "empty", "holds no data set"),
        (folder, "is itself a data set"),
    ):
        with pytest.raises(UsageError, match=what) as error:
            find_dataset(root, "liver")
        assert error.value.where == "--data"


@pytest.mark.parametrize("text", ["all", "", "liver=", "liver=nowhere", "mean=x"])
def test_a_name_or_path_that_cannot_be_is_refused(text, make_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path, cases=1)
    with pytest.raises(UsageError):
        find_dataset(tmp_path, text)


def test_a_domain_named_twice_is_refused(make_dataset, tmp_path):
    make_dataset(tmp_path, cases=1)
    with pytest.raises(UsageError, match="'liver' is named twice"):
        find_datasets(tmp_path, ["liver", "Task03_Liver"])


def test_a_folder_without_dataset_json_is_refused(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, cases=1)
    (folder / "dataset.json").unlink()
    assert "holds no dataset.json" in refusal(tmp_path)
    assert "holds no dataset.json" in refusal(tmp_path, f"liver={folder}")


@pytest.mark.parametrize("content", ["{", "[]", "7", '"text"', "\xff"])
def test_a_dataset_json_that_is_no_object_is_refused(content, make_dataset, tmp_path):
    folder = make_dataset(tmp_path, cases=1)
    (folder / "dataset.json").write_bytes(content.encode("latin-1"))
    assert "dataset.json: is no" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"labels": {"0": "background", "2": "liver"}}, "0, 2, not consecutive"),
        ({"labels": {"1": "liver", "2": "cancer"}}, "1, 2, not consecutive"),
        ({"labels": {"background": 0, "liver": 1, "cancer": 3}}, "0, 1, 3, not consecutive"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "overlapping region"),
        ({"labels": {"background": 0, "ignore": 1, "liver": 2}}, "0, 2, not consecutive"),
        ({"labels": {"ignore": 0}}, "no label beside the background"),
        ({"labels": {"background": 0, "liver": 1, "cancer": 1}}, "two labels one value"),
        ({"labels": {"0": "background", "1": "liver", "2": "liver"}}, "names a label twice"),
        ({"labels": {"0": "background"}}, "no label beside the background"),
        ({"labels": {"background": 0, "liver": "one"}}, "value is no number"),
        ({"labels": {"background": 0, "liver": None}}, "value is no number"),
        ({"labels": None}, "names no labels"),
        ({"labels": ["background", "liver"]}, "names no labels"),
        ({"modality": None}, "names no channels"),
        ({"modality": "CT"}, "names no channels"),
        ({"modality": {"1": "CT"}}, "modality counts 1"),
        ({"modality": {"CT": "0"}}, "no numbers"),
        ({"training": []}, "lists no case to learn from"),
        ({"training": None}, "lists no cases"),
        ({"training": [{"image": "./imagesTr/a.nii.gz"}]}, "lacks image or label"),
        ({"training": ["./imagesTr/a.nii.gz"]}, "lacks image or label"),
        ({"file_ending": ".png"}, "file_ending .png"),
    ],
)
def test_a_faulty_dataset_json_is_refused(changes, what, make_dataset, tmp_path):
    edit(make_dataset(tmp_path, cases=1), **changes)
    line = refusal(tmp_path)
    assert what in line
    assert "dataset.json" in line


def test_an_ignore_label_may_stand_apart_but_never_below(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, cases=1)
    edit(folder, labels={"background": 0, "liver": 1, "ignore": 255})
    assert find_dataset(tmp_path, "liver").ignore_label == 255
    edit(folder, labels={"background": 1, "liver": 2, "ignore": 0})
    assert "not consecutive from 0" in refusal(tmp_path)


def test_a_case_listed_twice_is_refused(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, cases=1)
    training = json.loads((folder / "dataset.json").read_text())["training"]
    edit(folder, training=training * 2)
    assert "lists case liver_000 twice" in refusal(tmp_path)


def test_missing_files_are_counted_and_the_first_is_named(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, cases=3)
    (folder / "labelsTr" / "liver_001.nii.gz").unlink()
    assert "labelsTr/liver_001.nii.gz: is missing —" in refusal(tmp_path)
    (folder / "imagesTr" / "liver_000.nii.gz").unlink()
    assert "imagesTr/liver_000.nii.gz: is missing (and 1 more)" in refusal(tmp_path)


def test_faulty_nnunet_folders_are_refused(tmp_path):
    folder = nnunet(tmp_path)
    (folder / "labelsTr" / "p_01.nii.gz").unlink()
    assert "labelsTr/p_01.nii.gz: is missing" in refusal(tmp_path, "prostate")
    for channel in range(2):
        (folder / "imagesTr" / f"p_01_{channel:04d}.nii.gz").unlink()
    assert len(find_dataset(tmp_path, "prostate").cases) == 1
    (folder / "imagesTr" / "p_02_0001.nii.gz").rename(folder / "imagesTr" / "p_02_0002.nii.gz")
    assert "case p_02 has the channels 0000, 0002" in refusal(tmp_path, "prostate")
    (folder / "imagesTr" / "p_02_0002.nii.gz").rename(folder / "imagesTr" / "plain.nii.gz")
    assert "plain.nii.gz: has no channel number" in refusal(tmp_path, "prostate")
    shutil.rmtree(folder / "imagesTr")
    assert "imagesTr/p_02_0000.nii.gz: is missing (and 1 more)" in refusal(tmp_path, "prostate")


def test_a_wrong_number_of_channels_is_refused(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, cases=1)
    edit(folder, modality={"0": "T2", "1": "ADC"})
    assert "has 1 channel, expected 2 (T2, ADC)" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("shape", "shift_mm", "what"),
    [
        ((24, 20, 15), 0.0, "has 24×20×15 voxels, liver_000.nii.gz has 24×20×16"),
        ((24, 20, 16), 0.3, "lies up to 0.3 mm beside liver_000.nii.gz"),
    ],
)
def test_an_image_and_a_label_that_differ_in_shape_or_affine_are_refused(
    shape, shift_mm, what, make_dataset, tmp_path
):
    label = make_dataset(tmp_path, cases=1) / "labelsTr" / "liver_000.nii.gz"
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 3] = shift_mm
    save(label, np.zeros(shape, np.uint8), affine)
    line = refusal(tmp_path)
    assert line.startswith(str(label))
    assert what in line


@pytest.mark.parametrize("value", [2, 7, -1])
def test_a_label_value_outside_dataset_json_is_refused(value, make_dataset, tmp_path):
    label = make_dataset(tmp_path, cases=1) / "labelsTr" / "liver_000.nii.gz"
    array = np.zeros((24, 20, 16), np.int16)
    array[0, 0, :3] = value
    save(label, array, np.diag([1.0, 1.0, 2.0, 1.0]))
    line = refusal(tmp_path)
    assert f"{label}: holds the label value {value} (3 voxels)" in line
    assert "dataset.json knows 0, 1" in line


@pytest.mark.real
def test_every_real_case_can_be_read(real_data):
    for domain in list_domains(real_data):
        dataset = find_dataset(real_data, domain)
        for case in split(dataset, "all").training[:3]:
            loaded = read_case(dataset, case)
            assert loaded.image.shape == loaded.label.shape
            assert loaded.image.array.shape[0] == len(dataset.channels)


@pytest.mark.real
def test_real_labels_of_whole_floats_are_read(real_data):
    if "hippocampus" not in list_domains(real_data):
        pytest.skip("needs Task04_Hippocampus of the Medical Segmentation Decathlon")
    dataset = find_dataset(real_data, "hippocampus")
    floats = [case for case in dataset.cases if case.name in ("hippocampus_003", "hippocampus_243")]
    for case in floats:
        assert set(np.unique(read_case(dataset, case).label.array)) == {0, 1, 2}
