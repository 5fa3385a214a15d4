"""Draws the phantom data sets beside this file: made-up anatomy, laid out as in the Decathlon.

No patient was scanned for them: every voxel comes from the formulas beside this file and a random
generator seeded by (seed, task, case), so a second run gives the same files. Needs numpy, scipy
and nibabel only.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, ornt_transform
from numpy.random import Generator
from numpy.typing import NDArray
from phantom_abdomen import liver, pancreas
from phantom_heart_prostate import heart, prostate
from phantom_shapes import Array, Canvas, Values, turned, waves
from scipy.ndimage import gaussian_filter

TRAINING, TEST = 12, 3
# Case after case, how the file stores its axes and by how many degrees the scanner was tilted.
STORED = (("RAS", 0), ("LPS", 0), ("RAS", 9), ("LAS", 0), ("PSR", 0), ("LPS", 14))


@dataclass(frozen=True)
class Task:
    """One data set; triples go right, anterior, superior."""

    number: int
    name: str
    modality: tuple[str, ...]
    labels: tuple[str, ...]
    scene: Callable[[Canvas, Generator], Values]
    extent_mm: tuple[float, float, float]
    middle_mm: tuple[float, float, float]  # of the volume, in the scene
    spacing_mm: tuple[float, float, float]
    finer: tuple[int, int, int]  # points drawn per voxel along each axis: partial volume

    @property
    def folder(self) -> str:
        """The folder's name, as in the Decathlon."""
        return f"Task{self.number:02d}_{self.name}"


TASKS = (
    Task(2, "Heart", ("MRI",), ("left atrium",), heart,
         (164, 150, 118), (-4, 0, 6), (2.7, 2.7, 2.7), (2, 2, 2)),
    Task(3, "Liver", ("CT",), ("liver", "tumour"), liver,
         (276, 200, 172), (0, 0, 24), (4.0, 4.0, 4.0), (2, 2, 2)),
    Task(5, "Prostate", ("T2", "ADC"), ("PZ", "TZ"), prostate,
         (80, 80, 72), (0, -4, 4), (1.2, 1.2, 3.6), (2, 2, 4)),
    Task(7, "Pancreas", ("CT",), ("pancreas", "tumour"), pancreas,
         (276, 200, 128), (0, 0, -6), (3.8, 3.8, 3.2), (2, 2, 2)),
)  # fmt: skip


def draw_case(task: Task, case: int, seed: int = 0) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Image (I, J, K) or (I, J, K, channel) int16 and label (I, J, K) uint8 of case 1, 2, ...

    The same (seed, task, case) gives the same voxels.
    """
    rng = np.random.default_rng([seed, task.number, case])
    codes, tilt = STORED[(case - 1) % len(STORED)]
    spacing = np.round(np.asarray(task.spacing_mm) * rng.uniform(0.93, 1.07, 3), 2)
    spacing[1] = spacing[0]
    shape = np.round(np.asarray(task.extent_mm) * rng.uniform(0.95, 1.05, 3) / spacing).astype(int)
    canvas = Canvas(_points(task, shape, spacing, tilt, rng))
    values = task.scene(canvas, rng)
    label = _label(task, canvas)
    channels = [
        _channel(task, canvas, values, channel, rng) for channel in range(len(task.modality))
    ]
    image = channels[0] if len(channels) == 1 else np.stack(channels, axis=-1)
    affine = _affine(shape, spacing, tilt, rng)
    return _stored(image, affine, codes), _stored(label, affine, codes)


def _points(
    task: Task, shape: NDArray[np.int64], spacing: Array, tilt: float, rng: Generator
) -> Array:
    """Where in the scene the fine points lie: (3, X, Y, Z) mm, the body lying a little askew."""
    axes = []
    for n, step, finer, middle in zip(shape, spacing, task.finer, task.middle_mm, strict=True):
        offsets = (np.arange(n * finer) + 0.5) / finer - n / 2
        axes.append(offsets * step + middle)
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    points = turned(points, (-tilt, 0, 0))  # a tilted scanner sees an upright body askew
    size = 1 + rng.uniform(-0.07, 0.07)
    return (
        turned(points, rng.uniform(-5, 5, 3)) + rng.uniform(-5, 5, 3)[:, None, None, None]
    ) / size


def _pooled(fine: Array, finer: tuple[int, int, int]) -> Array:
    """The mean over every voxel's fine points."""
    x, y, z = (n // step for n, step in zip(fine.shape, finer, strict=True))
    blocks = fine.reshape(x, finer[0], y, finer[1], z, finer[2])
    return np.asarray(blocks.mean(axis=(1, 3, 5)))


def _label(task: Task, canvas: Canvas) -> NDArray[np.uint8]:
    """The label that fills most of each voxel."""
    fine = [canvas.tissue == canvas.names.index(name) for name in task.labels]
    shares = np.stack([_pooled(mask.astype(float), task.finer) for mask in fine])
    shares = np.concatenate([1 - shares.sum(axis=0, keepdims=True), shares])
    return np.asarray(np.argmax(shares, axis=0), np.uint8)


def _channel(
    task: Task, canvas: Canvas, values: Values, channel: int, rng: Generator
) -> NDArray[np.int16]:
    bright = np.array([values[name][channel] for name in canvas.names])
    clean = _pooled(bright[canvas.tissue], task.finer)
    body = 1 - _pooled((canvas.tissue == 0).astype(float), task.finer)
    texture = gaussian_filter(rng.standard_normal(clean.shape), 1.5)
    clean += body * texture / texture.std() * (5 if task.modality[0] == "CT" else 7)
    if task.modality[channel] == "CT":
        return _ct(clean, body, rng)
    if task.modality[channel] == "ADC":  # a ratio of two images, in which the bias cancels
        return _mr(clean, rng)
    bias = np.exp(_pooled(waves(canvas.points, rng, 0.16, 170), task.finer))
    return _mr(clean * bias, rng)


def _ct(clean: Array, body: Array, rng: Generator) -> NDArray[np.int16]:
    """HU in steps of 4, noise of 15 to 20 HU that neighbours share a little; empty air is -1000."""
    noise = gaussian_filter(rng.standard_normal(clean.shape), 0.45)
    noisy = clean + body * noise / noise.std() * rng.uniform(15, 20)
    return np.asarray(np.round(np.clip(noisy, -1000, 1000) / 4) * 4, np.int16)


def _mr(clean: Array, rng: Generator) -> NDArray[np.int16]:
    """Rician noise; some 130 steps of brightness on a scale of the volume's own."""
    one, two = rng.standard_normal((2, *clean.shape)) * rng.uniform(5, 8)
    noisy = np.round(np.hypot(clean + one, two) / 2)
    scale = np.exp(rng.uniform(np.log(0.8), np.log(9)))
    return np.asarray(np.round(noisy * scale), np.int16)


def _affine(shape: NDArray[np.int64], spacing: Array, tilt: float, rng: Generator) -> Array:
    """Index to (R, A, S) mm; the volume's middle lies up to 60 mm from the scanner's."""
    affine = np.eye(4)
    columns = turned(np.eye(3).reshape(3, 3, 1, 1), (tilt, 0, 0)).reshape(3, 3)
    affine[:3, :3] = columns * spacing
    affine[:3, 3] = np.round(rng.uniform(-60, 60, 3), 1) - affine[:3, :3] @ ((shape - 1) / 2)
    return np.round(affine, 6) + 0.0


def _stored(array: NDArray[np.int16 | np.uint8], affine: Array, codes: str) -> nib.Nifti1Image:
    """Volume in RAS order to a file's own order; both forms of the affine say `scanner`."""
    upright = nib.Nifti1Image(array, affine)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    image = upright.as_reoriented(turn)
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    return image


def write_image(image: nib.Nifti1Image, path: Path) -> None:
    """Writes .nii.gz without time or file name in it, so that equal voxels give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), 9, mtime=0))


def describe(task: Task, training: list[str], test: list[str]) -> dict[str, object]:
    """The content of dataset.json, as the Decathlon writes it."""
    return {
        "name": task.name,
        "description": "PHANTOM, drawn by a program (data/draw_phantoms.py): no patient, no organ. "
        "The labels of the test cases lie in labelsTs.",
        "reference": "u2net3d phantoms",
        "licence": "CC0-1.0",
        "release": "1.0",
        "tensorImageSize": "3D" if len(task.modality) == 1 else "4D",
        "modality": {str(i): name for i, name in enumerate(task.modality)},
        "labels": {str(i): name for i, name in enumerate(("background", *task.labels))},
        "numTraining": len(training),
        "numTest": len(test),
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in training
        ],
        "test": [f"./imagesTs/{name}.nii.gz" for name in test],
    }


def case_name(task: Task, case: int) -> str:
    """Name of case 1, 2, ...: it says `phantom`, so that results of phantoms do too."""
    return f"{task.name.lower()}_phantom_{case:02d}"


def draw_task(task: Task, folder: Path, seed: int) -> None:
    """Draws a whole data set into `folder`/TaskNN_Name."""
    root = folder / task.folder
    names = [case_name(task, case) for case in range(1, TRAINING + TEST + 1)]
    for case, name in enumerate(names, start=1):
        image, label = draw_case(task, case, seed)
        part = "Tr" if case <= TRAINING else "Ts"
        write_image(image, root / f"images{part}" / f"{name}.nii.gz")
        write_image(label, root / f"labels{part}" / f"{name}.nii.gz")
        print(f"{task.folder}: {name} {image.shape}", flush=True)
    content = describe(task, names[:TRAINING], names[TRAINING:])
    (root / "dataset.json").write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = {task.name.lower(): task for task in TASKS}
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="default: here")
    parser.add_argument("--tasks", default=",".join(known), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other cases")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.tasks.split(",") if name not in known]
    if unknown:
        parser.error(f"--tasks: no {', '.join(unknown)}; there are {', '.join(known)}")
    for name in arguments.tasks.split(","):
        draw_task(known[name], arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
