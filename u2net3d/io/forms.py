"""Where a NIfTI header puts its voxels, when it may say so up to three times.

qform, sform and pixdim each state it in part. What readers make of a contradiction differs: nibabel
takes the sform, ITK in some cases the qform, and neither says a word. The rule here stands in
docs/geometry.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from u2net3d.errors import DataError
from u2net3d.volume import Triple

Affine = NDArray[np.float64]

# As far apart, in voxels, as rounding puts two forms; what is further apart is worth a note.
SAME_VOXELS = 0.01
# As far apart as makes no difference to which voxel is meant.
NEAR_VOXELS = 0.5
# Two statements of a voxel's size agree within this share.
SAME_SIZE = 0.01
# No scanner makes smaller or larger voxels; broken headers do.
SMALLEST_MM, LARGEST_MM = 1e-3, 1e3
FARTHEST_MM = 1e6
# The volume of a unit cell of directions: 1 for straight axes, 0.17 for a shear of 80 degrees.
FLATTEST = 0.01

# What a header says about where voxels lie. The rest stays behind: its free text names people.
_GEOMETRY_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
_CODES = range(6)
_MILLIMETRES_OR_UNSAID = (0, 2)

_MEND = "set qform, sform and pixdim to the one that is right, or export it again"


def affine_of(fields: Any, shape: Triple, path: Path) -> tuple[Affine, tuple[str, ...]]:
    """The affine (4, 4) that a header states, index (i, j, k, 1) to (R, A, S, 1) in mm, and notes.

    Raises DataError for broken numbers, units other than mm, and forms that contradict each other.
    """
    _require_sane(fields, path)
    with np.errstate(all="ignore"):  # what overflows is refused below
        sform = _sform(fields) if int(fields["sform_code"]) else None
        qform = _qform(fields, path) if int(fields["qform_code"]) else None
    if sform is None and qform is None:
        affine = fields.get_base_affine()
        require_usable(affine, path)
        note = "neither qform nor sform is set: the first axis is taken to run from right to left"
        return affine, (note,)
    for form in (sform, qform):
        if form is not None:
            require_usable(form, path)
            _require_size(form, fields, path)
    if sform is None or qform is None:
        return (sform if sform is not None else qform), ()  # type: ignore[return-value]
    codes = int(fields["sform_code"]), int(fields["qform_code"])
    rounding_mm = _rounding(fields) * float(np.linalg.norm(sform[:3, :3] @ shape))
    return sform, _notes(sform, qform, shape, rounding_mm, codes[0] == codes[1], path)


def require_usable(affine: Affine | None, path: Path) -> Affine:
    """The affine itself; DataError where it is missing, not finite, flat, or beyond all anatomy."""
    if affine is not None and affine.shape == (4, 4) and np.isfinite(affine).all():
        with np.errstate(all="ignore"):
            sizes = np.linalg.norm(affine[:3, :3], axis=0)
            flatness = abs(np.linalg.det(affine[:3, :3] / sizes)) if sizes.all() else 0.0
        in_range = sizes.min() >= SMALLEST_MM and sizes.max() <= LARGEST_MM
        if in_range and flatness >= FLATTEST and np.abs(affine[:3, 3]).max() <= FARTHEST_MM:
            return affine
    what = "has no usable affine (voxel sizes or directions are missing or broken)"
    raise DataError(path, what, "export it again with its geometry")


def geometry_header(header: Any, affine: Affine, shape: Triple) -> Any:
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
    if fresh["pixdim"][0] == 0:
        fresh["pixdim"][0] = 1  # what 0 means, written so that every reader knows it
    length = np.linalg.norm([float(fresh[f"quatern_{axis}"]) for axis in "bcd"])
    if length > 1:  # by rounding: as `_qform` reads it
        for axis in "bcd":
            fresh[f"quatern_{axis}"] = float(fresh[f"quatern_{axis}"]) / length
    return fresh


def _notes(
    sform: Affine, qform: Affine, shape: Triple, rounding_mm: float, one_space: bool, path: Path
) -> tuple[str, ...]:
    """What to remark where both forms are set; DataError where they cannot both be meant."""
    spacing_mm = float(np.linalg.norm(sform[:3, :3], axis=0).min())
    apart_mm = _apart_mm(sform, qform, shape)
    if apart_mm <= SAME_VOXELS * spacing_mm + rounding_mm:
        return ()
    between = np.linalg.solve(qform[:3, :3], sform[:3, :3]).astype(np.float64)
    if not _same_directions(between):
        what = "qform and sform disagree about directions: left and right may be mirrored"
        raise DataError(path, what, _MEND)
    straight = sform.copy()
    straight[:3, :3] = _nearest_rotation(sform) * np.linalg.norm(sform[:3, :3], axis=0)
    near_mm = NEAR_VOXELS * spacing_mm + rounding_mm
    if not one_space or min(apart_mm, _apart_mm(straight, qform, shape)) <= near_mm:
        return (f"qform and sform differ by up to {apart_mm:.3g} mm: sform taken",)
    what = f"qform and sform put the same voxel up to {apart_mm:.3g} mm apart in one space"
    raise DataError(path, what, _MEND)


def _apart_mm(one: Affine, two: Affine, shape: Triple) -> float:
    """The largest distance between two places of one corner of the volume."""
    i, j, k = (n - 1 for n in shape)
    corners = np.array([(x, y, z, 1) for x in (0, i) for y in (0, j) for z in (0, k)])
    return float(np.linalg.norm(corners @ (one - two).T, axis=1).max())


def _rounding(fields: Any) -> float:
    """The angle (radians) that a quaternion loses by being stored without its first number.

    That number is the root of what the others leave of 1: near 0 little of it is left.
    """
    others = np.array([fields[f"quatern_{axis}"] for axis in "bcd"])
    precision = 4 * float(np.finfo(others.dtype).eps)
    first = float(np.sqrt(max(1 - float(others @ others), precision)))
    return 2 * precision / first


def _same_directions(between: NDArray[np.float64]) -> bool:
    """Whether a turn from voxels to voxels leaves every axis nearest to itself, and unreversed."""
    of_axis = between / np.linalg.norm(between, axis=0)
    return bool(
        (np.argmax(np.abs(of_axis), axis=0) == range(3)).all() and (np.diag(of_axis) > 0).all()
    )


def _nearest_rotation(affine: Affine) -> NDArray[np.float64]:
    """The directions of an affine with their shear taken out, as qforms are made of sforms."""
    u, _, v = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return u @ v  # type: ignore[no-any-return]


def _require_sane(fields: Any, path: Path) -> None:
    codes = int(fields["qform_code"]), int(fields["sform_code"])
    if not all(code in _CODES for code in codes):
        what = f"has the form codes {codes[0]} and {codes[1]}, which NIfTI does not know"
        raise DataError(path, what, _MEND)
    if int(fields["xyzt_units"]) & 7 not in _MILLIMETRES_OR_UNSAID:
        what = "does not measure in millimetres (xyzt_units), which programs read differently"
        raise DataError(path, what, "convert it to millimetres")
    sizes = fields["pixdim"][1:4]
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        what = f"has voxel sizes (pixdim) of {_listed(sizes)} mm"
        raise DataError(path, what, "export it again with its geometry")


def _require_size(form: Affine, fields: Any, path: Path) -> None:
    """Raises DataError where a form and pixdim disagree about the size of a voxel."""
    stated = np.asarray(fields["pixdim"][1:4], dtype=float)
    of_form = np.linalg.norm(form[:3, :3], axis=0)
    if (np.abs(of_form / stated - 1) > SAME_SIZE).any():
        what = (
            f"says its voxels are {_listed(of_form)} mm (sform) and {_listed(stated)} mm (pixdim)"
        )
        raise DataError(path, what, _MEND)


def _sform(fields: Any) -> Affine:
    rows = [np.asarray(fields[f"srow_{axis}"], dtype=float) for axis in "xyz"]
    return np.array([*rows, [0, 0, 0, 1]])


def _qform(fields: Any, path: Path) -> Affine:
    """The quaternion's affine, as the standard's own library makes it.

    Its length may pass 1 by the rounding of other programs; nibabel refuses those.
    """
    from nibabel.quaternions import quat2mat

    bcd = np.array([fields[f"quatern_{axis}"] for axis in "bcd"], dtype=float)
    offset = np.array([fields[f"qoffset_{axis}"] for axis in "xyz"], dtype=float)
    handed = float(fields["pixdim"][0])
    rest = 1 - float(bcd @ bcd)
    if handed not in (-1, 0, 1) or not rest >= -1e-3 or not np.isfinite(offset).all():
        raise DataError(path, "has a broken qform (its numbers are no rotation)", _MEND)
    affine = np.eye(4)
    rotation = quat2mat([np.sqrt(max(rest, 0.0)), *bcd])
    affine[:3, :3] = rotation * np.asarray(fields["pixdim"][1:4], dtype=float)
    affine[:3, 2] *= -1 if handed == -1 else 1
    affine[:3, 3] = offset
    return affine


def _listed(sizes: Any) -> str:
    return "×".join(f"{float(size):.4g}" for size in sizes)
