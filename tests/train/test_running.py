"""One training at a time in a model folder; one that was killed is spoken of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from u2net3d.errors import UsageError
from u2net3d.train.history import History
from u2net3d.train.running import running

CHILD = """
import sys, time
from pathlib import Path
from u2net3d.train.running import running
with running(Path(sys.argv[1]), "train", print) as mark:
    mark.says(2.5)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that trains into <tmp>/model."""
    command = [sys.executable, "-c", CHILD, str(tmp_path / "model")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def words(model, run="add-spleen"):
    """What a new run says at its beginning."""
    said = []
    with running(model, run, said.append):
        pass
    return said


def test_a_second_training_is_refused_while_the_first_one_lives(tmp_path, other):
    with pytest.raises(UsageError) as error:
        words(tmp_path / "model")
    assert str(error.value).startswith("--model: ")
    assert f"is in use: process {other.pid} on" in str(error.value)
    assert json.loads((tmp_path / "model/runs/running.json").read_text())["pid"] == other.pid


def test_a_killed_run_is_spoken_of_once_with_step_and_memory(tmp_path, other):
    history = History(tmp_path / "model/runs/train")
    for step in range(41):
        history.step(step, "liver", 0.5, 1e-3, 1.0)
    left = tmp_path / "model" / "runs" / "train" / f".u2net3d-{'0' * 8}-1-{'0' * 8}.run.json"
    left.touch()
    os.utime(left, (0, 0))
    other.kill()
    other.wait()
    assert words(tmp_path / "model") == [
        "train: the last run ended without a word at step 40: killed, or out of memory "
        "(it was to need about 2.5 GiB)"
    ]
    assert not left.exists()  # what it left half written is gone
    assert words(tmp_path / "model") == []


def test_a_run_that_ended_by_itself_or_by_an_error_leaves_no_mark(tmp_path):
    assert words(tmp_path) == []
    with pytest.raises(KeyError), running(tmp_path, "train", print):
        raise KeyError
    assert words(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_torn_mark_is_that_of_a_killed_run(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "running.json").write_text('{"pid": 1')
    assert "ended without a word before its first step" in words(tmp_path)[0]


def test_where_the_disk_knows_no_locks_the_process_is_asked_for(tmp_path, other, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(UsageError, match="is in use"):
        words(tmp_path / "model")
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert "ended without a word" in words(tmp_path / "model")[0]
