"""kill -9 at random moments: what scripts/kill-test runs.

Training, adding a domain and predicting are started as child processes, killed after a random time
and started again, until the wanted number of kills is reached. After each kill every file that can
be seen must be whole and nothing that was there may be lost; a run that reached its end must have
the weights, bit for bit, and labels, byte for byte, of one that was never killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
from safetensors.torch import load_file

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is there: so small a network gains nothing

from u2net3d import files, store
from u2net3d.cli.app import run
from u2net3d.train import add_domain, checkpoint, history, loop
from u2net3d.train import run as training

STEPS, CASES = 6, 5


class Lost(Exception):
    """Something that a kill must not harm was harmed."""


class Job:
    """A command that is killed again and again.

    folder: all that it writes into; place: where in it the work itself leaves its files.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name, self.folder = root, name, root / name
        self.place, self.log = self.folder, root / f"{name}.log"

    def words(self) -> list[str]:
        """The command as it must be typed now."""
        raise NotImplementedError

    def prepare(self) -> None:
        """What stands in the folder before the first start."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def written(self) -> int:
        """When the work itself, not what is made ready for it, last left something; 0: never."""
        return self.place.stat().st_mtime_ns if self.place.is_dir() else 0

    def check(self) -> None:
        """Raises Lost where a kill did harm."""

    def result(self) -> dict[str, bytes]:
        """What a finished command left that must not depend on kills."""
        raise NotImplementedError


class Training(Job):
    """`train`, or `add-domain` where `base` is the model to add to."""

    def __init__(self, root: Path, name: str, base: Path | None = None) -> None:
        super().__init__(root, name)
        self.base, self.newest = base, -1
        self.run = self.folder / "runs" / ("add-spleen" if base else "train")
        self.place = self.run / checkpoint.FOLDER

    def prepare(self) -> None:
        super().prepare()
        self.newest = -1
        if self.base:
            shutil.copytree(self.base, self.folder)
        self.older = self._weights()

    def words(self) -> list[str]:
        verb = ["add-domain", "spleen"] if self.base else ["train", "--domains", "liver,heart"]
        places = [f"--data={self.root / 'data'}", f"--cache={self.root / 'cache'}"]
        how = "--resume" if checkpoint.generations(self.run) else "--overwrite"
        return [*verb, *places, f"--model={self.folder}", f"--steps={STEPS}", how]

    def check(self) -> None:
        kept = checkpoint.generations(self.run)
        if kept:
            identity = json.loads((self.run / "run.json").read_text())["identity"]
            passed = []
            step = checkpoint.load(self.run, identity, passed.append).step
            if passed or step < self.newest:
                raise Lost(f"checkpoint {step} after {self.newest}: {passed}")
            self.newest = step
        elif self.newest >= 0:
            raise Lost("the checkpoints are gone")
        steps = [row["step"] for row in history.History(self.run).rows() if row["kind"] == "train"]
        if steps != [*range(len(steps))]:
            raise Lost(f"history.jsonl holds the steps {steps}")
        if (self.folder / store.MANIFEST).exists() and store.verify(self.folder):
            raise Lost(f"the model: {store.verify(self.folder)}")
        for file, content in self.older.items():
            if (self.folder / file).read_bytes() != content:
                raise Lost(f"{file} of the model that was added to has changed")

    def result(self) -> dict[str, bytes]:
        """Names and bytes of all weights; the cards tell the time, which differs."""
        return {
            f"{file} {name}": tensor.numpy().tobytes()
            for file in self._weights()
            for name, tensor in load_file(self.folder / file).items()
        }

    def _weights(self) -> dict[str, bytes]:
        found = [self.folder / store.TRUNK, *store.domain_files(self.folder)]
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in found
            if path.is_file()
        }


class Predicting(Job):
    """`predict` on a folder; `wanted` holds the labels of a run that was never killed."""

    def __init__(self, root: Path, name: str, model: Path, wanted: dict[str, bytes]) -> None:
        super().__init__(root, name)
        self.model, self.wanted, self.done = model, wanted, set[str]()

    def prepare(self) -> None:
        super().prepare()
        self.done = set()

    def words(self) -> list[str]:
        images = self.root / "data" / "Task03_Liver" / "imagesTr"
        return ["predict", f"-i{images}", f"-o{self.folder}", "--domain=liver", *self.to_model()]

    def to_model(self) -> list[str]:
        return [f"--model={self.model}", "--device=cpu"]

    def check(self) -> None:
        found = self.result()
        if gone := self.done - set(found):
            raise Lost(f"{gone} was there before and is gone")
        self.done = set(found)
        for name, content in found.items():
            if self.wanted and self.wanted.get(name) != content:
                raise Lost(f"{name} is not the label of a run that was never killed")

    def result(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.glob("[!.]*.nii.gz")}


def start(job: Job) -> int:
    """Starts the command in a child that has nothing left to import; gives its process number."""
    words = job.words()
    child = os.fork()
    if child:
        return child
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    loop.CHECKPOINT_EVERY_S = 0.0  # so that many kills fall into the writing
    history.progress = lambda _rows: b"a picture, drawn in no time"
    training.draw_cases = add_domain.draw_cases = lambda *_: None
    code = 1
    try:
        code = run(words)
    finally:
        os._exit(code)


def finish(job: Job) -> float:
    """Lets a command run to its end; gives the seconds it took. Raises Lost where it fails."""
    began = time.perf_counter()
    status = os.waitpid(start(job), 0)[1]
    if os.waitstatus_to_exitcode(status) != 0:
        raise Lost(f"{' '.join(job.words())} failed:\n{job.log.read_text()[-2000:]}")
    return time.perf_counter() - began


def killed(job: Job, seconds: float, *, at_work: bool) -> bool:
    """Starts a command, kills it after that time; False where it had ended before.

    at_work: the time runs from the first file that the work itself writes.
    """
    before, child = job.written(), start(job)
    over = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while at_work and job.written() <= before and not os.waitid(os.P_PID, child, over):
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise Lost(f"{' '.join(job.words())} failed:\n{job.log.read_text()[-2000:]}")
    return code != 0


def harass(jobs: dict[Job, float], wanted: dict[Job, dict[str, bytes]], kills: int) -> Counter:
    """Kills the jobs in turn, `kills` times in all; jobs: seconds that each takes undisturbed."""
    dice, count = random.Random(), Counter()  # noqa: S311
    for job in jobs:
        job.prepare()
    while count["kills"] < kills:
        for job, seconds in list(jobs.items()):
            at_work = dice.random() < 0.7
            if killed(job, dice.uniform(0, seconds / 3 if at_work else seconds), at_work=at_work):
                count["kills"] += 1
                count[f"{job.name} killed"] += 1
                job.check()
            else:  # as fast as the machine is now
                jobs[job] = 0.8 * seconds
                end(job, wanted[job], count)
    for job in jobs:
        finish(job)
        end(job, wanted[job], count)
    return count


def end(job: Job, wanted: dict[str, bytes], count: Counter) -> None:
    """A command has reached its end: what it left is compared, and the next begins."""
    job.check()
    if job.result() != wanted:
        raise Lost(f"{job.name}: the result is not that of a run that was never killed")
    left = [path for path in job.folder.rglob(".u2net3d-*") if path.is_file()]
    if left:
        raise Lost(f"{job.name}: {left[0].name} lies about after the end")
    count[f"{job.name} finished"] += 1
    job.prepare()


def draw(data: Path) -> None:
    """Three data sets of noise with a ball in it, a few voxels a side."""
    for n, name in enumerate(("Task03_Liver", "Task02_Heart", "Task09_Spleen")):
        rng, cases = np.random.default_rng(n), [f"case_{i:03d}" for i in range(CASES)]
        for case in cases:
            grid = np.indices((12, 12, 10)) - rng.uniform(4, 7, (3, 1, 1, 1))
            label = ((grid**2).sum(0) < 10).astype(np.uint8)
            image = (100 * label + rng.normal(0, 20, label.shape)).astype(np.int16)
            for folder, array in (("imagesTr", image), ("labelsTr", label)):
                (data / name / folder).mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, np.eye(4)), data / name / folder / f"{case}.nii.gz")
        pairs = [
            {"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases
        ]
        said = {"name": name, "modality": {"0": "MR"}, "labels": {"0": "background", "1": "ball"}}
        files.write_json(data / name / "dataset.json", {**said, "training": pairs, "test": []})


def test(root: Path, kills: int) -> Counter:
    """All of it; raises Lost."""
    draw(root / "data")
    whole = Training(root, "whole")
    whole.prepare()
    finish(whole)  # fills the cache of prepared cases
    trained = whole.result()
    base = root / "base"
    whole.folder.rename(base)
    train, add = Training(root, "train"), Training(root, "add-domain", base)
    predict = Predicting(root, "predict", base, {})
    jobs: dict[Job, float] = {}
    wanted: dict[Job, dict[str, bytes]] = {}
    for job in (train, add, predict):
        job.prepare()
        jobs[job] = finish(job)
        wanted[job] = job.result()
    if wanted[train] != trained:
        raise Lost("two runs that were not killed differ")
    predict.wanted = wanted[predict]
    return harass(jobs, wanted, kills)


def main() -> int:
    """Reads the options, runs the test in a folder of its own and says what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how often to kill, in all")
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            count = test(Path(folder), options.kills)
        except Lost as lost:
            print(f"lost: {lost}", file=sys.stderr)
            return 1
    for name in sorted(count):
        print(f"{name}: {count[name]}")
    print(f"nothing was lost ({time.perf_counter() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
