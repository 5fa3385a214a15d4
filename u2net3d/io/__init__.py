"""Volumes and data sets from files; the format is chosen by the suffix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

from u2net3d.errors import DataError
from u2net3d.io import nifti, other
from u2net3d.io.nifti import NIFTI_SUFFIXES, PAIR_SUFFIXES, Source
from u2net3d.io.other import OTHER_SUFFIXES
from u2net3d.io.stream import require_regular
from u2net3d.volume import Volume

__all__ = ["IMAGE_SUFFIXES", "parts", "read_image", "read_label", "require_same_grid", "stem"]

# By what images are found in a folder: a pair counts once, by its header. A reader also takes the
# name of the voxels (.img).
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, *OTHER_SUFFIXES, ".hdr", ".hdr.gz")

# Two grids are one where no voxel lies further from its partner than this part of the smallest
# spacing: far above the rounding of float32 headers and printed decimals, far below any anatomy.
GRID_TOLERANCE = 0.01


def read_image(paths: Sequence[Path]) -> tuple[Volume, Source]:
    """One image (C, D, H, W) float32 from one file, or from one file per channel in order.

    The source is that of the first file. Raises DataError for a file that cannot be read or is of
    an unknown format, and for channels that differ in shape or affine.
    """
    first, source = _reader(paths[0]).read_image(paths[0])
    if len(paths) == 1:
        return first, source
    arrays, notes = [], []
    for number, path in enumerate(paths):
        volume, its_source = (first, source) if path is paths[0] else _reader(path).read_image(path)
        if volume.array.shape[0] != 1:
            what = f"holds {volume.array.shape[0]} channels, but is one file of several"
            raise DataError(path, what, "give one file per channel, or a single 4-D file")
        require_same_grid(volume, its_source, first, source)
        arrays.append(volume.array)
        notes += [f"channel {number}: {note}" for note in its_source.notes]
    return Volume(np.concatenate(arrays), first.affine), replace(source, notes=tuple(notes))


def read_label(path: Path) -> tuple[Volume, Source]:
    """A label (1, D, H, W) int16; raises DataError as the readers of `nifti` and `other` do."""
    return _reader(path).read_label(path)  # type: ignore[no-any-return]


def require_same_grid(volume: Volume, source: Source, other: Volume, other_source: Source) -> None:
    """Raises DataError, naming `source`, unless both volumes have the same voxels at the same mm.

    Compared in canonical order, so two files that store one grid in different orientations agree.
    The farthest of the eight corners may be off by GRID_TOLERANCE of the smallest spacing.
    """
    if volume.shape != other.shape:
        sizes, others = ("×".join(map(str, s.stored_shape)) for s in (source, other_source))
        what = f"has {sizes} voxels, {other_source.path.name} has {others}"
        raise DataError(source.path, what, "export both on the same grid")
    d, h, w = volume.shape
    corners = np.array([(z, y, x, 1) for z in (0, d - 1) for y in (0, h - 1) for x in (0, w - 1)])
    apart = np.linalg.norm(corners @ (volume.affine - other.affine).T, axis=1).max()
    if apart > GRID_TOLERANCE * min(other.spacing_mm):
        what = f"lies up to {apart:.3g} mm beside {other_source.path.name} (the affines differ)"
        raise DataError(source.path, what, "export both on the same grid")


def parts(path: Path) -> tuple[Path, ...]:
    """Every file that holds the image or label at `path`: header and voxels may lie in two.

    What hashes an image hashes all of them. Raises DataError where one is no regular file, or a
    text header cannot be read.
    """
    is_other = path.name.lower().endswith(OTHER_SUFFIXES)
    found = other.parts(path) if is_other else nifti.parts(path)
    for part in found:
        require_regular(part)
    return found


def stem(path: Path) -> str:
    """The name of an image file without its suffix: `scan.nii.gz` -> `scan`."""
    name = path.name
    known = (*IMAGE_SUFFIXES, *PAIR_SUFFIXES)
    suffix = next((s for s in known if name.lower().endswith(s)), path.suffix)
    return name[: len(name) - len(suffix)]


def _reader(path: Path) -> ModuleType:
    name = path.name.lower()
    if name.endswith((*NIFTI_SUFFIXES, *PAIR_SUFFIXES)):
        return nifti
    if name.endswith(OTHER_SUFFIXES):
        return other
    if path.is_dir():
        raise DataError(path, "is a folder, not a file", "name an image file")
    raise DataError(
        path, "is no format that is read here", f"convert it to one of {', '.join(IMAGE_SUFFIXES)}"
    )
