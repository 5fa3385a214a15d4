"""`check` and `download` on the command line: what they print, and with which exit code."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from u2net3d.io import download
from u2net3d.io.download import Archive
from u2net3d.spec import STEPS_PER_DOMAIN


@pytest.fixture
def data(make_dataset, tmp_path):
    root = tmp_path / "data"
    make_dataset(root, "Task03_Liver", cases=5, shape=(12, 10, 8))
    make_dataset(root, "Task02_Heart", cases=3, shape=(12, 10, 8), channels=("MRI",), seed=1)
    return root


def test_whole_data_sets_pass_with_what_they_will_need(data, tmp_path, u2net3d):
    said = u2net3d("check", "--data", data, "--cache", tmp_path / "cache")
    assert (said.code, said.errors) == (0, [])
    lines = said.out.splitlines()
    assert lines[0] == "heart: 3 cases; 0 faults, 0 warnings"
    assert "liver: 5 cases; 0 faults, 0 warnings" in lines
    assert "liver: CT; liver in 5 of 5 cases" in lines
    for name in ("heart", "liver"):
        (training,) = (line for line in lines if line.startswith(f"{name}: training takes about"))
        assert "of memory, up to" in training
        assert "of disk and" in training
        assert f"for {STEPS_PER_DOMAIN} steps of preset base on" in training
        assert any(line.startswith(f"{name}: prediction takes up to") for line in lines)
    assert not (tmp_path / "cache").exists()  # nothing is written


def test_faults_are_results_and_the_exit_code_says_that_there_are_some(data, u2net3d):
    (data / "Task02_Heart/labelsTr/heart_000.nii.gz").unlink()
    (data / "Task03_Liver/imagesTr/liver_001.nii.gz").write_bytes(b"x")
    shutil.copy(
        data / "Task03_Liver/imagesTr/liver_002.nii.gz",
        data / "Task03_Liver/imagesTr/liver_003.nii.gz",
    )
    said = u2net3d("check", "--data", data)
    assert said.code == 1
    assert len(said.errors) == 1
    assert f"error: {data}: 2 faults in 2 data sets — mend" in said.errors[0]
    faults = [line for line in said.out.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 2
    assert "labelsTr/heart_000.nii.gz: is missing — put it there" in faults[0]
    assert "imagesTr/liver_001.nii.gz: " in faults[1]
    warnings = [line for line in said.out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "liver_003.nii.gz: has the same voxels as liver_002.nii.gz" in warnings[0]


def test_only_the_domains_that_were_asked_for_are_looked_at(data, u2net3d):
    (data / "Task02_Heart" / "dataset.json").write_text("{")
    heart = data / "Task02_Heart"
    assert u2net3d("check", "--data", data, "--domains", "liver").code == 0
    said = u2net3d("check", "--data", data / "nowhere", "--domains", f"other={heart}")
    assert said.code == 1
    assert f"fault: {heart / 'dataset.json'}: is not JSON" in said.out


def test_json_holds_the_same_and_nothing_else_is_on_stdout(data, u2net3d):
    (data / "Task03_Liver/imagesTr/liver_001.nii.gz").write_bytes(b"x")
    said = u2net3d("check", "--data", data, "--json")
    assert said.code == 1
    told = json.loads(said.out)
    assert (told["faults"], told["warnings"]) == (1, 0)
    heart, liver = told["domains"]["heart"], told["domains"]["liver"]
    assert (heart["cases"], heart["faults"]) == (3, [])
    (fault,) = liver["faults"]
    assert set(fault) == {"where", "what", "mend"}
    assert len(liver["facts"]["cases"]) == 4
    assert liver["expected"]["training_memory_bytes"] > 0
    assert liver["expected"]["step_seconds"] > 0


def test_a_cache_and_a_memory_that_are_too_small_are_told(data, u2net3d, monkeypatch):
    from u2net3d.cli import checking

    monkeypatch.setattr(checking, "memory_bytes", lambda: 1000)
    monkeypatch.setattr(checking.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    said = u2net3d("check", "--data", data, "--domains", "liver")
    assert said.code == 0
    assert "warning: memory: training takes about" in said.out
    assert "warning: memory: predicting the largest case takes about" in said.out
    assert "prepared cases take up to" in said.out


def test_no_data_set_is_a_usage_error(tmp_path, u2net3d):
    (tmp_path / "empty").mkdir()
    assert u2net3d("check", "--data", tmp_path / "empty").code == 2
    assert u2net3d("check", "--data", tmp_path / "nowhere").code == 2
    assert u2net3d("check", "--domains", "liver,,heart").code == 2


def test_a_name_that_no_archive_has_is_a_usage_error(tmp_path, u2net3d, monkeypatch):
    known = {"heart": Archive("Task02_Heart", "https://nowhere.invalid/x.tar", "0" * 32)}
    monkeypatch.setattr(download, "archives", lambda: known)
    said = u2net3d("download", "haert", "--data", tmp_path)
    assert said.code == 2
    assert "did you mean heart?" in said.err


def test_a_download_prints_the_new_folder_alone(make_dataset, tmp_path, u2net3d, monkeypatch):
    import io
    import tarfile

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(make_dataset(tmp_path, "Task02_Heart", cases=2), "Task02_Heart")
    md5 = hashlib.md5(content.getvalue()).hexdigest()
    known = {"heart": Archive("Task02_Heart", "https://nowhere.invalid/x.tar", md5)}
    monkeypatch.setattr(download, "archives", lambda: known)

    def receive(url, part, progress):
        assert url == "http://mirror.invalid/sets/Task02_Heart.tar"
        part.write_bytes(content.getvalue())
        progress("fetching", 1, 1)

    monkeypatch.setattr(download, "_receive", receive)
    places = ("--data", tmp_path / "data", "--mirror", "http://mirror.invalid/sets")
    said = u2net3d("download", "Heart", *places)
    assert (said.code, said.errors) == (0, [])
    assert said.out == f"{tmp_path / 'data' / 'Task02_Heart'}\n"
    said = u2net3d("download", "heart", *places)
    assert said.code == 2
    assert "is there already" in said.err
