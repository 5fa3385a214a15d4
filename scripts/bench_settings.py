"""At which patches and volumes the bench measures. Imports no torch: the workers do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
from bench_contenders import Kind, Setting

from u2net3d.prep.plan import topology
from u2net3d.volume import Triple, TripleF

MOST_STAGES = 6
THICK = 3  # an axis this many times coarser than the others is planned at a third of it
PATCH = 96  # voxels a side at which whole volumes are predicted
_STEP = 16  # patches of smaller volumes are multiples of it
_PLAIN = (1.0, 1.0, 1.0)


def setting(name: str, patch: Triple, batch: int, spacing_mm: TripleF = _PLAIN) -> Setting:
    """A setting with the topology of its patch at the plan's voxels."""
    planned = topology(spacing_mm, patch, MOST_STAGES)
    size = "×".join(map(str, planned.patch))
    return Setting(
        name=f"{name}{size} × {batch}",
        patch=planned.patch,
        batch=batch,
        strides=planned.strides,
        kernels=planned.kernels,
        spacing_mm=spacing_mm,
    )


def settings(kind: Kind, quick: bool, device: str) -> list[Setting]:
    """Those of a section. Inference runs a large patch one at a time."""
    if quick:
        return [setting("quick ", (32, 32, 32), 1)]
    if kind == "forward":
        return [_six(setting("", (side, side, side), 1)) for side in (96, 128)]
    if kind == "memory":
        return [setting("", (128, 128, 128), 1)]
    if device == "cuda":
        return [setting("", (128, 128, 128), 2)]
    batch = 2 if kind == "step" else 1
    return [setting("hippocampus plan, ", (40, 56, 40), 5), setting("", (96, 96, 96), batch)]


def _six(planned: Setting) -> Setting:
    """The same with all six stages, as nnU-Net's network of widths 32 to 320 has at 128³."""
    missing = MOST_STAGES - planned.stages
    more = {
        "strides": planned.strides + ((2, 2, 2),) * missing,
        "kernels": planned.kernels + ((3, 3, 3),) * missing,
        "name": f"{planned.name}, {MOST_STAGES} stages",
    }
    return planned.model_copy(update=more)


def volume_settings(kind: Kind, quick: bool, volumes: Sequence[str]) -> list[Setting]:
    """Those of a section of whole volumes. volumes: real ones that `predict` takes as well."""
    if kind == "predict":
        drawn = [_volume((88, 140, 183), voxel_mm=0.625), _volume((150, 256, 256))]
        return [*(_real(path) for path in volumes), *(_QUICK[:1] if quick else drawn)]
    if kind == "export":
        coarse = 2 / 3  # of a plan's voxel, whose grid is 1.5 times as coarse
        three = _volume((300, 512, 512), classes=3, voxel_mm=coarse)
        fifty = _volume((150, 256, 256), classes=50, voxel_mm=coarse)
        return _both(_QUICK[:1] if quick else [three, fifty])
    if kind == "prediction memory":
        large = [_volume((300, 512, 512), classes=count) for count in (2, 50)]
        return _QUICK if quick else [_volume((150, 256, 256), classes=50), *large]
    if kind == "start":
        return _QUICK[:1] if quick else [_volume((64, 64, 64), (64, 64, 64))]
    sides = (32, 48) if quick else (64, 128, 192, 256, 384, 512)
    return [_cube(side, 32 if quick else PATCH) for side in sides]


def _both(drawn: Sequence[Setting]) -> list[Setting]:
    """Each with logits like a trained network's, and with noise, which no cell is decided in."""
    found = []
    for one in drawn:
        for logits in ("regions", "noise"):
            name = f"{one.name.split(', patch')[0]} from {_times(one.prepared)}, {logits}"
            found.append(one.model_copy(update={"name": name, "logits": logits}))
    return found


def _cube(side: int, patch: int) -> Setting:
    return _volume((side, side, side), (patch, patch, patch), voxel_mm=1.0)


def _volume(
    volume: Triple, patch: Triple = (PATCH,) * 3, classes: int = 3, voxel_mm: float = 0.8
) -> Setting:
    """A drawn one with a plan of 1 mm."""
    name = f"{_times(volume)} of {voxel_mm:.3g} mm, {classes} classes, patch "
    more = {"classes": classes, "volume": volume, "voxel_mm": (voxel_mm,) * 3}
    return setting(name, patch, 1).model_copy(update=more)


def _real(path: str) -> Setting:
    """A file with a plan at its own voxels, as of a training set of such images.

    A thick axis is planned at a third of its voxels: nnU-Net's rule gives about that where the
    thickness varies (its plan for MSD's spleen CT, mostly 5 mm, has 1.6 mm).
    """
    header = nib.load(path).header
    w, h, d = (float(mm) for mm in header.get_zooms()[:3])
    voxel_mm, volume = (d, h, w), tuple(header.get_data_shape()[2::-1])
    spacing = [mm / THICK if mm > THICK * sorted(voxel_mm)[1] else mm for mm in voxel_mm]
    plan = (spacing[0], spacing[1], spacing[2])
    sized = Setting(
        name="", patch=(1, 1, 1), batch=1, strides=(), kernels=(), volume=volume,
        voxel_mm=voxel_mm, spacing_mm=plan,
    )  # fmt: skip
    d, h, w = (min(PATCH, -(-n // _STEP) * _STEP) for n in sized.prepared)
    said = "×".join(f"{mm:.3g}" for mm in plan[::-1])
    name = f"{Path(path).name.split('.')[0]}, {_times(volume)}, plan of {said} mm, patch "
    made = setting(name, (d, h, w), 1, plan)
    return made.model_copy(update={"file": path, "volume": volume, "voxel_mm": voxel_mm})


def _times(shape: Triple) -> str:
    """(W, H, D) as people say it."""
    return "×".join(map(str, shape[::-1]))


_QUICK = [_volume((24, 40, 32), (32, 32, 32), classes) for classes in (2, 5)]
