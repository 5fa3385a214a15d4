"""Real processes at one output folder: each case is done once, and a kill loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from u2net3d import files

# A run whose network takes its time and writes down the cases it is asked about.
PROGRAM = """
import sys, time
from pathlib import Path
from u2net3d.infer import predict
from u2net3d.cli.app import run

log, seconds, arguments = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
answer = predict.Model.answer

def slow(self, image, path, *args, **kwargs):
    with log.open("a") as handle:
        handle.write(path.name + "\\n")
    time.sleep(seconds)
    return answer(self, image, path, *args, **kwargs)

predict.Model.answer = slow
sys.exit(run(arguments))
"""
CASES = [f"case{n}" for n in range(6)]


class Run:
    """A process at work on the six cases."""

    def __init__(self, place: Path, name: str, seconds: float, words: list) -> None:
        self.log, self.err = place / f"{name}.log", place / f"{name}.err"
        self.log.touch()
        command = [sys.executable, "-c", PROGRAM, self.log, seconds, *words]
        with self.err.open("w") as stream:
            self.process = subprocess.Popen(list(map(str, command)), stderr=stream)

    def asked(self) -> list[str]:
        return [line.removesuffix(".nii.gz") for line in self.log.read_text().split()]

    def wait_for(self, cases: int) -> None:
        while len(self.asked()) < cases:
            assert self.process.poll() is None, self.err.read_text()
            time.sleep(0.01)


@pytest.fixture
def start(folder, tmp_path, picture, write):
    """start(name, seconds a case) starts a run over a folder of six cases."""
    for seed, case in enumerate(CASES):
        write(tmp_path / "images" / f"{case}.nii.gz", picture((6, 5, 4), seed))
    runs = []

    def begin(name, seconds):
        words = ["predict", "-i", tmp_path / "images", "-o", tmp_path / "out", "--domain", "liver"]
        runs.append(Run(tmp_path, name, seconds, [*words, "--model", folder, "--device", "cpu"]))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()


def require_whole(out: Path) -> None:
    names = {path.name for path in out.iterdir()}
    assert names == {f"{case}.{end}" for case in CASES for end in ("nii.gz", "json")}
    for case in CASES:
        said = json.loads((out / f"{case}.json").read_text())
        assert said["outputs"]["label"] == files.sha256_file(out / f"{case}.nii.gz")


def test_two_runs_at_once_do_each_case_once_and_both_end_well(start, tmp_path):
    runs = [start("one", 0.3), start("two", 0.3)]
    assert [run.process.wait() for run in runs] == [0, 0], [run.err.read_text() for run in runs]
    assert sorted(runs[0].asked() + runs[1].asked()) == CASES
    for run in runs:
        assert run.err.read_text().count(" of 6: ") == 6  # each accounts for every case
    require_whole(tmp_path / "out")


def test_a_case_where_a_run_is_killed_is_done_by_the_other_one_and_no_case_twice(start, tmp_path):
    killed = start("killed", 600)
    killed.wait_for(1)
    (at,) = killed.asked()
    other = start("other", 0)
    other.wait_for(len(CASES) - 1)  # and now it waits for the last one
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    assert other.process.wait() == 0, other.err.read_text()
    assert f"{at}: a run died at this case before" in other.err.read_text()
    assert sorted(other.asked()) == CASES
    require_whole(tmp_path / "out")
