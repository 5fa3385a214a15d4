"""A data set whose headers name the wrong axes, with the right ones."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from ship_notices import TURNED

from u2net3d import files
from u2net3d.io.dataset import SPLITS_FILE, Dataset, find_dataset
from u2net3d.io.description import FILE_NAME, read_description
from u2net3d.volume import Array

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
    """Writes a copy of the labelled cases of a NIfTI data set to `folder`, their axes as told.

    axes: those of the arrays as they are stored, such as PLI (back, left, feet), whatever the
    headers say. Voxels and their size in mm stay as they are, and the first lies at the origin; the
    release in dataset.json says what was done. Ends the program for files that are no NIfTI or hold
    scaled numbers, and for a label that lies otherwise than its image.
    """
    if folder.resolve() == dataset.root.resolve():
        sys.exit(f"error: --work: {folder} holds the data itself — name another folder")
    shutil.rmtree(folder, ignore_errors=True)  # half of an earlier attempt
    for case in dataset.cases:
        affines = [_copy(path, axes, dataset.root, folder) for path in (*case.images, case.label)]
        if not all(np.allclose(affine, affines[0], atol=1e-3) for affine in affines):
            sys.exit(f"error: {case.label}: lies otherwise than its image — store them alike first")
    content = read_description(dataset.root)
    release = f"{content.get('release', 'release not known')}{TURNED}{axes}"
    left_out = {"test": [], "numTest": 0} if "test" in content else {}
    files.write_json(folder / FILE_NAME, {**content, **left_out, "release": release})
    if (splits := dataset.root / SPLITS_FILE).is_file():
        files.write_bytes(folder / SPLITS_FILE, splits.read_bytes())
    find_dataset(folder.parent, f"{dataset.domain}={folder}")  # raises where it is none


def _copy(path: Path | None, axes: str, root: Path, folder: Path) -> Array:
    """Writes one file with another affine; the affine (4, 4) that it had."""
    image = nib.load(path)
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        sys.exit(f"error: {path}: is no NIfTI — --turn knows no other format")
    if (image.dataobj.slope, image.dataobj.inter) != (1, 0):
        sys.exit(f"error: {path}: holds scaled numbers — store them as they are first")
    before, affine = image.affine.copy(), np.eye(4)
    affine[:3, :3] = np.transpose([TOWARDS[axis] for axis in axes]) * voxel_sizes(before)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    copy = folder / Path(path).relative_to(root)
    copy.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, copy)
    return before
