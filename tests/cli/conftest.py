"""The command line in this process, and a tiny model that it trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from u2net3d.cli.app import run


@dataclass(frozen=True)
class Trained:
    """data: liver (CT), prostate (2 channels, 3 labels) and pancreas; model: of the first two."""

    data: Path
    model: Path
    cache: Path

    def case(self, task: str, name: str) -> tuple[Path, Path]:
        """Image and label of a case."""
        folder = self.data / task
        return folder / "imagesTr" / f"{name}.nii.gz", folder / "labelsTr" / f"{name}.nii.gz"


@dataclass(frozen=True)
class Said:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that report an error."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


TypeCommand = Callable[..., Said]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, make_dataset) -> Trained:
    """Four steps of training on data drawn here; tests must not write into it (see `copied`)."""
    root = tmp_path_factory.mktemp("trained")
    shape = (12, 12, 10)
    make_dataset(root / "data", "Task03_Liver", cases=5, shape=shape)
    make_dataset(root / "data", "Task07_Pancreas", cases=5, shape=shape, seed=1)
    labels = ("background", "peripheral", "transition")
    make_dataset(
        root / "data",
        "Task05_Prostate",
        cases=5,
        channels=("T2", "ADC"),
        labels=labels,
        shape=shape,
    )
    made = Trained(root / "data", root / "model", root / "cache")
    options = ["--data", made.data, "--model", made.model, "--cache", made.cache, "--steps", 4]
    command = ["train", "--domains", "liver,prostate", *map(str, options)]
    assert run(command) == 0
    return made


@pytest.fixture
def copied(trained, tmp_path) -> Trained:
    """The same with a model folder of the test's own."""
    shutil.copytree(trained.model, tmp_path / "model")
    return Trained(trained.data, tmp_path / "model", trained.cache)


@pytest.fixture
def u2net3d(capsys) -> TypeCommand:
    """u2net3d("verify", "--model", path) runs the command and gives what it said."""

    def command(*arguments: object) -> Said:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return command
