"""Images of other formats (NRRD, MetaImage) through SimpleITK, as `nifti` reads its own.

SimpleITK never reads NIfTI here: there it takes truncated files for zeros and NaN for 0. What it
does not check of its own formats is checked before, in `described`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from u2net3d.errors import DataError
from u2net3d.io import nifti
from u2net3d.io.described import Described, described, parts
from u2net3d.io.forms import require_usable
from u2net3d.io.nifti import Source
from u2net3d.io.stream import damaged, unreadable
from u2net3d.volume import Array, Volume

__all__ = ["OTHER_SUFFIXES", "parts", "read_image", "read_label"]

OTHER_SUFFIXES = (".nrrd", ".mha", ".mhd")


def read_image(path: Path) -> tuple[Volume, Source]:
    """The image in a file: (C, D, H, W) float32; the components of a vector are the channels.

    Raises DataError for a file that is missing, damaged, contradicts itself, or is no volume.
    """
    said = described(path)
    array, affine = _load(path, said)
    return nifti.image_volume(array, affine, path, None, said.notes)


def read_label(path: Path) -> tuple[Volume, Source]:
    """The label in a file: (1, D, H, W) int16; floats are accepted where they are whole.

    Raises DataError as `read_image` does, and for several values a voxel or broken numbers.
    """
    said = described(path)
    array, affine = _load(path, said)
    return nifti.label_volume(array, affine, path, None, said.notes)


def _load(path: Path, said: Described) -> tuple[Array, NDArray[np.float64]]:
    """Voxels (C, I, J, K) as stored, and the affine from (i, j, k, 1) to (R, A, S, 1) in mm."""
    import SimpleITK as sitk  # noqa: N813

    try:
        image = sitk.ReadImage(str(path), imageIO=said.reader)
    except (OSError, RuntimeError, ValueError) as error:
        if "Bad direction" in str(error):
            require_usable(None, path)
        raise unreadable(path, error) from error
    if image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() != said.numbers:
        raise damaged(path, "SimpleITK reads its header in another way")
    if image.GetDimension() != 3:
        what = f"is a {image.GetDimension()}-D image, not a volume"
        raise DataError(path, what, "give a 3-D image, or several channels as a vector a voxel")
    if "complex" in image.GetPixelIDTypeAsString():
        raise DataError(path, "holds complex numbers", "give one real number a voxel")
    array = sitk.GetArrayFromImage(image)  # (K, J, I) or (K, J, I, C)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # its world is (L, P, S)
    return array.T if array.ndim == 4 else array.T[None], affine
