"""Fixtures that any test may use: tiny data sets drawn on the spot, real ones where given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
import pytest


class MakeDataset(Protocol):
    def __call__(
        self,
        root: Path,
        name: str = "Task03_Liver",
        cases: int | Sequence[str] = 6,
        channels: Sequence[str] = ("CT",),
        labels: Sequence[str] = ("background", "liver"),
        shape: tuple[int, int, int] = (24, 20, 16),
        spacing_mm: tuple[float, float, float] = (1.0, 1.0, 2.0),
        seed: int = 0,
    ) -> Path: ...


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    """make_dataset(root, name, ...) writes `root/name` in MSD layout and returns that folder.

    cases: how many, or their names. shape and spacing_mm: (I, J, K) as stored (RAS). Every label is
    one ellipsoid, brighter the higher its value; several channels make 4-D files.
    """
    return write_dataset


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """No test writes into the user's own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a disk of 3 MB; skips where none may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root may mount a disk of 3 MB")
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no disk of 3 MB can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real MSD data sets that U2NET3D_TEST_DATA names; skips where there is none."""
    root = os.environ.get("U2NET3D_TEST_DATA")
    if not root:
        pytest.skip("needs real volumes: set U2NET3D_TEST_DATA to a folder of MSD data sets")
    if not Path(root).is_dir():
        pytest.fail(f"U2NET3D_TEST_DATA names {root}, which is no folder")
    return Path(root)


def write_dataset(
    root: Path,
    name: str = "Task03_Liver",
    cases: int | Sequence[str] = 6,
    channels: Sequence[str] = ("CT",),
    labels: Sequence[str] = ("background", "liver"),
    shape: tuple[int, int, int] = (24, 20, 16),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 2.0),
    seed: int = 0,
) -> Path:
    folder = root / name
    bare = name.rsplit("_", maxsplit=1)[-1]
    names = [f"{bare.lower()}_{i:03d}" for i in range(cases)] if isinstance(cases, int) else cases
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    affine = np.diag([*spacing_mm, 1.0])
    rng = np.random.default_rng(seed)
    for case in names:
        image, label = _blobs(rng, shape, len(channels), len(labels))
        nib.save(nib.Nifti1Image(image, affine), folder / "imagesTr" / f"{case}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / "labelsTr" / f"{case}.nii.gz")
    content = {
        "name": bare,
        "modality": {str(i): channel for i, channel in enumerate(channels)},
        "labels": {str(i): label for i, label in enumerate(labels)},
        "training": [
            {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
            for case in names
        ],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def _blobs(
    rng: np.random.Generator, shape: tuple[int, int, int], channels: int, labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """image (I, J, K[, C]) int16 and label (I, J, K) uint8; every label value occurs."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    label = np.zeros(shape, np.uint8)
    for value in range(1, labels):
        # Side by side along the first axis, so that no blob hides another.
        share = np.array([value / labels, 0.5, 0.5]) + rng.uniform(-0.03, 0.03, 3)
        radius = np.maximum(np.array([0.4 / labels, 0.3, 0.3]) * shape * rng.uniform(0.8, 1.1), 1)
        label[(((grid - share * shape) / radius) ** 2).sum(-1) <= 1] = value
    gains = 1 + np.arange(channels)
    image = 100.0 * label[..., None] * gains + rng.normal(0, 20, (*shape, channels))
    image = np.rint(image).astype(np.int16)
    return (image[..., 0] if channels == 1 else image), label
