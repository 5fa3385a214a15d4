"""The voxels of a NIfTI file, or of a pair of header and voxels, as they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from u2net3d.errors import DataError
from u2net3d.io.header import Header, read_header, require_size, wrong_size
from u2net3d.io.stream import Stream, damaged, opened, require_memory
from u2net3d.volume import Array

PAIR_SUFFIXES = (".hdr", ".hdr.gz", ".img", ".img.gz")

_MOST_BEHIND_A_HEADER = 1 << 24  # bytes of extensions in a .hdr that are passed over


def load(path: Path) -> tuple[Array, Header]:
    """Voxels (I, J, K[, ...]) without their scaling, and the header that goes with them.

    Raises DataError for what is missing, damaged, or larger than this machine's memory.
    """
    at, voxels = parts(path)[0], parts(path)[-1]
    for part, kind in ((at, "header"), (voxels, "file of voxels")):
        if part != path and not part.exists():
            mend = "keep both files of the pair in one folder"
            raise DataError(path, f"its {kind} {part.name} does not exist", mend)
    with opened(at) as stream:
        header = read_header(stream, at)
        if not header.paired:
            return _voxels(stream, header, at), header
        if voxels == at:
            mend = "end the names of header and voxels in .hdr and .img"
            raise damaged(path, "it is a header whose voxels lie in another file", mend)
        if not _ends_within(stream, _MOST_BEHIND_A_HEADER):
            raise damaged(at, "much more than a header is in it")
    with opened(voxels, plain_bytes=header.total_bytes) as stream:
        require_size(header, stream, voxels)
        if not stream.skip(header.offset):
            raise damaged(voxels, "it ends before its voxels begin")
        return _voxels(stream, header, voxels), header


def parts(path: Path) -> tuple[Path, ...]:
    """The files that hold the volume at `path`: itself, or header and voxels of a pair."""
    suffix = next((s for s in PAIR_SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        return (path,)
    return _twin(path, suffix, "hdr"), _twin(path, suffix, "img")


def _twin(path: Path, suffix: str, kind: str) -> Path:
    """`a.hdr` of `a.img` and the like, zipped or not, in the case of the name that was given."""
    bare, ending = path.name[: -len(suffix)], path.name[-len(suffix) :]
    if ending[1:4].lower() == kind:
        return path
    kind = kind.upper() if ending[1:4].isupper() else kind
    zipped = ending[4:]
    other_way = "" if zipped else ".gz"
    likely, other = (path.with_name(f"{bare}.{kind}{end}") for end in (zipped, other_way))
    return other if other.exists() and not likely.exists() else likely


def _voxels(stream: Stream, header: Header, path: Path) -> Array:
    """The voxels that follow in the stream, to its very end."""
    as_float32 = 4 * (header.voxel_bytes // header.dtype.itemsize)
    require_memory(path, header.voxel_bytes + as_float32)
    raw = np.empty(header.voxel_bytes, np.uint8)
    found = header.offset + stream.fill(raw.data)
    if found < header.total_bytes:
        raise wrong_size(header, f"{found} are there", path)
    if not stream.at_end():
        raise wrong_size(header, "more are there", path)
    return raw.view(header.dtype).reshape(header.shape, order="F")


def _ends_within(stream: Stream, most: int) -> bool:
    """Whether the stream ends within `most` more bytes; to its end, since gzip is checked there."""
    stream.skip(most)
    return stream.at_end()
