"""A data set whose headers name the wrong axes, with the right ones."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from u2net3d import files
from u2net3d.io.dataset import SPLITS_FILE, Dataset
from u2net3d.io.description import FILE_NAME, read_description

# Unit vectors (R, A, S) of the two ends of each axis of the body.
TOWARDS = {
    "R": (1, 0, 0),
    "L": (-1, 0, 0),
    "A": (0, 1, 0),
    "P": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}


def axes_of(text: str) -> tuple[str, str]:
    """`headneckct=PLI` as a domain's name and its axes; ends the program where it is none."""
    name, _, axes = text.partition("=")
    matrix = [TOWARDS.get(axis, (0, 0, 0)) for axis in axes]
    if not name or len(axes) != 3 or np.linalg.matrix_rank(matrix) < 3:
        sys.exit(f"error: --turn: '{text}' names no three axes — such as headneckct=PLI")
    return name, axes


def turned(dataset: Dataset, axes: str, folder: Path) -> None:
    """Writes a copy of a data set of NIfTI files whose voxels run towards `axes` to `folder`.

    axes: of the arrays as they are stored, such as PLI (back, left, feet), whatever their headers
    say. Voxels and their size in mm stay as they are, and the first lies at the origin; the release
    in dataset.json says what was done.
    """
    shutil.rmtree(folder, ignore_errors=True)  # half of an earlier attempt
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
        for path in sorted((dataset.root / name).glob("*.nii.gz")):
            image = nib.nifti1.Nifti1Image.from_filename(path)
            affine = np.eye(4)
            affine[:3, :3] = np.transpose([TOWARDS[axis] for axis in axes])
            affine[:3, :3] *= voxel_sizes(image.affine)
            image.set_sform(affine, code="scanner")
            image.set_qform(affine, code="scanner")
            nib.save(image, folder / name / path.name)
    content = read_description(dataset.root)
    release = f"{content.get('release', 'release not known')}; headers turned to {axes}"
    files.write_json(folder / FILE_NAME, {**content, "release": release})
    if (splits := dataset.root / SPLITS_FILE).is_file():
        files.write_bytes(folder / SPLITS_FILE, splits.read_bytes())
