from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from u2net3d.errors import DataError
from u2net3d.io.dataset import find_dataset
from u2net3d.prep.fingerprint import SAMPLES_PER_CASE, fingerprint


def write(folder, case, image, label, spacing_mm=(1.0, 1.0, 1.0)):
    """Overwrites a case; arrays are (D, H, W) and stored as (I, J, K) in RAS."""
    affine = np.diag([*spacing_mm[::-1], 1.0])
    for sub, array in (
        ("imagesTr", image.astype(np.float32)),
        ("labelsTr", label.astype(np.uint8)),
    ):
        nib.save(nib.Nifti1Image(array.T, affine), folder / sub / f"{case}.nii.gz")


@pytest.fixture
def dataset(tmp_path, make_dataset):
    make_dataset(tmp_path, cases=["a", "b"], labels=("background", "left lung", "right lung"))
    return find_dataset(tmp_path, "liver")


def test_a_hand_made_case_gives_the_numbers_worked_out_by_hand(dataset):
    image = np.zeros((4, 5, 6))
    image[1:3, 1:4, 2:6] = 10
    image[1, 1, 2:6] = (1, 2, 3, 4)
    label = np.zeros((4, 5, 6))
    label[1, 1, 2:4] = 1
    label[1, 1, 4:6] = 2
    write(dataset.root, "a", image, label, (3.0, 2.0, 1.0))
    facts = fingerprint(dataset, [case for case in dataset.cases if case.name == "a"])
    (case,) = facts.cases
    assert (case.shape, case.spacing_mm) == ((2, 3, 4), (3.0, 2.0, 1.0))
    assert case.kept == pytest.approx(24 / 120)
    left, right = facts.labels
    assert (left.value, left.name, left.voxels, left.cases) == (1, "left lung", 2, 1)
    assert left.centroid == pytest.approx((1.5 / 4, 1.5 / 5, 3 / 6))
    assert right.centroid == pytest.approx((1.5 / 4, 1.5 / 5, 5 / 6))
    (channel,) = facts.intensities
    assert (channel.minimum, channel.maximum) == (1, 4)
    assert channel.mean == pytest.approx(2.5, abs=0.05)
    assert channel.std == pytest.approx(np.sqrt(1.25), abs=0.05)
    assert (channel.percentile_00_5, channel.percentile_99_5) == (1, 4)


def test_every_case_weighs_the_same_however_small_its_organ(dataset):
    image, label = np.ones((8, 8, 8)), np.zeros((8, 8, 8))
    label[0, 0, 0] = 1
    write(dataset.root, "a", image, label)
    write(dataset.root, "b", 3 * image, np.ones((8, 8, 8)))
    facts = fingerprint(dataset, dataset.cases)
    assert facts.intensities[0].mean == pytest.approx(2)
    assert facts.labels[0].voxels == 513
    assert facts.labels[1].cases == 0
    assert facts.labels[1].centroid is None


def test_a_fingerprint_is_the_same_every_time_and_in_json(dataset):
    facts = fingerprint(dataset, dataset.cases)
    assert facts == fingerprint(dataset, dataset.cases)
    assert facts == type(facts).model_validate_json(facts.model_dump_json())


def test_only_the_cases_given_are_read(dataset):
    (dataset.root / "imagesTr" / "b.nii.gz").write_bytes(b"not an image")
    facts = fingerprint(dataset, [case for case in dataset.cases if case.name == "a"])
    assert [case.name for case in facts.cases] == ["a"]


def test_ignored_voxels_are_no_foreground(dataset):
    image, label = np.full((4, 4, 4), 5.0), np.full((4, 4, 4), 3)
    image[0, 0, 0] = label[0, 0, 0] = 1
    write(dataset.root, "a", image, label)
    ignoring = replace(dataset, ignore_label=3)
    facts = fingerprint(ignoring, [case for case in dataset.cases if case.name == "a"])
    assert facts.intensities[0].maximum == 1


def test_no_foreground_at_all_is_one_clear_line(dataset):
    for name in ("a", "b"):
        write(dataset.root, name, np.ones((4, 4, 4)), np.zeros((4, 4, 4)))
    with pytest.raises(DataError) as caught:
        fingerprint(dataset, dataset.cases)
    assert str(caught.value).startswith("liver: none of the 2 training cases holds a voxel")
    assert "\n" not in str(caught.value)


def test_a_case_without_foreground_among_others_gives_no_intensities(dataset):
    write(dataset.root, "a", np.full((4, 4, 4), 9.0), np.zeros((4, 4, 4)))
    write(dataset.root, "b", np.full((4, 4, 4), 2.0), np.ones((4, 4, 4)))
    assert fingerprint(dataset, dataset.cases).intensities[0].maximum == 2


def test_progress_is_told_after_every_case(dataset):
    seen = []
    fingerprint(dataset, dataset.cases, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_the_sample_is_bounded_in_a_large_organ(dataset):
    assert SAMPLES_PER_CASE < 30**3
    image = np.arange(30**3).reshape(30, 30, 30) + 1.0
    write(dataset.root, "a", image, np.ones((30, 30, 30)))
    facts = fingerprint(dataset, [case for case in dataset.cases if case.name == "a"])
    assert facts.intensities[0].percentile_99_5 == pytest.approx(0.995 * 30**3, rel=0.01)
