"""NIfTI in and out: voxels turned to canonical order, labels written back as the input lay.

What is read is believed only as far as it can be checked: `stream` guards the bytes, `header` their
number, `forms` the geometry. nibabel is imported inside the functions: it takes a third of a
second, and naming a type or a path needs none of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from u2net3d import files
from u2net3d.errors import DataError, UsageError
from u2net3d.io import forms
from u2net3d.io.stored import PAIR_SUFFIXES, load, parts
from u2net3d.io.stream import blaming, unreadable
from u2net3d.io.values import channels_first, mend_voxels, require_numbers, scaled, whole_numbers
from u2net3d.io.zipping import zipped_file
from u2net3d.volume import Array, Orientation, Triple, Volume, to_canonical

__all__ = [
    "NIFTI_SUFFIXES",
    "PAIR_SUFFIXES",
    "Source",
    "from_array",
    "from_nibabel",
    "image_volume",
    "label_volume",
    "parts",
    "read_image",
    "read_label",
    "to_nibabel",
    "unreadable",
    "write_label",
]

NIFTI_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True, eq=False)
class Source:
    """Where a volume came from and how it lay there: what it takes to write a label that fits.

    stored_shape: voxels along I, J, K; affine (4, 4): stored index to (R, A, S) in mm;
    header: a fresh NIfTI header that holds the input's qform, sform, their codes, voxel sizes and
    units, bit for bit, and nothing else (for other formats the affine as both forms, code 1);
    notes: what was mended or chosen in reading, a line each, without names.
    """

    path: Path
    orientation: Orientation
    stored_shape: Triple
    affine: NDArray[np.float64]
    header: Any
    notes: tuple[str, ...] = ()


def read_image(path: Path) -> tuple[Volume, Source]:
    """The image in a NIfTI file, or pair: (C, D, H, W) float32; a 4-D file's last axis is C.

    Raises DataError for a file that is missing, damaged, contradicts itself, or is no volume.
    """
    stored, header = load(path)
    array = channels_first(scaled(stored, header.scaling), path)
    affine, notes = forms.affine_of(header.fields, _three(array), path)
    return image_volume(array, affine, path, header.fields, notes)


def read_label(path: Path) -> tuple[Volume, Source]:
    """The label in a NIfTI file: (1, D, H, W) int16; floats are accepted where they are whole.

    Raises DataError as `read_image` does, and for several values a voxel or broken numbers.
    """
    stored, header = load(path)
    array = channels_first(stored, path)
    affine, notes = forms.affine_of(header.fields, _three(array), path)
    if header.scaling:
        array = array.astype(np.float64) * header.scaling[0] + header.scaling[1]
    return label_volume(array, affine, path, header.fields, notes)


def from_nibabel(image: Any) -> tuple[Volume, Source]:
    """The same as `read_image` for a nibabel image, of any format that has an affine; a copy."""
    import nibabel as nib

    path = Path(image.get_filename() or "image")
    require_numbers(image.get_data_dtype(), path)
    with blaming(path), np.errstate(all="ignore"):
        array = np.array(np.asarray(image.dataobj, dtype=np.float32))
    array = channels_first(array, path)
    if not isinstance(image, nib.Nifti1Pair):
        return image_volume(array, image.affine, path, None)
    forms.require_usable(image.affine, path)
    affine, notes = forms.affine_of(image.header, _three(array), path)
    if not np.allclose(affine, image.affine):  # changed in memory: what counts is the image's own
        notes = ()
    return image_volume(array, image.affine, path, image.header, notes)


def from_array(array: ArrayLike, affine: ArrayLike) -> tuple[Volume, Source]:
    """The same for numbers in memory: array (I, J, K) or (C, I, J, K), affine (4, 4) to RAS mm."""
    path, values = Path("array"), np.array(array)
    require_numbers(values.dtype, path)
    values = values[None] if values.ndim == 3 else values
    return image_volume(values, np.asarray(affine, dtype=float), path, None)


def image_volume(
    array: Array,
    affine: NDArray[np.float64] | None,
    path: Path,
    header: Any,
    notes: tuple[str, ...] = (),
) -> tuple[Volume, Source]:
    """Stored numbers (C, I, J, K) to a canonical float32 volume and its source.

    header: a NIfTI header to take the geometry from, or None to make one from the affine. Where
    few voxels are not finite they are replaced, in `array` itself if it is float32. Raises
    DataError for 2-D images, a broken affine and too many numbers that are not finite.
    """
    if array.ndim != 4 or min(array.shape) < 1 or min(array.shape[1:]) < 2:
        sizes = "×".join(str(n) for n in (array.shape[1:] if array.ndim == 4 else array.shape))
        raise DataError(path, f"is no 3-D volume ({sizes} voxels)", "give a volume of many slices")
    whole = array.dtype.kind in "biu"
    with np.errstate(all="ignore"):
        array = array.astype(np.float32, copy=False)
    mended = () if whole else mend_voxels(array, path)
    return _canonical(array, affine, path, header, (*notes, *mended))


def label_volume(
    array: Array,
    affine: NDArray[np.float64] | None,
    path: Path,
    header: Any,
    notes: tuple[str, ...] = (),
) -> tuple[Volume, Source]:
    """Stored label values (1, I, J, K) to a canonical int16 volume and its source.

    Raises DataError for several values a voxel and for values that are no whole numbers of 16 bit.
    """
    if array.ndim != 4 or array.shape[0] != 1 or array.size == 0:
        what = f"is no 3-D label (stored as {array.shape[1:]} with {array.shape[0]} values a voxel)"
        raise DataError(path, what, "store one label value a voxel")
    return _canonical(whole_numbers(array, path), affine, path, header, notes)


def to_nibabel(label: Array, source: Source) -> Any:
    """A nibabel image of label (D, H, W), turned back to lie as the source lay in its file.

    Fresh header, smallest unsigned type; raises ValueError where label does not fit the source.
    """
    import nibabel as nib

    stored = source.orientation.undo(label)
    if stored.shape != source.stored_shape:
        raise ValueError(f"label {stored.shape} does not fit its source {source.stored_shape}")
    if stored.min() < 0:
        raise ValueError("a label to be written has no negative values")
    dtype = np.min_scalar_type(int(stored.max()))
    header = source.header.copy()
    header.set_data_dtype(dtype)
    nifti2 = isinstance(header, nib.Nifti2Header)
    image_class = nib.Nifti2Image if nifti2 else nib.Nifti1Image
    return image_class(stored.astype(dtype), source.affine, header)


def write_label(path: Path, label: Array, source: Source) -> None:
    """Writes label (D, H, W) as .nii or .nii.gz with the shape, affine and codes of its source.

    Whole or not at all; the same label gives the same bytes. Raises UsageError for another suffix,
    DataError where the file cannot be written.
    """
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        raise UsageError(path, "labels are written as NIfTI", "end the name in .nii.gz or .nii")
    image = to_nibabel(label, source)
    save(path, image)


def save(path: Path, image: Any) -> None:
    """Writes a nibabel image, whole or not at all. Raises DataError where it cannot be written."""
    opened = zipped_file if path.name.lower().endswith(".gz") else partial(Path.open, mode="wb")
    try:
        with files.replacing(path) as temporary, opened(temporary) as handle:
            image.to_stream(handle)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            path, f"cannot be written ({reason})", "make room or choose a place"
        ) from error


def _three(array: Array) -> Triple:
    i, j, k = array.shape[1:]
    return i, j, k


def _canonical(
    array: Array,
    affine: NDArray[np.float64] | None,
    path: Path,
    header: Any,
    notes: tuple[str, ...],
) -> tuple[Volume, Source]:
    affine = forms.require_usable(affine, path)
    volume, orientation = to_canonical(array, affine)
    # Contiguous, since torch takes no reversed axes.
    volume = Volume(np.ascontiguousarray(volume.array), volume.affine)
    geometry = forms.geometry_header(header, affine, _three(array))
    return volume, Source(path, orientation, _three(array), affine, geometry, notes)
