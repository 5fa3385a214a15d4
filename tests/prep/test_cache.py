import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from u2net3d.io.dataset import Case, Dataset, find_dataset
from u2net3d.prep import cache as cache_module
from u2net3d.prep.cache import default_cache, prepare_cases
from u2net3d.prep.plan import domain_spec


@pytest.fixture
def dataset(tmp_path, make_dataset):
    make_dataset(tmp_path / "data", cases=2, labels=("background", "liver", "tumour"))
    return find_dataset(tmp_path / "data", "liver")


@pytest.fixture
def plan(dataset):
    return domain_spec(dataset, dataset.cases, 6).plan


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def prepared(monkeypatch):
    """Names of the cases that were prepared anew, as they come."""
    names = []
    real = cache_module._prepare

    def recorded(dataset, case, plan):
        names.append(case.name)
        return real(dataset, case, plan)

    monkeypatch.setattr(cache_module, "_prepare", recorded)
    return names


def same(one, other):
    return (
        one.name == other.name
        and np.array_equal(one.image, other.image)
        and np.array_equal(one.label, other.label)
        and one.foreground.keys() == other.foreground.keys()
        and all(np.array_equal(one.foreground[v], other.foreground[v]) for v in one.foreground)
    )


def test_a_second_run_prepares_nothing_and_gives_the_same(dataset, plan, cache, prepared):
    first = prepare_cases(dataset, dataset.cases, plan, cache)
    second = prepare_cases(dataset, dataset.cases, plan, cache)
    assert len(prepared) == 2
    assert all(map(same, first, second))
    assert all(map(same, first, prepare_cases(dataset, dataset.cases, plan, None)))


def test_a_prepared_case_has_the_types_that_training_reads(dataset, plan, cache):
    case = prepare_cases(dataset, dataset.cases, plan, cache)[0]
    assert isinstance(case.image, np.memmap)
    assert not case.image.flags.writeable
    assert (case.image.dtype, case.label.dtype) == (np.float32, np.int16)
    assert case.image.shape == (1, *case.label.shape)
    assert set(case.foreground) == {1, 2}
    for value, positions in case.foreground.items():
        assert positions.dtype == np.int32
        assert (case.label[tuple(positions.T)] == value).all()
        assert len(positions) == (case.label == value).sum()


def test_a_large_organ_keeps_a_bounded_number_of_positions(dataset, plan, monkeypatch):
    monkeypatch.setattr(cache_module, "MAX_POSITIONS", 7)
    case = prepare_cases(dataset, dataset.cases, plan, None)[0]
    again = prepare_cases(dataset, dataset.cases, plan, None)[0]
    assert case.foreground[1].shape == (7, 3)
    assert len(np.unique(case.foreground[1], axis=0)) == 7
    assert same(case, again)


def test_a_changed_source_file_is_noticed_even_with_size_and_time_kept(
    dataset, plan, cache, prepared
):
    prepare_cases(dataset, dataset.cases, plan, cache)
    image, label = dataset.cases[0].images[0], dataset.cases[0].label
    for path, other in ((image, dataset.cases[1].images[0]), (label, dataset.cases[1].label)):
        times = path.stat()
        shutil.copyfile(other, path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        prepare_cases(dataset, dataset.cases, plan, cache)
    assert prepared == [dataset.cases[0].name, dataset.cases[1].name] + [dataset.cases[0].name] * 2


def test_a_changed_plan_version_or_ignore_label_is_noticed(
    dataset, plan, cache, prepared, monkeypatch
):
    prepare_cases(dataset, dataset.cases, plan, cache)
    finer = plan.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)})
    fresh = prepare_cases(dataset, dataset.cases, finer, cache)
    assert len(prepared) == 4
    assert fresh[0].label.shape == (32, 20, 24)
    prepare_cases(replace(dataset, ignore_label=3), dataset.cases, plan, cache)
    assert len(prepared) == 6
    monkeypatch.setattr(cache_module, "VERSION", -1)
    prepare_cases(dataset, dataset.cases, plan, cache)
    assert len(prepared) == 8


def test_a_batch_size_does_not_change_the_voxels_and_hence_not_the_entry(
    dataset, plan, cache, prepared
):
    prepare_cases(dataset, dataset.cases, plan, cache)
    prepare_cases(dataset, dataset.cases, plan.model_copy(update={"batch_size": 7}), cache)
    assert len(prepared) == 2


def flip_a_bit(entry):
    content = bytearray((entry / "image.npy").read_bytes())
    content[-1] ^= 1
    (entry / "image.npy").write_bytes(content)


def cut_short(entry):
    content = (entry / "label.npy").read_bytes()
    (entry / "label.npy").write_bytes(content[: len(content) // 2])


def lose_a_file(entry):
    (entry / "foreground.npz").unlink()


def lose_meta(entry):
    (entry / "meta.json").unlink()


def spoil_meta(entry):
    (entry / "meta.json").write_text("[1, 2")


def other_meta(entry):
    (entry / "meta.json").write_text(json.dumps([1]))


@pytest.mark.parametrize(
    "harm", [flip_a_bit, cut_short, lose_a_file, lose_meta, spoil_meta, other_meta]
)
def test_a_harmed_entry_is_made_again(dataset, plan, cache, prepared, harm):
    whole = prepare_cases(dataset, dataset.cases, plan, None)
    prepare_cases(dataset, dataset.cases, plan, cache)
    for entry in cache.iterdir():
        harm(entry)
    prepared.clear()
    mended = prepare_cases(dataset, dataset.cases, plan, cache)
    assert len(prepared) == 2
    assert all(map(same, whole, mended))
    assert all(isinstance(case.image, np.memmap) for case in mended)


def test_a_cache_that_cannot_be_written_means_in_memory(dataset, plan, tmp_path, prepared):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    cases = prepare_cases(dataset, dataset.cases, plan, blocked / "cache")
    assert len(cases) == len(prepared) == 2
    assert not isinstance(cases[0].image, np.memmap)


def test_a_disk_that_fills_up_leaves_no_entry_behind(dataset, plan, cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module.np, "savez", full)
    assert len(prepare_cases(dataset, dataset.cases, plan, cache)) == 2
    assert list(cache.iterdir()) == []


def test_the_ignore_label_becomes_minus_1(dataset, plan):
    case = prepare_cases(replace(dataset, ignore_label=2), dataset.cases, plan, None)[0]
    assert set(np.unique(case.label)) == {-1, 0, 1}
    assert set(case.foreground) == {1}


def test_progress_is_told_after_every_case(dataset, plan):
    seen = []
    prepare_cases(dataset, dataset.cases, plan, None, lambda *step: seen.append(step))
    assert seen == [(1, 2), (2, 2)]


def test_the_default_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "u2net3d"
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert default_cache() == Path.home() / ".cache" / "u2net3d"


@pytest.mark.parametrize("ending", [".hdr", ".mhd"])
def test_voxels_that_change_behind_an_unchanged_header_are_prepared_anew(
    tmp_path, cache, plan, prepared, ending
):
    header, label = tmp_path / f"scan{ending}", tmp_path / "label.mha"
    case = Case("scan", (header,), label, "scan")
    found = Dataset(tmp_path, "liver", ("CT",), ("background", "liver"), None, (case,), ())
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((6, 5, 4), np.uint8)), str(label))
    headers = []
    for number in (100, 200):
        sitk.WriteImage(sitk.GetImageFromArray(np.full((6, 5, 4), number, np.int16)), str(header))
        headers.append(header.read_bytes())
        prepare_cases(found, found.cases, plan, cache)
    assert headers[0] == headers[1]
    assert prepared == ["scan", "scan"]
