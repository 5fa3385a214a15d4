"""Every fault of one case: image and label, each looked at whatever is wrong with the other.

The rules are those of `dataset.read_case`; here none of them ends the search.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from u2net3d.errors import DataError
from u2net3d.io import read_image, read_label, require_same_grid
from u2net3d.io.dataset import Case, Dataset, LoadedCase, require_channels, require_known_values
from u2net3d.io.findings import Finding, from_error, kept, warning
from u2net3d.io.forms import affine_of
from u2net3d.io.header import read_header
from u2net3d.io.nifti import Source
from u2net3d.io.stored import parts
from u2net3d.io.stream import opened
from u2net3d.volume import Array, Volume, to_canonical

_Read = tuple[Volume, Source]


@dataclass(frozen=True, eq=False)
class Examined:
    """A case that was looked at.

    loaded: None where it has a fault or no label; image_id: SHA-256 of the image's voxels, None
    where they cannot be read.
    """

    findings: tuple[Finding, ...]
    loaded: LoadedCase | None
    image_id: str | None


def examine(dataset: Dataset, case: Case) -> Examined:
    """Looks at image and label of a case, or at the image of one without a label.

    A file whose voxels cannot be read is still compared by what its header says. Rules about
    channels or labels are left out where the data set names none.
    """
    findings: list[Finding] = []
    image, label = _image(case.images, findings), None
    grid = image or _grid(case.images)
    if grid is not None and dataset.channels:
        with kept(findings):
            require_channels(grid[0], grid[1].path, dataset.channels)
    if case.label is not None:
        with kept(findings):
            label = read_label(case.label)
        label_grid = label or _grid([case.label])
        if grid is not None and label_grid is not None:
            with kept(findings):
                require_same_grid(*label_grid, *grid)
        if label is not None:
            _look_at_values(dataset, case.label, label[0], findings)
    is_whole = not any(finding.kind == "fault" for finding in findings)
    findings.extend(_remarks(image, label))
    return Examined(
        findings=tuple(dict.fromkeys(findings)),
        loaded=LoadedCase(image[0], label[0], image[1]) if image and label and is_whole else None,
        image_id=_identity(image[0].array) if image else None,
    )


def _image(paths: Sequence[Path], findings: list[Finding]) -> _Read | None:
    """The image; None, with all that is wrong with its files, where it cannot be read."""
    try:
        return read_image(paths)
    except DataError as error:
        if len(paths) == 1:
            findings.append(from_error(error))
    whole: list[Path] = []
    for path in paths if len(paths) > 1 else ():
        with kept(findings):
            read_image([*whole[:1], path])
            whole.append(path)
    return None


def _grid(paths: Sequence[Path]) -> _Read | None:
    """Where the voxels of a NIfTI file lie, by its header alone; the voxels are all 0.

    None where the header cannot be believed either: the reader has said why.
    """
    path = parts(paths[0])[0]
    with suppress(DataError), opened(path) as stream:
        header = read_header(stream, path)
        if len(header.shape) not in (3, 4):
            return None
        i, j, k = header.shape[:3]
        affine, _ = affine_of(header.fields, (i, j, k), path)
        channels = len(paths) if len(paths) > 1 else (*header.shape, 1)[3]
        zeros = np.broadcast_to(np.float32(0), (channels, i, j, k))
        volume, orientation = to_canonical(zeros, affine)
        return volume, Source(paths[0], orientation, (i, j, k), affine, None)
    return None


def _look_at_values(dataset: Dataset, path: Path, label: Volume, findings: list[Finding]) -> None:
    if dataset.labels:
        with kept(findings):
            require_known_values(dataset, path, label)
    foreground = label.array > 0
    if dataset.ignore_label is not None:
        foreground &= label.array != dataset.ignore_label
    if not foreground.any():
        mend = "nothing to mend where the image shows none; else label it"
        findings.append(warning(path, "holds no voxel of any label", mend))


def _remarks(image: _Read | None, label: _Read | None) -> Iterator[Finding]:
    """What the reader mended, and channels that show nothing."""
    for _, source in filter(None, (image, label)):
        for note in source.notes:
            yield warning(source.path, note, "look whether that is right")
    for number, channel in enumerate(image[0].array if image else ()):
        if channel.min() == channel.max():
            what = f"channel {number} is {channel.flat[0]:g} everywhere"
            yield warning(image[1].path if image else "", what, "export the image again")


def _identity(array: Array) -> str:
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
