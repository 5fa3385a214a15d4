"""From logits to labels inside a worker: ours and nnU-Net's of the same logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_nnunet
import numpy as np
import torch
from bench_contenders import Job, Setting
from numpy.typing import NDArray

from u2net3d.infer.restore import restore
from u2net3d.prep.pipeline import Preparation

Labels = NDArray[np.integer[Any]]
_OURS = "label.npy"  # in the folder of the job: what nnU-Net's worker compares its own with
_BATCH = 100_000  # voxels interpolated at a time in float64
_SEED = 0
_RADIUS, _CLIP = 10.0, 8.0  # of the balls, and the most that their logits say, in voxels
_BORDER = 0.03  # of all cells, about


class Export:
    """A step that turns the logits of a setting into the label of the volume."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.logits = job, logits_of(job.setting)
        make = _ours if job.contender.family == "ours" else _nnunet
        self._convert = make(job, self.logits, folder)
        self._label: Labels | None = None

    def __call__(self) -> None:
        self._label = self._convert()

    def said(self) -> dict[str, Any]:
        """What the first step shows beside its time. Ours comes first, and leaves its label."""
        assert self._label is not None
        path = Path(self.job.folder) / f"{_slug(self.job.setting)} {_OURS}"
        if self.job.contender.family == "ours":
            np.save(path, self._label)
            return {"note": f"{undecided(self.logits):.1%} of the cells undecided"}
        if not path.exists():
            return {"note": "nothing of ours to compare with"}
        return {"agreement": agreement(self.logits, np.load(path), self._label)}


def logits_of(setting: Setting) -> NDArray[np.float32]:
    """(K, d, h, w) on the plan's grid: regions with smooth borders, or noise.

    regions: class 0 is the body, the others balls in it, each class in turn; a logit is the
    distance from the surface in voxels, at most 8, and a little noise. There are so many of them
    that a few percent of the cells hold a border. noise: every voxel by itself, as if nothing had
    been learnt.
    """
    shape = setting.prepared
    generator = np.random.default_rng(_SEED)
    logits = generator.standard_normal((setting.classes, *shape), np.float32)
    if setting.logits == "noise":
        return logits
    logits *= 0.1
    inside = np.full((setting.classes - 1, *shape), -_CLIP, np.float32)
    balls = round(_BORDER * np.prod(shape) / (8 * np.pi * _RADIUS**2))
    for n in range(max(balls, setting.classes - 1)):
        centre = [generator.uniform(0, size) for size in shape]
        spans = [
            np.arange(max(0, int(c - _RADIUS - _CLIP)), min(size, int(c + _RADIUS + _CLIP) + 1))
            for c, size in zip(centre, shape, strict=True)
        ]
        z, y, x = np.ix_(*spans)
        distance = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
        window = inside[n % len(inside)][z, y, x]
        inside[n % len(inside)][z, y, x] = np.maximum(window, (_RADIUS - distance).clip(max=_CLIP))
    logits[1:] += inside
    return logits


def undecided(logits: NDArray[np.float32]) -> float:
    """Share of the cells between eight neighbouring voxels whose largest classes are not one."""
    classes = torch.from_numpy(logits).argmax(0).to(torch.uint8).numpy()
    same = np.ones([n - 1 for n in classes.shape], bool)
    first = classes[:-1, :-1, :-1]
    for corner in range(1, 8):
        at = tuple(slice(1, None) if corner >> axis & 1 else slice(-1) for axis in range(3))
        same &= classes[at] == first
    return 1 - float(same.mean())


def agreement(logits: NDArray[np.float32], ours: Labels, theirs: Labels) -> dict[str, Any]:
    """How far two labels (D, H, W) of the same logits (K, d, h, w) are the same.

    Where they differ, the logits are interpolated again in float64: widest_gap is how far the
    worse of the two answers lies below the largest logit, at the voxel where that is most.
    """
    where = np.argwhere(ours != theirs)
    gaps = [0.0]
    for begin in range(0, len(where), _BATCH):
        at = where[begin : begin + _BATCH]
        exact = interpolated(logits, at, ours.shape)
        answers = [label[tuple(at.T)].astype(np.intp) for label in (ours, theirs)]
        worse = np.minimum(*(exact[answer, np.arange(len(at))] for answer in answers))
        gaps.append(float((exact.max(0) - worse).max()))
    return {
        "voxels": ours.size,
        "differing": len(where),
        "equal": 1 - len(where) / ours.size,
        "widest_gap": max(gaps),
    }


def interpolated(
    logits: NDArray[np.float32], at: NDArray[np.integer[Any]], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Logits (K, N) float64 at voxels (N, 3) of a grid of `shape`, linear, voxels being cells."""
    lows, shares = [], []
    for axis, (old, new) in enumerate(zip(logits.shape[1:], shape, strict=True)):
        place = ((at[:, axis] + 0.5) * old / new - 0.5).clip(0, old - 1)
        low = np.minimum(place.astype(np.intp), max(old - 2, 0))
        lows.append(low)
        shares.append(place - low)
    result = np.zeros((len(logits), len(at)))
    for corner in range(8):
        index, weight = [], np.ones(len(at))
        for axis in range(3):
            far = corner >> axis & 1
            index.append(np.minimum(lows[axis] + far, logits.shape[axis + 1] - 1))
            weight = weight * (shares[axis] if far else 1 - shares[axis])
        result += weight * logits[(slice(None), *index)]
    return result


def _ours(job: Job, logits: NDArray[np.float32], _: Path) -> Callable[[], Labels]:
    """Slice after slice, as the engine gives them: views of what it holds."""
    setting = job.setting
    preparation = Preparation(
        setting.volume, (0, 0, 0), setting.volume, setting.prepared, setting.spacing_mm
    )
    return lambda: restore((logits[:, z] for z in range(logits.shape[1])), preparation)


def _nnunet(job: Job, logits: NDArray[np.float32], folder: Path) -> Callable[[], Labels]:
    from nnunetv2.inference import export_prediction
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    setting = job.setting
    bench_nnunet.write(setting, folder / "model", network=False)
    plans = PlansManager(str(folder / "model" / "plans.json"))
    labels = plans.get_label_manager(bench_nnunet.dataset(setting))
    said = {
        "spacing": setting.voxel_mm,
        "shape_before_cropping": setting.volume,
        "shape_after_cropping_and_before_resampling": setting.volume,
        "bbox_used_for_cropping": [[0, n] for n in setting.volume],
    }
    convert = export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape
    configuration = plans.get_configuration(bench_nnunet.CONFIGURATION)
    given = torch.from_numpy(logits)
    return lambda: convert(given, plans, configuration, labels, said, num_threads_torch=job.threads)


def _slug(setting: Setting) -> str:
    shape = "x".join(map(str, setting.volume))
    return f"{shape} {setting.classes} {setting.logits}"
