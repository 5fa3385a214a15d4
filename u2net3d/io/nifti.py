"""NIfTI in and out: voxels turned to canonical order, labels written back as the input lay.

nibabel is imported inside the functions: it takes a third of a second, and naming a type or a path
needs none of it.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from u2net3d import files
from u2net3d.errors import DataError, UsageError
from u2net3d.volume import Array, Orientation, Triple, Volume, to_canonical

NIFTI_SUFFIXES = (".nii.gz", ".nii")

# A float label may be off a whole number by this much: the rounding of a scaling factor.
WHOLE_NUMBER_TOLERANCE = 1e-4

# What a header says about where voxels lie. The rest stays behind: its free text names people.
_GEOMETRY_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


@dataclass(frozen=True, eq=False)
class Source:
    """Where a volume came from and how it lay there: what it takes to write a label that fits.

    stored_shape: voxels along I, J, K; affine (4, 4): stored index to (R, A, S) in mm;
    header: a fresh NIfTI header that holds the input's qform, sform, their codes, voxel sizes and
    units, bit for bit, and nothing else (for other formats the affine as both forms, code 1).
    """

    path: Path
    orientation: Orientation
    stored_shape: Triple
    affine: NDArray[np.float64]
    header: Any


def read_image(path: Path) -> tuple[Volume, Source]:
    """The image in a NIfTI file: (C, D, H, W) float32; a 4-D file's last axis is the channel.

    Raises DataError for a file that is missing, damaged (the CRC of gzip is checked) or no volume.
    """
    array, affine, header = _load(path, np.float32)
    return image_volume(_channels_first(array, path), affine, path, header)


def read_label(path: Path) -> tuple[Volume, Source]:
    """The label in a NIfTI file: (1, D, H, W) int16; floats are accepted where they are whole.

    Raises DataError as `read_image` does, and for several values a voxel or broken numbers.
    """
    array, affine, header = _load(path, None)
    return label_volume(_channels_first(array, path), affine, path, header)


def from_nibabel(image: Any) -> tuple[Volume, Source]:
    """The same as `read_image` for a nibabel image, of any format that has an affine; a copy."""
    import nibabel as nib

    path = Path(image.get_filename() or "image")
    _require_numbers(image.get_data_dtype(), path)
    with _blaming(path), np.errstate(over="ignore"):
        array = np.array(np.asarray(image.dataobj, dtype=np.float32))
    header = image.header if isinstance(image, nib.Nifti1Pair) else None
    return image_volume(_channels_first(array, path), image.affine, path, header)


def from_array(array: ArrayLike, affine: ArrayLike) -> tuple[Volume, Source]:
    """The same for numbers in memory: array (I, J, K) or (C, I, J, K), affine (4, 4) to RAS mm."""
    path, values = Path("array"), np.array(array)
    _require_numbers(values.dtype, path)
    values = values[None] if values.ndim == 3 else values
    return image_volume(values, np.asarray(affine, dtype=float), path, None)


def image_volume(
    array: Array, affine: NDArray[np.float64] | None, path: Path, header: Any
) -> tuple[Volume, Source]:
    """Stored numbers (C, I, J, K) to a canonical float32 volume and its source.

    header: a NIfTI header to take the geometry from, or None to make one from the affine.
    Raises DataError for 2-D images, a broken affine and numbers that are not finite.
    """
    if array.ndim != 4 or min(array.shape) < 1 or min(array.shape[1:]) < 2:
        sizes = "×".join(str(n) for n in (array.shape[1:] if array.ndim == 4 else array.shape))
        raise DataError(path, f"is no 3-D volume ({sizes} voxels)", "give a volume of many slices")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    broken = array.size - np.count_nonzero(np.isfinite(array))
    if broken:
        mend = "replace them, for instance by the value of the background"
        raise DataError(path, f"{broken} voxels are not finite numbers (NaN or infinite)", mend)
    return _canonical(array, affine, path, header)


def label_volume(
    array: Array, affine: NDArray[np.float64] | None, path: Path, header: Any
) -> tuple[Volume, Source]:
    """Stored label values (1, I, J, K) to a canonical int16 volume and its source.

    Raises DataError for several values a voxel and for values that are no whole numbers of 16 bit.
    """
    if array.ndim != 4 or array.shape[0] != 1 or array.size == 0:
        what = f"is no 3-D label (stored as {array.shape[1:]} with {array.shape[0]} values a voxel)"
        raise DataError(path, what, "store one label value a voxel")
    return _canonical(_whole_numbers(array, path), affine, path, header)


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
    import nibabel as nib

    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        raise UsageError(path, "labels are written as NIfTI", "end the name in .nii.gz or .nii")
    image = to_nibabel(label, source)
    try:
        with files.replacing(path) as temporary:
            nib.save(image, temporary)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            path, f"cannot be written ({reason})", "make room or choose a place"
        ) from error


def unreadable(path: Path, error: Exception) -> DataError:
    """The one line for a file that a library could not read."""
    if isinstance(error, FileNotFoundError):
        return DataError(path, "does not exist", "check the name")
    if isinstance(error, IsADirectoryError):
        return DataError(path, "is a folder, not a file", "name an image file")
    if isinstance(error, PermissionError):
        return DataError(path, "may not be read", "ask for the right to read it")
    reason = " ".join(str(error).split())[-200:] or type(error).__name__
    return DataError(path, f"cannot be read ({reason})", "copy, download or export it again")


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turns what nibabel and gzip raise about the content of `path` into a DataError."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    of_the_file = (OSError, EOFError, zlib.error, ValueError, OverflowError, MemoryError)
    of_nibabel = (ImageFileError, HeaderDataError, WrapStructError)
    try:
        yield
    except (*of_the_file, *of_nibabel) as error:
        raise unreadable(path, error) from error


def _load(path: Path, dtype: type[np.float32] | None) -> tuple[Array, NDArray[np.float64], Any]:
    """Voxels (I, J, K[, ...]) with their scaling applied, affine and header of a NIfTI file."""
    with _blaming(path):
        with path.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as stream:
            image = _image_in(stream)
            _require_numbers(image.get_data_dtype(), path)
            with np.errstate(over="ignore"):
                array = np.asanyarray(image.dataobj, dtype=dtype)
            while stream.read(1 << 20):  # to the end, where gzip keeps its CRC
                pass
    return array, image.affine, image.header


def _image_in(stream: Any) -> Any:
    """The NIfTI-1 or NIfTI-2 image in an open file; its voxels are not read yet."""
    import nibabel as nib
    from nibabel.fileholders import FileHolder

    start = stream.read(540)
    stream.seek(0)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        if kind.header_class.may_contain_header(start):
            # No memory map: it would change under us when the file is overwritten.
            return kind.from_file_map({"image": FileHolder(fileobj=stream)}, mmap=False)
    raise ValueError("its content is not NIfTI")


def _require_numbers(dtype: Any, path: Path) -> None:
    if np.dtype(dtype).kind not in "biuf":
        raise DataError(path, "holds colours or complex numbers", "give one real number a voxel")


def _channels_first(array: Array, path: Path) -> Array:
    """(I, J, K), (I, J, K, C) or the vector form (I, J, K, 1, C) to (C, I, J, K)."""
    if array.ndim == 5 and array.shape[3] == 1:
        array = array[:, :, :, 0]
    if array.ndim not in (3, 4):
        sizes = "×".join(map(str, array.shape))
        what = f"is a {array.ndim}-D image ({sizes} voxels), not a volume"
        raise DataError(path, what, "give a 3-D image, or a 4-D one with the channels last")
    return array[None] if array.ndim == 3 else np.moveaxis(array, 3, 0)


def _whole_numbers(values: Array, path: Path) -> NDArray[np.int16]:
    if values.dtype.kind == "f":
        rounded = np.rint(values)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(values - rounded) <= WHOLE_NUMBER_TOLERANCE)
        if wrong.any():
            what = f"holds {values[wrong][0]:g}, but label values are whole numbers"
            raise DataError(path, what, "export the label without interpolation")
        values = rounded
    limits = np.iinfo(np.int16)
    if values.min() < limits.min or values.max() > limits.max:
        what = f"holds values from {values.min():g} to {values.max():g}"
        raise DataError(path, what, f"number the labels from 0; at most {limits.max}")
    return values.astype(np.int16)


def _canonical(
    array: Array, affine: NDArray[np.float64] | None, path: Path, header: Any
) -> tuple[Volume, Source]:
    if affine is None or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        what = "has no usable affine (voxel sizes or directions are missing or broken)"
        raise DataError(path, what, "export it again with its geometry")
    i, j, k = array.shape[1:]
    volume, orientation = to_canonical(array, affine)
    # Contiguous, since torch takes no reversed axes.
    volume = Volume(np.ascontiguousarray(volume.array), volume.affine)
    geometry = _geometry_header(header, affine, (i, j, k))
    return volume, Source(path, orientation, (i, j, k), affine, geometry)


def _geometry_header(header: Any, affine: NDArray[np.float64], shape: Triple) -> Any:
    """A fresh header with the geometry of `header`, or with `affine` as both forms, code 1."""
    import nibabel as nib

    if header is None:
        fresh = nib.Nifti1Header()
        fresh.set_data_shape(shape)
        fresh.set_xyzt_units("mm")
        fresh.set_sform(affine, code=1)
        fresh.set_qform(affine, code=1, strip_shears=True)
        if not np.allclose(fresh.get_qform(), affine, atol=1e-3):
            fresh["qform_code"] = 0  # a sheared affine has no qform
        return fresh
    fresh = nib.Nifti2Header() if int(header["sizeof_hdr"]) == 540 else nib.Nifti1Header()
    fresh.set_data_shape(shape)
    for field in _GEOMETRY_FIELDS:
        fresh[field] = header[field]
    fresh["pixdim"][:4] = header["pixdim"][:4]
    return fresh
