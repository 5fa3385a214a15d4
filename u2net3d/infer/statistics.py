"""How much of each label there is, and how bright the image is inside: `predict --statistics`.

JSON (`to_json`; what is not defined is null)

    {"domain": "liver", "labels": [names without the background], "channels": [names],
     "definitions": {figure: what it means},
     "cases": {case: {label: {"voxels", "millilitres", "touches_border",
                              "intensity": {channel: {"mean", "std"}}}}},
     "failed": [case]}
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from u2net3d import files
from u2net3d.errors import UsageError
from u2net3d.spec import DomainSpec
from u2net3d.volume import Array, Volume

SUFFIXES = (".json", ".csv")
DEFINITIONS = {
    "voxels": "voxels of the image's own grid that have the label",
    "millilitres": "voxels times the volume of one, by the image's affine",
    "touches_border": "whether a voxel of the label lies in an outermost slice of the image, which"
    " may then not hold all of it",
    "mean": "mean of the image's values, as stored and scaled in the file, over those voxels",
    "std": "their standard deviation (of the population: divided by n)",
}


@dataclass(frozen=True)
class LabelStatistics:
    """One label of one case. mean, std: per channel; None where the label has no voxel."""

    label: str
    voxels: int
    millilitres: float
    touches_border: bool
    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]


def label_statistics(
    image: Volume, label: Array, labels: Sequence[str]
) -> tuple[LabelStatistics, ...]:
    """The statistics of labels[1:] in order; image (C, D, H, W), label (D, H, W) on its grid.

    The label holds values below len(labels).
    """
    from scipy.ndimage import find_objects

    voxel_ml = abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000  # sheared ones too
    found = []
    boxes = find_objects(label, max_label=len(labels) - 1)
    for value, (name, box) in enumerate(zip(labels[1:], boxes, strict=True), start=1):
        if box is None:
            nothing = (None,) * len(image.array)
            found.append(LabelStatistics(name, 0, 0.0, False, nothing, nothing))
            continue
        mask = label[box] == value
        inside = [channel[box][mask].astype(np.float64) for channel in image.array]
        found.append(
            LabelStatistics(
                label=name,
                voxels=int(mask.sum()),
                millilitres=float(mask.sum() * voxel_ml),
                touches_border=any(
                    side.start == 0 or side.stop == size
                    for side, size in zip(box, label.shape, strict=True)
                ),
                mean=tuple(float(values.mean()) for values in inside),
                std=tuple(float(values.std()) for values in inside),
            )
        )
    return tuple(found)


def require_table(path: Path, option: str) -> None:
    """Raises UsageError, naming `option`, where no statistics can be written to `path`."""
    if path.is_dir():
        raise UsageError(option, f"{path} is a folder", "name a file in it")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(option, f"{path} is no .json and no .csv", "end the name in one of them")
    files.require_writable(path, option)


def write_statistics(
    path: Path,
    spec: DomainSpec,
    cases: Mapping[str, Sequence[LabelStatistics]],
    failed: Sequence[str],
) -> None:
    """Writes the statistics of `cases`, in order of their names, as JSON or CSV by the suffix."""
    rows = dict(sorted(cases.items()))
    if path.suffix.lower() == ".csv":
        files.write_text(path, to_csv(spec, rows))
    else:
        files.write_json(path, to_json(spec, rows, failed))


def to_json(
    spec: DomainSpec, cases: Mapping[str, Sequence[LabelStatistics]], failed: Sequence[str]
) -> dict[str, Any]:
    """Plain JSON in the schema of this module."""
    return {
        "domain": spec.name,
        "labels": list(spec.labels[1:]),
        "channels": list(spec.channels),
        "definitions": dict(DEFINITIONS),
        "cases": {
            case: {row.label: _entry(row, spec.channels) for row in rows}
            for case, rows in cases.items()
        },
        "failed": sorted(failed),
    }


def to_csv(spec: DomainSpec, cases: Mapping[str, Sequence[LabelStatistics]]) -> str:
    """A row per case and label; `mean` and `std` of each channel are columns of their own."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    intensity = [f"{figure} {name}" for name in spec.channels for figure in ("mean", "std")]
    writer.writerow(["case", "label", "voxels", "millilitres", "touches_border", *intensity])
    for case, rows in cases.items():
        for row in rows:
            border = str(row.touches_border).lower()
            figures = [value for pair in zip(row.mean, row.std, strict=True) for value in pair]
            writer.writerow([case, row.label, row.voxels, row.millilitres, border, *figures])
    return text.getvalue()


def _entry(row: LabelStatistics, channels: Sequence[str]) -> dict[str, Any]:
    pairs = zip(channels, row.mean, row.std, strict=True)
    return {
        "voxels": row.voxels,
        "millilitres": row.millilitres,
        "touches_border": row.touches_border,
        "intensity": {name: {"mean": mean, "std": std} for name, mean, std in pairs},
    }
