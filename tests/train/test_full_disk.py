"""A full disk ends a run in one line; what was written before is whole, and --resume goes on."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from u2net3d import store
from u2net3d.errors import DiskError, TrainingError, U2Net3dError
from u2net3d.io import nifti
from u2net3d.train import checkpoint, loop
from u2net3d.train.history import History
from u2net3d.train.run import train_model


@pytest.fixture
def fit(tiny_dataset, tiny_model, request_for, no_pictures, watcher, monkeypatch):
    """fit(folder, **request): four steps, a checkpoint and a new best model after each second."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr("u2net3d.train.run.card", lambda *_: {})  # seconds differ
    dataset = tiny_dataset("Task03_Liver", seed=1)

    def run(folder, **options):
        request = request_for(folder, **{"validations": 2, **options})
        quiet = (watcher(), lambda _: None, lambda *_: None)
        return train_model((dataset,), tiny_model, request, *quiet)

    return run


@contextmanager
def full(after):
    """From the `after`-th file on nothing can be brought onto the disk any more."""
    fsync, calls = os.fsync, []

    def refuse(descriptor):
        calls.append(descriptor)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("u2net3d.files.os.fsync", refuse)
        yield calls


def weights(folder):
    found = [folder / store.TRUNK, *store.domain_files(folder)]
    return {path.name: path.read_bytes() for path in found}


def require_whole(folder):
    """What stands in the folder can be used, and nothing half written lies about."""
    if (folder / store.MANIFEST).exists():
        assert store.verify(folder) == []
    kept = checkpoint.generations(folder / "runs/train")
    for path in kept:
        checkpoint._read(path)
    History(folder / "runs/train").rows()
    assert list(folder.rglob(".u2net3d-*")) == []
    return kept


def test_wherever_the_disk_is_full_the_run_goes_on_later_to_the_same_end(fit, tmp_path):
    with full(after=10**9) as calls:
        fit(tmp_path / "whole")
    wanted = weights(tmp_path / "whole")
    for after in range(2, len(calls), len(calls) // 3):
        folder = tmp_path / f"full{after}"
        with full(after), pytest.raises(U2Net3dError, match="no room left on") as error:
            fit(folder)
        assert "\n" not in str(error.value)
        kept = require_whole(folder)
        fit(folder, resume=True) if kept else fit(folder, overwrite=True)
        assert weights(folder) == wanted


def test_a_line_of_history_that_finds_no_room_is_the_end_too(fit, tmp_path, monkeypatch):
    append = History._add

    def refuse(self, **row):
        if row["step"] == 3:
            raise DiskError(self._path, "no room left on /data", "make room")
        append(self, **row)

    monkeypatch.setattr(History, "_add", refuse)
    with pytest.raises(TrainingError, match="make room; the same command with --resume goes on"):
        fit(tmp_path / "model")
    (newest, *_) = require_whole(tmp_path / "model")
    assert checkpoint.step_of(newest) == 3


def test_on_a_disk_of_3_mb_a_run_ends_in_a_line_and_goes_on_when_there_is_room(
    fit, tmp_path, small_disk
):
    fit(tmp_path / "whole", steps=6)
    folder, ballast = small_disk / "model", small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 300_000))
    with pytest.raises(TrainingError, match=r"no room left on .* --resume goes on from step"):
        fit(folder, steps=6)
    assert require_whole(folder)
    ballast.unlink()
    fit(folder, steps=6, resume=True)
    assert weights(folder) == weights(tmp_path / "whole")


def test_on_a_full_disk_the_label_that_was_there_stays(small_disk):
    path = small_disk / "label.nii.gz"
    volume, source = nifti.from_array(np.zeros((64, 64, 64)), np.eye(4))
    nifti.write_label(path, np.zeros(volume.shape, np.uint8), source)
    before = path.read_bytes()
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    noise = np.random.default_rng(0).integers(0, 256, volume.shape, np.uint8)
    with pytest.raises(DiskError, match="no room left on"):
        nifti.write_label(path, noise, source)
    assert path.read_bytes() == before
    assert {found.name for found in small_disk.iterdir()} == {"label.nii.gz", "ballast"}
