"""Files as other people's machines leave them: how each is made, and what becomes of it.

The table that tests/io/test_bad_files.py and tests/cli/test_bad_files.py hold the reader to, and
that scripts/reliability-docs writes into docs/reliability.md. Every file is made on the spot from
one image of 3×4×5 voxels. A maker gets an empty folder and gives the path that a user would type.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk

SHAPE = (3, 4, 5)
VOXELS = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
LABEL = (VOXELS > 0).astype(np.uint8)
# A little oblique, as scanners store it: 1.2×1.4×3 mm, the first axis from right to left.
TURN = np.array([[-0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
AFFINE = np.eye(4)
AFFINE[:3, :3], AFFINE[:3, 3] = TURN * [1.2, 1.4, 3.0], [10, -20, 30]

DIM, DATATYPE, BITPIX, PIXDIM, OFFSET, SLOPE, UNITS = 40, 70, 72, 76, 108, 112, 123
FORM_CODES, QUATERNION, QOFFSET, SROW_X, SROW_Y, MAGIC = 252, 256, 268, 280, 296, 344
BIG = (1 << 24) + 7  # bytes of a bomb


class Fault(NamedTuple):
    """kind and made: words for the table; make: folder -> path; label: read it as a label."""

    kind: str
    made: str
    make: Callable[[Path], Path]
    label: bool = False


def nii(
    voxels: np.ndarray = VOXELS,
    affine: np.ndarray = AFFINE,
    codes: tuple[int, int] = (1, 1),
    kind: Any = nib.Nifti1Image,
    qform: np.ndarray | None = None,
    slope: tuple[float, float] | None = None,
) -> bytes:
    """A whole .nii with both forms. codes: of qform and sform."""
    image = kind(voxels, affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine if qform is None else qform, codes[0])
    image.set_sform(affine, codes[1])
    raw = image.to_bytes()
    return raw if slope is None else put(raw, SLOPE, "<ff", *slope)


def put(raw: bytes, at: int, form: str, *values: Any) -> bytes:
    """`raw` with other numbers from byte `at` on."""
    new = struct.pack(form, *values)
    return raw[:at] + new + raw[at + len(new) :]


def flipped(raw: bytes, at: int, bit: int = 0) -> bytes:
    """`raw` with one bit turned over."""
    place = at % len(raw)
    return raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]


def zipped(raw: bytes, level: int = 9) -> bytes:
    return gzip.compress(raw, level, mtime=0)


def file(content: Callable[[], bytes], name: str = "scan.nii.gz") -> Callable[[Path], Path]:
    """A maker that writes one file."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content())
        return folder / name

    return make


def whole(*arguments: Any, **changes: Any) -> Callable[[Path], Path]:
    """A maker of a .nii.gz by `nii`."""
    return file(lambda: zipped(nii(*arguments, **changes)))


def edited(at: int, form: str, *values: Any) -> Callable[[Path], Path]:
    """A maker of a whole .nii.gz whose header says something else at byte `at`."""
    return file(lambda: zipped(put(nii(), at, form, *values)))


def pair(change: Callable[[Path], Path], kind: Any = nib.Nifti1Pair) -> Callable[[Path], Path]:
    """A maker of scan.hdr and scan.img, then changed by `change`."""

    def make(folder: Path) -> Path:
        image = kind(VOXELS, AFFINE)
        image.set_qform(AFFINE, 1)
        image.set_sform(AFFINE, 1)
        nib.save(image, folder / "scan.hdr")
        return change(folder)

    return make


def other(
    name: str, change: Callable[[bytes], bytes], packed: bool = False
) -> Callable[[Path], Path]:
    """A maker of a NRRD or MetaImage by SimpleITK whose (header) file is then changed."""

    def make(folder: Path) -> Path:
        image = sitk.GetImageFromArray(VOXELS.T)
        lps = np.diag([-1, -1, 1]) @ TURN
        image.SetSpacing((1.2, 1.4, 3.0))
        image.SetDirection(lps.ravel().tolist())
        image.SetOrigin((-10.0, 20.0, 30.0))
        sitk.WriteImage(image, str(folder / name), packed)
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        return folder / name

    return make


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Puts `new` for the line, or the part of one, that begins with `old`."""

    def change(raw: bytes) -> bytes:
        begin = raw.index(old)
        end = raw.index(b"\n", begin) if new.endswith(b"\n") else begin + len(old)
        return raw[:begin] + new.rstrip(b"\n") + raw[end:]

    return change


def linked(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "scan.nii.gz").symlink_to(target)
        return folder / "scan.nii.gz"

    return make


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "scan.nii.gz")
    return folder / "scan.nii.gz"


def folder_named_as_a_file(folder: Path) -> Path:
    (folder / "scan.nii.gz").mkdir()
    return folder / "scan.nii.gz"


def zip_archive() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("scan.nii", nii())
    return made.getvalue()


def only(suffix: str) -> Callable[[Path], Path]:
    """Leaves one file of a pair and gives its path."""

    def change(folder: Path) -> Path:
        for path in folder.iterdir():
            if path.suffix != suffix:
                path.unlink()
        return folder / f"scan{suffix}"

    return change


def cut(name: str, given: str = "scan.hdr") -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        (folder / name).write_bytes((folder / name).read_bytes()[:-10])
        return folder / given

    return change


def elsewhere(folder: Path) -> Path:
    """A header that names a file of voxels in another folder; the file is there."""
    other("scan.mhd", lambda raw: raw)(folder)
    (folder / "other").mkdir()
    (folder / "scan.raw").rename(folder / "other" / "scan.raw")
    raw = (folder / "scan.mhd").read_bytes()
    (folder / "scan.mhd").write_bytes(raw.replace(b"scan.raw", b"other/scan.raw"))
    return folder / "scan.mhd"


def shorter_data(folder: Path) -> Path:
    other("scan.mhd", lambda raw: raw)(folder)
    return cut("scan.raw", "scan.mhd")(folder)


def without_data(folder: Path) -> Path:
    other("scan.mhd", lambda raw: raw)(folder)
    (folder / "scan.raw").unlink()
    return folder / "scan.mhd"


def moved(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine


def mirrored() -> np.ndarray:
    return np.diag([-1.0, 1, 1, 1]) @ AFFINE


def two_sizes() -> bytes:
    """An sform alone that contradicts pixdim."""
    return put(nii(codes=(0, 1)), PIXDIM + 4, "<f", 2.4)


def turned() -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, :3] = TURN[:, [1, 0, 2]] * [1.2, 1.4, 3.0]
    affine[:3, 2] *= -1
    return affine


def sheared() -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 2] = [0, 3 * np.sin(0.3), 3 * np.cos(0.3)]
    return affine


def with_values(value: float, count: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    voxels = np.resize(VOXELS, shape).astype(np.float64 if np.isfinite(value) else np.float32)
    voxels.flat[:count] = value
    return voxels


def extended(length: int) -> bytes:
    """A whole .nii with an extension of 16 bytes that says it has `length`."""
    raw = put(nii(), OFFSET, "<f", 368)
    return raw[:348] + b"\1\0\0\0" + struct.pack("<ii", length, 6) + b"a name  " + raw[352:]


def big_endian() -> bytes:
    header = nib.Nifti1Header(endianness=">")
    return nii(
        kind=lambda voxels, affine, dtype: nib.Nifti1Image(voxels, affine, header, dtype=dtype)
    )


def analyze(folder: Path) -> Path:
    raw = (folder / "scan.hdr").read_bytes()
    (folder / "scan.hdr").write_bytes(put(raw, MAGIC, "4s", b""))
    return folder / "scan.img"


def nrrd(change: Callable[[bytes], bytes], packed: bool = False) -> Callable[[Path], Path]:
    return other("scan.nrrd", change, packed)


def mha(change: Callable[[bytes], bytes], packed: bool = False) -> Callable[[Path], Path]:
    return other("scan.mha", change, packed)


def line(start: bytes, rest: bytes) -> Callable[[bytes], bytes]:
    """Puts another rest behind the `start` of a line."""
    return swap(start, start + rest + b"\n")


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
LFS = b"version https://git-lfs.github.com/spec/v1\n"
PARALLEL = b" (1,0,0) (1,0,0) (0,0,3)"
LARGE = (10, 11, 12)

FILES = (
    Fault("missing", "no file of that name", lambda folder: folder / "scan.nii.gz"),
    Fault("a folder", "a folder of that name", folder_named_as_a_file),
    Fault("a pipe", "a named pipe that nobody writes to", pipe),
    Fault("a device", "a link to `/dev/zero`", linked("/dev/zero")),
    Fault("a broken link", "a link to nothing", linked("nowhere.nii.gz")),
    Fault("empty", "a file of 0 bytes", file(lambda: b"")),
    Fault("never written out", "a file of zeros", file(lambda: bytes(500))),
    Fault("text", "`not an image`", file(lambda: b"not an image")),
    Fault("a web page", "a login page saved as .nii.gz", file(lambda: b"<html>log in</html>")),
    Fault("DICOM", "preamble and `DICM`", file(lambda: bytes(100) + b"x" * 28 + b"DICM")),
    Fault("another format", "a NRRD named .nii.gz", file(lambda: b"NRRD0004\ntype: short\n\n")),
    Fault("a zip archive", "scan.nii in a zip archive", file(zip_archive)),
    Fault("bzip2", "a whole .nii, zipped by bzip2", file(lambda: bz2.compress(nii()))),
    Fault("a picture", "a PNG named .nii.gz", file(lambda: b"\x89PNG\r\n\x1a\n" + bytes(400))),
    Fault("a pointer of git LFS", "the text that stands for a file", file(lambda: LFS)),
    Fault("Analyze 7.5", "a pair without NIfTI's magic", pair(analyze)),
)

ZIPPED = (
    Fault("cut short", "a .nii.gz without its last 60 bytes", file(lambda: zipped(nii())[:-60])),
    Fault("cut at the end", "without its last byte", file(lambda: zipped(nii())[:-1])),
    Fault(
        "a damaged byte", "a bit of a voxel turned", file(lambda: flipped(zipped(nii(), 0), -99))
    ),
    Fault("a wrong CRC", "a bit of the CRC turned", file(lambda: flipped(zipped(nii()), -8))),
    Fault("a wrong length", "a bit of the length turned", file(lambda: flipped(zipped(nii()), -4))),
    Fault("bytes behind it", "12 bytes behind", file(lambda: zipped(nii()) + b"x" * 12)),
    Fault("zipped twice", "gzip in gzip", file(lambda: zipped(zipped(nii())))),
    Fault("a bomb", "16 MiB of zeros behind the voxels", file(lambda: zipped(nii() + bytes(BIG)))),
)

HEADERS = (
    Fault("cut in the header", "the first 200 bytes", file(lambda: nii()[:200], "scan.nii")),
    Fault("cut in the voxels", "a .nii without 10 bytes", file(lambda: nii()[:-10], "scan.nii")),
    Fault("too long", "a .nii with 2 bytes more", file(lambda: nii() + bytes(2), "scan.nii")),
    Fault("a wrong size of the header", "sizeof_hdr 384", edited(0, "<i", 384)),
    Fault("a wrong magic", "`n+7`", edited(MAGIC, "4s", b"n+7")),
    Fault("9 axes", "dim[0] = 9", edited(DIM, "<h", 9)),
    Fault("no voxels", "dim[1] = 0", edited(DIM + 2, "<h", 0)),
    Fault("a negative size", "dim[1] = -3", edited(DIM + 2, "<h", -3)),
    Fault("more voxels than bytes", "dim[3] = 6", edited(DIM + 6, "<h", 6)),
    Fault("fewer voxels than bytes", "dim[3] = 4", edited(DIM + 6, "<h", 4)),
    Fault("terabytes in a small file", "30,000 a side", edited(DIM, "<4h", 3, *[30_000] * 3)),
    Fault("an unknown type", "datatype 3", edited(DATATYPE, "<h", 3)),
    Fault("long doubles", "datatype 1536, 128 bits", edited(DATATYPE, "<hh", 1536, 128)),
    Fault("type and bits disagree", "bitpix 32 for int16", edited(BITPIX, "<h", 32)),
    Fault("voxels in the header", "vox_offset 0", edited(OFFSET, "<f", 0)),
    Fault("voxels behind the end", "vox_offset 100,000", edited(OFFSET, "<f", 1e5)),
    Fault("an offset that is no number", "vox_offset NaN", edited(OFFSET, "<f", np.nan)),
    Fault("half a byte", "vox_offset 352.5", edited(OFFSET, "<f", 352.5)),
    Fault("an endless extension", "one of 32 bytes in 16", file(lambda: zipped(extended(32)))),
    Fault("an infinite slope", "scl_slope infinite", edited(SLOPE, "<f", np.inf)),
    Fault("no intercept", "scl_slope 2, scl_inter NaN", edited(SLOPE, "<ff", 2, np.nan)),
    Fault("voxels elsewhere", "the magic of a pair in a .nii.gz", edited(MAGIC, "4s", b"ni1")),
    Fault("a pair without voxels", "scan.hdr alone", pair(only(".hdr"))),
    Fault("a pair without header", "scan.img alone", pair(only(".img"))),
    Fault("a pair cut short", "scan.img without 10 bytes", pair(cut("scan.img"))),
    Fault("a pair's header cut", "scan.hdr without 10 bytes", pair(cut("scan.hdr", "scan.img"))),
)

SHAPES_AND_VALUES = (
    Fault("a slice", "4×5 voxels", whole(VOXELS[0])),
    Fault("a volume of one slice", "3×4×1 voxels", whole(VOXELS[..., :1])),
    Fault("5-D", "3×4×5×2×2 voxels", whole(np.zeros((*SHAPE, 2, 2), np.int16))),
    Fault("colours", "RGB", whole(np.zeros(SHAPE, RGB))),
    Fault("complex numbers", "complex64", whole(VOXELS.astype(np.complex64))),
    Fault("many NaN", "12 of 60 voxels", whole(with_values(np.nan, 12))),
    Fault("many infinite", "12 of 60 voxels", whole(with_values(np.inf, 12))),
    Fault("beyond float32", "1e300 in 12 voxels", whole(with_values(1e300, 12))),
)

PLACES = (
    Fault("an affine of NaN", "srow_x NaN", edited(SROW_X, "<4f", *[np.nan] * 4)),
    Fault("a flat affine", "srow_x = srow_y", edited(SROW_X, "<4f", 0.72, 1.12, 0, 10)),
    Fault("voxels of 1e20 mm", "the same in both forms", whole(affine=np.diag([1e20, 1, 1, 1]))),
    Fault("an origin 1e9 mm away", "the same in both forms", whole(affine=moved(1e9))),
    Fault("voxels of 0 mm", "pixdim[1] = 0", edited(PIXDIM + 4, "<f", 0)),
    Fault("voxels of -1.2 mm", "pixdim[1] = -1.2", edited(PIXDIM + 4, "<f", -1.2)),
    Fault("two sizes of a voxel", "sform 1.2 mm, pixdim 2.4 mm", file(lambda: zipped(two_sizes()))),
    Fault("left or right", "an sform that mirrors the qform", whole(qform=mirrored())),
    Fault("left or right, two codes", "the same, 1 and 4", whole(qform=mirrored(), codes=(1, 4))),
    Fault("mirrored by one bit", "the other sign in pixdim[0]", edited(PIXDIM, "<f", 1)),
    Fault("axes exchanged", "a qform with two axes exchanged", whole(qform=turned())),
    Fault("two places", "forms of one code 40 mm apart", whole(qform=moved(40))),
    Fault("a broken quaternion", "a length of 2", edited(QUATERNION, "<3f", 2, 0, 0)),
    Fault("unknown codes", "qform_code 9", edited(FORM_CODES, "<h", 9)),
    Fault("micrometres", "xyzt_units 3", edited(UNITS, "<B", 3)),
)

NRRDS = (
    Fault("cut short", "without 10 bytes", nrrd(lambda raw: raw[:-10])),
    Fault("too long", "2 bytes more", nrrd(lambda raw: raw + b"xx")),
    Fault("zipped, cut short", "without 3 bytes", nrrd(lambda raw: raw[:-3], True)),
    Fault("zipped, damaged", "a bit of the CRC turned", nrrd(lambda raw: flipped(raw, -8), True)),
    Fault("no size of a voxel", "no `space directions`", nrrd(swap(b"space directions", b"#"))),
    Fault("an unknown space", "`scanner-xyz`", nrrd(line(b"space:", b" scanner-xyz"))),
    Fault(
        "a thing said twice", "two lines `sizes`", nrrd(swap(b"sizes:", b"sizes: 3 4 5\nsizes:"))
    ),
    Fault("an odd encoding", "`encoding: hex`", nrrd(line(b"encoding:", b" hex"))),
    Fault("parallel axes", "a direction twice", nrrd(line(b"space directions:", PARALLEL))),
)

META_IMAGES = (
    Fault("cut short", "without 10 bytes", mha(lambda raw: raw[:-10])),
    Fault("fewer voxels than bytes", "DimSize 3 4 4", mha(line(b"DimSize", b" = 3 4 4"))),
    Fault("terabytes", "30,000 a side", mha(line(b"DimSize", b" = 30000 30000 30000"))),
    Fault("packed, damaged", "a bit of the sum turned", mha(lambda raw: flipped(raw, -2), True)),
    Fault("packed, cut short", "without 3 bytes", mha(lambda raw: raw[:-3], True)),
    Fault("a misspelt name", "`ElementSpacng`", mha(swap(b"ElementSpacing", b"ElementSpacng"))),
    Fault("voxels of -1.2 mm", "ElementSpacing -1.2", mha(line(b"ElementSpacing", b" = -1.2 1 3"))),
    Fault(
        "broken directions", "NaN in them", mha(line(b"TransformMatrix", b" = nan 0 0 0 1 0 0 0 1"))
    ),
    Fault("no file of voxels", "scan.raw is missing", without_data),
    Fault("voxels in another folder", "`ElementDataFile = other/scan.raw`", elsewhere),
    Fault("voxels cut short", "scan.raw without 10 bytes", shorter_data),
)

LABELS = (
    Fault("NaN", "1 voxel", whole(with_values(np.nan, 1)), True),
    Fault("fractions", "0.5 in some voxels", whole(np.where(VOXELS > 900, 0.5, 0.0)), True),
    Fault("large numbers", "40,000", whole(LABEL.astype(np.int32) * 40_000), True),
    Fault("huge numbers", "2^63", whole(LABEL.astype(np.uint64) * np.uint64(2**63)), True),
    Fault("two values a voxel", "3×4×5×2", whole(np.stack([LABEL, LABEL], -1)), True),
)

# Read; what was mended or chosen is said.
NOTED = (
    Fault("few NaN", "1 of 1,320 voxels", whole(with_values(np.nan, 1, LARGE))),
    Fault("few infinite", "1 of 1,320 voxels", whole(with_values(-np.inf, 1, LARGE))),
    Fault("forms a little apart", "qform 0.3 mm beside the sform", whole(qform=moved(0.3))),
    Fault(
        "forms of two spaces", "codes 1 and 4, 40 mm apart", whole(qform=moved(40), codes=(1, 4))
    ),
    Fault("a tilted gantry", "a sheared sform and its nearest qform", whole(affine=sheared())),
    Fault("no form", "both codes 0", whole(codes=(0, 0))),
    Fault(
        "no directions", "MetaImage, no `TransformMatrix`", mha(swap(b"TransformMatrix", b"Name"))
    ),
)

# Traps that are none: read as they are, without a word.
READ = (
    Fault("big-endian", "all numbers the other way round", file(lambda: zipped(big_endian()))),
    Fault("NIfTI-2", "a header of 540 bytes", whole(kind=nib.Nifti2Image)),
    Fault("a pair, by its header", "scan.hdr and scan.img", pair(lambda at: at / "scan.hdr")),
    Fault("a pair, by its voxels", "the same", pair(lambda at: at / "scan.img")),
    Fault(
        "zipped, named .nii", "a .nii.gz named scan.nii", file(lambda: zipped(nii()), "scan.nii")
    ),
    Fault("not zipped, named .nii.gz", "a .nii named scan.nii.gz", file(nii)),
    Fault(
        "gzip in two parts", "two members", file(lambda: zipped(nii()[:400]) + zipped(nii()[400:]))
    ),
    Fault("zeros behind gzip", "600 of them", file(lambda: zipped(nii()) + bytes(600))),
    Fault("a last axis of 1", "3×4×5×1×1 voxels", whole(VOXELS[..., None, None])),
    Fault("slope 0", "which means no scaling", whole(slope=(0, 7))),
    Fault("slope NaN", "which nibabel writes for none", whole(slope=(np.nan, np.nan))),
    Fault("an extension", "16 bytes behind the header", file(lambda: zipped(extended(16)))),
    Fault("sform alone", "qform_code 0", whole(codes=(0, 1))),
    Fault("qform alone", "sform_code 0", whole(codes=(1, 0))),
    Fault("64-bit numbers", "int64", whole(VOXELS.astype(np.int64))),
    Fault("NRRD", "zipped", nrrd(lambda raw: raw, True)),
    Fault("MetaImage in two files", "scan.mhd and scan.raw", other("scan.mhd", lambda raw: raw)),
)

CHAPTERS = {
    "Files that are none": FILES,
    "Damaged gzip": ZIPPED,
    "Headers that lie": HEADERS,
    "Shapes and values that are not segmented": SHAPES_AND_VALUES,
    "Places in mm": PLACES,
    "NRRD": NRRDS,
    "MetaImage": META_IMAGES,
    "Labels": LABELS,
}
REFUSED = tuple(fault for faults in CHAPTERS.values() for fault in faults)
