"""Splits: no patient on both sides, even folds, the data set's own where it has one."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from u2net3d.errors import DataError, UsageError
from u2net3d.io.dataset import Case, Dataset, find_dataset, split
from u2net3d.io.listing import patients


def dataset_of(names, root=Path("nowhere")) -> Dataset:
    patient = patients(list(names))
    cases = tuple(Case(n, (Path(f"{n}.nii.gz"),), Path(f"{n}.nii"), patient[n]) for n in names)
    return Dataset(root, "heart", ("MRI",), ("background", "atrium"), None, cases, ())


def names(cases) -> list[str]:
    return [case.name for case in cases]


def test_frames_of_one_patient_share_it():
    assert patients(["patient001_frame01", "patient001_frame02", "patient002_frame01"]) == {
        "patient001_frame01": "patient001",
        "patient001_frame02": "patient001",
        "patient002_frame01": "patient002_frame01",  # alone, so a patient of its own
    }


def test_cases_numbered_under_one_word_are_patients_of_their_own():
    assert patients(["la_000", "la_001"]) == {"la_000": "la_000", "la_001": "la_001"}
    eleven = [f"site1_{i:02d}" for i in range(11)]  # too many to be one patient
    assert patients(eleven) == {name: name for name in eleven}
    assert set(patients(eleven[:10]).values()) == {"site1"}


def test_folds_are_even_disjoint_and_cover_everything():
    dataset = dataset_of([f"la_{i:03d}" for i in range(13)])
    folds = [split(dataset, fold) for fold in range(5)]
    assert [len(fold.validation) for fold in folds] == [3, 3, 3, 2, 2]
    assert sorted(n for fold in folds for n in names(fold.validation)) == names(dataset.cases)
    for fold in folds:
        assert sorted(names(fold.training) + names(fold.validation)) == names(dataset.cases)


def test_the_folds_follow_the_hash_of_the_names_and_never_the_order_of_the_list():
    dataset = dataset_of([f"la_{i:03d}" for i in range(10)])
    by_hash = sorted(names(dataset.cases), key=lambda n: hashlib.sha256(n.encode()).hexdigest())
    assert sorted(names(split(dataset, 2).validation)) == sorted([by_hash[2], by_hash[7]])
    turned = dataset_of(names(dataset.cases)[::-1])
    assert set(names(split(turned, 2).validation)) == {by_hash[2], by_hash[7]}


def test_no_patient_is_on_both_sides():
    dataset = dataset_of([f"patient{i:03d}_frame0{f}" for i in range(12) for f in (1, 2)])
    for fold in range(5):
        parts = split(dataset, fold)
        held = {case.patient for case in parts.validation}
        assert held.isdisjoint(case.patient for case in parts.training)
        assert len(parts.validation) == 2 * len(held)


def test_fold_all_trains_on_everything_and_judges_by_nothing():
    dataset = dataset_of(["a_1", "b_1"])
    assert split(dataset, "all").training == dataset.cases
    assert split(dataset, "all").validation == ()


@pytest.mark.parametrize(
    ("cases", "fold", "mend"),
    [(10, 5, "0 to 4"), (10, -1, "0 to 4"), (1, 0, "use --fold all"), (3, 4, "fold below 3")],
)
def test_a_fold_that_is_not_there_is_refused_with_those_that_are(cases, fold, mend):
    with pytest.raises(UsageError, match=mend) as error:
        split(dataset_of([f"la_{i}" for i in range(cases)]), fold)
    assert error.value.where == "--fold"


def test_the_split_file_of_a_data_set_goes_first(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, cases=["a", "b", "c", "d"])
    folds = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["d"], "val": ["a"]}]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    dataset = find_dataset(tmp_path, "liver")
    assert names(split(dataset, 0).training) == ["a", "b"]
    assert names(split(dataset, 1).validation) == ["a"]
    assert len(split(dataset, "all").training) == 4
    with pytest.raises(UsageError, match="0 to 1"):
        split(dataset, 2)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([{"train": ["a"], "val": ["x"]}], "names case x"),
        ([{"train": ["a"], "val": ["a"]}], "has a on both sides"),
        ([{"train": [], "val": ["a"]}], "trains on no case"),
        ([{"train": ["a"]}], "no list of folds"),
        ({"train": ["a"]}, "no list of folds"),
        (7, "no list of folds"),
    ],
)
def test_a_broken_split_file_is_refused(content, what, tmp_path):
    (tmp_path / "splits_final.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=what):
        split(dataset_of(["a", "b"], tmp_path), 0)


def test_names_in_no_known_encoding_are_split_like_others():
    cases = tuple(Case(name, (), None, name) for name in map(os.fsdecode, (b"m\xfc", b"k\xf6")))
    dataset = Dataset(Path("data"), "liver", ("CT",), ("background", "liver"), None, cases, ())
    sides = split(dataset, 0)
    assert {*sides.training, *sides.validation} == {*cases}
