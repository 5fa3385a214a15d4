"""The text headers of NRRD and MetaImage against the bytes of their voxels.

SimpleITK reads a MetaImage whose checksum is wrong or whose voxel sizes are misspelt without a
word. What it does not look at is looked at here, before it sees the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from u2net3d.errors import DataError
from u2net3d.io.header import other_content
from u2net3d.io.stream import (
    MOST_PER_ZIPPED_BYTE,
    Stream,
    blaming,
    damaged,
    opened,
    require_memory,
    unpacked_bytes,
)

HEADER_BYTES = 1 << 20  # no header is longer
ANEW = "write it anew, header and voxels in one file"
PLACED = "export it again with its geometry"

_TYPE_BYTES = {"char": 1, "short": 2, "int": 4, "longlong": 8, "float": 4, "double": 8}
_NRRD_TYPES = _TYPE_BYTES | {"int8": 1, "int16": 2, "int32": 4, "int64": 8}
_META_TYPES = _TYPE_BYTES | {"long": 4, "long_long": 8}
_META_PLACES = ("Offset", "Position", "Origin")
_META_TURNS = ("TransformMatrix", "Orientation", "Rotation")
_SPACES = (
    *("left-posterior-superior", "right-anterior-superior", "left-anterior-superior"),
    *("LPS", "RAS", "LAS"),
)
_NO_DIRECTIONS = "its directions are not stated: axes taken to run to left, posterior and superior"


@dataclass(frozen=True)
class Described:
    """What a header says, found to be consistent.

    reader: SimpleITK's name of the format; data: the file of the voxels; offset: where they begin
    in it; numbers: how many there are, over all axes and channels; packed: whether compressed;
    notes: what the header leaves open.
    """

    reader: str
    data: Path
    offset: int
    numbers: int
    number_bytes: int
    packed: bool
    notes: tuple[str, ...]

    @property
    def voxel_bytes(self) -> int:
        """The size of all voxels, unpacked."""
        return self.numbers * self.number_bytes


def described(path: Path) -> Described:
    """The NRRD or MetaImage at `path`, told by its content.

    Raises DataError where header and bytes contradict each other, where voxels lie in another
    folder, and for kinds of both formats that are not read.
    """
    said = _said(path)
    with blaming(said.data):
        there = said.data.stat().st_size
    with opened(said.data, plain_bytes=there) as stream:
        stream.skip(said.offset)
        _require_size(said, stream, path)
    return said


def parts(path: Path) -> tuple[Path, ...]:
    """The files that hold the image at `path`: itself, and that of its voxels if another."""
    data = _said(path).data
    return (path,) if data == path else (path, data)


def _said(path: Path) -> Described:
    with opened(path) as stream:
        start = stream.read(HEADER_BYTES)
    if start.startswith(b"NRRD000"):
        return _nrrd(start, path)
    if b"ElementDataFile" in start and b"NDims" in start:
        return _meta_image(start, path)
    reason, mend = other_content(start)
    raise damaged(path, reason.replace("NIfTI", "NRRD or MetaImage"), mend)


def _require_size(said: Described, stream: Stream, path: Path) -> None:
    there = stream.file_bytes - said.offset
    promised = f"its header says {said.voxel_bytes} bytes of voxels"
    if said.packed:
        if said.voxel_bytes > there * MOST_PER_ZIPPED_BYTE:
            raise damaged(path, f"{promised}, so many cannot be packed in it")
        require_memory(path, said.voxel_bytes * 2 + said.numbers * 4)
        there = unpacked_bytes(stream, said.voxel_bytes)
    if there != said.voxel_bytes:
        found = f"more than {said.voxel_bytes}" if there > said.voxel_bytes else str(there)
        raise damaged(path, f"{promised}, there are {found}")
    require_memory(path, said.voxel_bytes * 2 + said.numbers * 4)


def _nrrd(start: bytes, path: Path) -> Described:
    ends = [start.find(end) + len(end) for end in (b"\n\n", b"\r\n\r\n") if end in start]
    offset = min(ends, default=len(start))
    fields = _nrrd_fields(start[:offset].splitlines()[1:], path)
    for name in ("lineskip", "byteskip"):
        if fields.get(name, "0") != "0":
            raise damaged(path, f"it says '{name}', which is not read", ANEW)
    space = fields.get("space")
    if space is not None and space not in _SPACES:
        raise damaged(path, f"its space is '{space}', which is not read", PLACED)
    if "spacedirections" not in fields and "spacings" not in fields:
        raise damaged(path, "it does not say the size of its voxels", PLACED)
    if fields.get("spaceunits", "mm").replace('"', " ").split() not in (["mm"], ["mm"] * 3):
        raise damaged(path, "it does not measure in millimetres", "convert it to millimetres")
    packed = _one_of(fields, "encoding", {"raw": 0, "gzip": 1, "gz": 1}, path)
    kind = fields.get("type", "").lower().removeprefix("signed ").removeprefix("unsigned ")
    kind = kind.removesuffix("_t").removesuffix(" int").replace("long long", "longlong")
    kind = kind if kind in _NRRD_TYPES else kind.removeprefix("u")
    number_bytes = _one_of({"type": kind}, "type", _NRRD_TYPES, path)
    sizes = _whole(fields, "sizes", None, path)
    if len(sizes) != _whole(fields, "dimension", 1, path)[0]:
        raise damaged(path, f"it says {fields['dimension']} axes and the sizes {sizes}")
    outside = fields.get("datafile")
    data = path if outside is None else _beside(path, outside)
    notes = (_NO_DIRECTIONS,) if space is None or "spacedirections" not in fields else ()
    place = offset if outside is None else 0
    numbers = math.prod(sizes)
    return Described("NrrdImageIO", data, place, numbers, number_bytes, bool(packed), notes)


def _meta_image(start: bytes, path: Path) -> Described:
    last = start.find(b"ElementDataFile")
    end = start.find(b"\n", last) + 1 or len(start)
    fields = _fields(start[:end].splitlines(), "=", path)
    if "ElementDataFile" not in fields:
        raise damaged(path, "its header does not end with 'ElementDataFile'")
    if fields.get("BinaryData", "").lower() != "true":
        raise damaged(path, "its voxels are not said to be binary", ANEW)
    if fields.get("HeaderSize", "0") != "0":
        raise damaged(path, "it says 'HeaderSize', which is not read", ANEW)
    if fields.get("DistanceUnits", "mm") not in ("mm", "?"):
        raise damaged(path, "it does not measure in millimetres", "convert it to millimetres")
    axes = _whole(fields, "NDims", 1, path)[0]
    sizes = _whole(fields, "DimSize", axes, path)
    if min(_finite(fields, "ElementSpacing", axes, path)) <= 0:
        raise damaged(path, f"its voxels measure {fields['ElementSpacing']} mm", PLACED)
    turns = [name for name in _META_TURNS if name in fields]
    for name in turns:
        _finite(fields, name, axes * axes, path)
    for name in _META_PLACES:
        if name in fields:
            _finite(fields, name, axes, path)
    yes_or_no = {"true": 1, "false": 0}
    packed = _one_of({"CompressedData": "false"} | fields, "CompressedData", yes_or_no, path)
    kind = {"ElementType": fields.get("ElementType", "").removeprefix("MET_").lower()}
    kind["ElementType"] = kind["ElementType"].removeprefix("u")
    number_bytes = _one_of(kind, "ElementType", _META_TYPES, path)
    channels = _whole({"ElementNumberOfChannels": "1"} | fields, "ElementNumberOfChannels", 1, path)
    numbers = math.prod(sizes) * channels[0]
    local = fields["ElementDataFile"].lower() == "local"
    if local and packed and _whole(fields, "CompressedDataSize", 1, path)[0] != _rest(path, end):
        raise damaged(path, f"it says {fields['CompressedDataSize']} compressed bytes, not so many")
    data, place = (path, end) if local else (_beside(path, fields["ElementDataFile"]), 0)
    notes = () if turns else (_NO_DIRECTIONS,)
    return Described("MetaImageIO", data, place, numbers, number_bytes, bool(packed), notes)


def _rest(path: Path, offset: int) -> int:
    return path.stat().st_size - offset


def _nrrd_fields(lines: list[bytes], path: Path) -> dict[str, str]:
    """`name: value` of each line; NRRD minds neither capitals nor spaces in a name."""
    of_format = [line for line in lines if not line.startswith(b"#") and b":=" not in line]
    fields = _fields(of_format, ":", path)
    plain = {name.lower().replace(" ", ""): value for name, value in fields.items()}
    if len(plain) < len(fields):
        raise damaged(path, "its header says a thing twice")
    return plain


def _fields(lines: list[bytes], sign: str, path: Path) -> dict[str, str]:
    """Name and value of each line; DataError for a name that comes twice and for other lines."""
    found: dict[str, str] = {}
    for line in filter(bytes.strip, lines):
        name, stated, value = line.decode("latin-1").partition(sign)
        if not stated:
            raise damaged(path, f"its header has a line without '{sign}'")
        if name.strip() in found:
            raise damaged(path, f"its header says '{name.strip()}' twice")
        found[name.strip()] = value.strip()
    return found


def _one_of(fields: dict[str, str], name: str, known: dict[str, int], path: Path) -> int:
    value = fields.get(name, "").lower()
    if value not in known:
        said = f"its {name} is '{value}'" if value else f"its header has no '{name}'"
        raise damaged(path, f"{said}, which is not read", ANEW)
    return known[value]


def _finite(fields: dict[str, str], name: str, count: int | None, path: Path) -> list[float]:
    """The numbers of a field; DataError where it is missing, has others, or they are not finite."""
    try:
        numbers = [float(word) for word in fields.get(name, "").split()]
    except ValueError:
        numbers = []
    if not numbers or count not in (None, len(numbers)) or not all(map(math.isfinite, numbers)):
        said = f"its '{name}' is '{fields[name]}'" if name in fields else f"it has no '{name}'"
        raise damaged(path, said)
    return numbers


def _whole(fields: dict[str, str], name: str, count: int | None, path: Path) -> list[int]:
    """The same for whole numbers from 1 on."""
    numbers = _finite(fields, name, count, path)
    if any(number < 1 or number != int(number) for number in numbers):
        raise damaged(path, f"its '{name}' is '{fields[name]}'")
    return [int(number) for number in numbers]


def _beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names; it must lie in the header's own folder."""
    if "%" in name or name.split()[:1] == ["LIST"]:
        raise damaged(path, "its voxels lie in several files", ANEW)
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        what = "names a file of voxels that does not lie beside it"
        raise DataError(path, what, "put both in one folder and name the file without a folder")
    if not path.with_name(name).exists():
        raise DataError(path, f"its file of voxels {name} does not exist", "keep both together")
    return path.with_name(name)
