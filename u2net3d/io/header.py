"""A NIfTI header against the bytes of its file, before a voxel is read or memory asked for.

nibabel mends much of what is wrong in a header, each time in silence. Here a header is believed
only where it does not contradict itself or the size of the file.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from u2net3d.errors import DataError
from u2net3d.io.stream import AGAIN, GZIP, Stream, damaged

# NIfTI's numbers of the types that hold one real number a voxel.
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_TYPES |= {1024: "i8", 1280: "u8"}
_COLOURS_AND_COMPLEX = {32, 128, 1792, 2048, 2304}

_MAGICS = {
    (348, b"n+1\0"): False,
    (348, b"ni1\0"): True,
    (540, b"n+2\0\r\n\x1a\n"): False,
    (540, b"ni2\0\r\n\x1a\n"): True,
}
_EXTENSION_FLAG_BYTES = 4

_OTHER_CONTENT = (
    (b"NRRD", "NRRD", "end its name in .nrrd"),
    (b"ObjectType", "MetaImage", "end its name in .mha"),
    (b"NDims", "MetaImage", "end its name in .mha"),
    (GZIP, "zipped twice", "unzip it once"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"BZh", "compressed with bzip2", "unpack it"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it"),
    (b"\x89HDF", "HDF5 or MINC", "convert it to NIfTI"),
    (b"\x89PNG", "a PNG picture", "give a volume, as .nii.gz"),
    (b"\xff\xd8\xff", "a JPEG picture", "give a volume, as .nii.gz"),
    (b"II*\0", "a TIFF picture", "give a volume, as .nii.gz"),
    (b"version https://git-lfs", "a pointer of git LFS", "fetch the file itself (git lfs pull)"),
    (b"/annex/objects", "a pointer of git-annex", "fetch the file itself (git annex get)"),
    (b"<", "a web page", "download the file itself"),
)


@dataclass(frozen=True)
class Header:
    """What a header says, found to be consistent.

    fields: nibabel's header; shape: voxels along each axis, without trailing axes of length 1;
    offset: where the voxels begin in their file; scaling: (slope, intercept) or None; paired:
    whether the voxels lie in another file.
    """

    fields: Any
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    scaling: tuple[float, float] | None
    paired: bool

    @property
    def voxel_bytes(self) -> int:
        """The size of all voxels as they are stored."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def total_bytes(self) -> int:
        """The size of the file that holds the voxels."""
        return self.offset + self.voxel_bytes


def read_header(stream: Stream, path: Path) -> Header:
    """The header at the beginning of a stream, which then stands behind header and extensions.

    Raises DataError for what is no NIfTI, is no volume of real numbers or contradicts itself.
    """
    fields = _fields(stream, path)
    size = int(fields["sizeof_hdr"])
    paired = _MAGICS[size, _magic(fields)]
    dtype = _dtype(fields, path)
    shape, offset = _shape(fields, path), _offset(fields, paired, path)
    header = Header(fields, dtype, shape, offset, _scaling(fields, path), paired)
    if not paired:
        require_size(header, stream, path)
        _pass_extensions(stream, header, path)
    return header


def require_size(header: Header, stream: Stream, path: Path) -> None:
    """Raises DataError unless the stream can hold exactly what the header says."""
    if header.total_bytes > stream.most_bytes or (
        not stream.zipped and header.total_bytes < stream.file_bytes
    ):
        found = "so many cannot be zipped in it" if stream.zipped else f"it has {stream.file_bytes}"
        raise wrong_size(header, found, path)


def wrong_size(header: Header, found: str, path: Path) -> DataError:
    """The one line for a header that promises other bytes than there are."""
    sizes = "×".join(map(str, header.shape))
    voxels = f"{sizes} voxels of {header.dtype.itemsize} bytes"
    promised = f"its header says {voxels} from byte {header.offset} on, {header.total_bytes} in all"
    return damaged(path, f"{promised}, but {found}")


def other_content(start: bytes) -> tuple[str, str]:
    """What a file that is no NIfTI seems to be, and the mend."""
    if not start:
        return "it is empty", AGAIN
    if not start.strip(b"\0"):
        return "it begins with zeros only: it was never written out", AGAIN
    if start[128:132] == b"DICM":
        return "its content is DICOM, not NIfTI", "convert it to NIfTI"
    for begins, kind, mend in _OTHER_CONTENT:
        if start.startswith(begins):
            return f"its content is {kind}, not NIfTI", mend
    return "its content is not NIfTI", AGAIN


def _fields(stream: Stream, path: Path) -> Any:
    import nibabel as nib

    start = stream.read(348)
    for order in ("<", ">"):
        if len(start) < 4 or struct.unpack(f"{order}i", start[:4])[0] not in (348, 540):
            continue
        size = struct.unpack(f"{order}i", start[:4])[0]
        start += stream.read(size - len(start))
        if len(start) < size:
            raise damaged(path, f"it ends after {len(start)} bytes, within its header")
        kind = nib.Nifti1Header if size == 348 else nib.Nifti2Header
        fields = kind(start, endianness=order, check=False)
        if (size, _magic(fields)) not in _MAGICS:
            raise _no_magic(fields, path)
        return fields
    raise damaged(path, *other_content(start))


def _magic(fields: Any) -> bytes:
    """The bytes that name the version; numpy hides the zeros at the end of a text."""
    raw: bytes = fields.structarr.tobytes()
    return raw[344:348] if int(fields["sizeof_hdr"]) == 348 else raw[4:12]


def _no_magic(fields: Any, path: Path) -> DataError:
    if int(fields["sizeof_hdr"]) == 348 and not _magic(fields).strip(b"\0"):
        what = "is Analyze 7.5, which does not say what is left and right"
        return DataError(path, what, "convert its original to NIfTI")
    return damaged(path, f"its header ends in {_magic(fields)!r}, which is no version of NIfTI")


def _dtype(fields: Any, path: Path) -> np.dtype[Any]:
    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    if code in _COLOURS_AND_COMPLEX:
        raise DataError(path, "holds colours or complex numbers", "give one real number a voxel")
    if code not in _TYPES:
        mend = "store it as one of int16, uint8, float32"
        raise damaged(path, f"its header names the type {code} of voxels, which is not read", mend)
    order: Literal["<", ">"] = "<" if fields.endianness == "<" else ">"
    dtype = np.dtype(_TYPES[code]).newbyteorder(order)
    if bits != 8 * dtype.itemsize:
        said = f"its header says {bits} bits a voxel, but {np.dtype(_TYPES[code])}"
        raise damaged(path, said)
    return dtype


def _shape(fields: Any, path: Path) -> tuple[int, ...]:
    axes = int(fields["dim"][0])
    if not 1 <= axes <= 7:
        raise damaged(path, f"its header says {axes} axes")
    shape = tuple(int(n) for n in fields["dim"][1 : axes + 1])
    if min(shape) < 1:
        raise damaged(path, f"its header says {'×'.join(map(str, shape))} voxels")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _offset(fields: Any, paired: bool, path: Path) -> int:
    offset = float(fields["vox_offset"])
    least = 0 if paired else int(fields["sizeof_hdr"]) + _EXTENSION_FLAG_BYTES
    if not (math.isfinite(offset) and offset == int(offset) and offset >= least):
        said = f"its header says that voxels begin at byte {offset:g}; {least} is the first"
        raise damaged(path, said)
    return int(fields["vox_offset"])


def _scaling(fields: Any, path: Path) -> tuple[float, float] | None:
    """Slope and intercept; None where there are none: the standard says slope 0, nibabel NaN."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or math.isnan(slope) or (slope, intercept) == (1, 0):
        return None
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise damaged(path, f"its scaling is {slope:g} and {intercept:g}")
    return slope, intercept


def _pass_extensions(stream: Stream, header: Header, path: Path) -> None:
    """Moves on to the first voxel; what extensions hold is never kept, it may name a person."""
    left = header.offset - int(header.fields["sizeof_hdr"])
    flag = stream.read(_EXTENSION_FLAG_BYTES)
    left -= len(flag)
    while flag[:1].strip(b"\0") and left >= 8:
        length, _ = struct.unpack(f"{header.fields.endianness}ii", stream.read(8).ljust(8, b"\0"))
        if length == 0:  # padding behind the last one
            left -= 8
            break
        if not 8 <= length <= left:
            said = f"an extension of its header is {length} bytes long where {left} are left"
            raise damaged(path, said)
        stream.skip(length - 8)
        left -= length
    if not stream.skip(left):
        raise damaged(path, "it ends before its voxels begin")
