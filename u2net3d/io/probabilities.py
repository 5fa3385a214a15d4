"""Probabilities of every class as one 4-D NIfTI file beside the label they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from u2net3d.io.nifti import Source, save
from u2net3d.volume import Array

STEP = 1 / np.iinfo(np.uint16).max  # of a stored number


def write_probabilities(path: Path, shares: Array, source: Source) -> None:
    """Writes shares (classes, D, H, W) uint16 in units of STEP as .nii.gz (I, J, K, classes).

    The first three axes lie as the source lay in its file. NIfTI has no float16; its scaling factor
    (scl_slope) makes readers give 0 to 1. Whole or not at all; the same shares give the same bytes.
    Raises DataError where the file cannot be written, ValueError for what does not fit the source.
    """
    import nibabel as nib

    stored = np.moveaxis(source.orientation.undo(shares), 0, 3)
    if stored.shape[:3] != source.stored_shape or stored.dtype != np.uint16:
        what = f"{stored.dtype} {stored.shape[:3]} does not fit its source {source.stored_shape}"
        raise ValueError(what)
    header = _header(source, stored.shape)
    nifti2 = isinstance(header, nib.Nifti2Header)
    image = (nib.Nifti2Image if nifti2 else nib.Nifti1Image)(stored, source.affine, header)
    image.header.set_slope_inter(STEP, 0)  # given outright, it is written beside the raw numbers
    save(path, image)


def _header(source: Source, shape: tuple[int, ...]) -> Any:
    header = source.header.copy()
    header.set_data_dtype(np.uint16)
    header.set_data_shape(shape)
    header["pixdim"][4] = 1  # the fourth axis counts classes
    return header
