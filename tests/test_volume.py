"""Voxels and their places in mm: turned, cropped or padded, a voxel stays at its place."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from u2net3d.io import nifti
from u2net3d.volume import Volume, to_canonical

# Every order of the axes in every direction: 6 × 8.
ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def affine_of(axes, signs, tilt_degrees=0.0, spacing_mm=(0.7, 1.3, 4.0), shear=0.0):
    """Stored axis i points along RAS axis axes[i] (or against it); the whole is then tilted."""
    matrix = np.zeros((3, 3))
    for stored, (ras, sign) in enumerate(zip(axes, signs, strict=True)):
        matrix[ras, stored] = sign * spacing_mm[stored]
    a, b = np.deg2rad([tilt_degrees, tilt_degrees / 2])
    about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ about_x @ [[1, shear, 0], [0, 1, 0], [0, 0, 1]] @ matrix
    affine[:3, 3] = [-90.5, 12.25, 300.0]
    return affine


def numbered(shape=(3, 4, 5)):
    """Every voxel holds a number of its own, so that it can be found again."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def places_mm(array, affine):
    """number in a voxel -> its place in mm; array (I, J, K)."""
    index = np.argwhere(np.ones(array.shape))
    mm = index @ affine[:3, :3].T + affine[:3, 3]
    return mm[np.argsort(array.reshape(-1))]


@pytest.mark.parametrize("tilt", [0.0, 20.0])
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_turning_to_canonical_order_moves_no_voxel(axes, signs, tilt):
    stored, affine = numbered(), affine_of(axes, signs, tilt)
    volume, orientation = to_canonical(stored[None], affine)
    np.testing.assert_allclose(
        places_mm(volume.array[0], volume.affine), places_mm(stored, affine), atol=1e-9
    )
    np.testing.assert_array_equal(orientation.undo(volume.array[0]), stored)
    assert [int(np.argmax(np.abs(column))) for column in volume.affine[:3, :3].T] == [2, 1, 0]
    assert volume.affine[2, 0] > 0 < volume.affine[1, 1]
    assert volume.affine[0, 2] > 0


@pytest.mark.parametrize("tilt", [0.0, 20.0])
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_a_written_label_lies_as_its_input_lay(axes, signs, tilt, tmp_path: Path):
    affine = affine_of(axes, signs, tilt)
    image = nib.Nifti1Image(numbered().astype(np.int16), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=4)
    nib.save(image, tmp_path / "image.nii.gz")
    volume, source = nifti.read_image(tmp_path / "image.nii.gz")
    label = volume.array[0].astype(np.uint8)  # the same numbers, so places can be compared
    nifti.write_label(tmp_path / "label.nii.gz", label, source)

    before, after = nib.load(tmp_path / "image.nii.gz"), nib.load(tmp_path / "label.nii.gz")
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(after.get_qform(), before.get_qform())
    assert int(after.header["qform_code"]) == 1
    assert int(after.header["sform_code"]) == 4
    np.testing.assert_array_equal(
        places_mm(np.asarray(after.dataobj), after.affine),
        places_mm(np.asarray(before.dataobj), before.affine),
    )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_sheared_affine_survives_the_round_trip(suffix, tmp_path: Path):
    affine = affine_of((2, 0, 1), (1, -1, 1), tilt_degrees=10, shear=0.2)
    volume, source = nifti.from_array(numbered(), affine)
    nifti.write_label(tmp_path / f"label{suffix}", volume.array[0].astype(np.uint8), source)
    written = nib.load(tmp_path / f"label{suffix}")
    np.testing.assert_allclose(written.affine, affine, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(written.dataobj), numbered())
    assert int(written.header["qform_code"]) == 0  # a quaternion cannot say it


def test_axes_are_superior_anterior_right():
    # LPS: i grows to the left, j to the back, k upwards.
    stored = np.zeros((1, 2, 3, 4), np.float32)
    stored[0, 0, 0, 3] = 7  # right, front, top
    volume, _ = to_canonical(stored, np.diag([-1.0, -2.0, 3.0, 1.0]))
    assert volume.shape == (4, 3, 2)
    assert volume.array[0, 3, 2, 1] == 7
    assert volume.spacing_mm == (3, 2, 1)


@pytest.mark.parametrize("tilt", [0.0, 20.0])
def test_a_crop_and_a_pad_keep_every_voxel_at_its_place_in_mm(tilt):
    volume, _ = to_canonical(numbered()[None], affine_of((1, 2, 0), (-1, 1, -1), tilt))
    all_mm = places_mm(volume.array[0], volume.affine)
    crop = volume.crop((1, 0, 1), (3, 2, 3))
    kept = np.sort(crop.array[0].reshape(-1)).astype(int)
    np.testing.assert_allclose(places_mm(crop.array[0], crop.affine), all_mm[kept], atol=1e-9)
    padded = volume.pad((2, 0, 1), (0, 3, 1), value=-1)
    assert padded.shape == tuple(np.add(volume.shape, (2, 3, 2)))
    index = np.argwhere(padded.array[0] >= 0)
    mm = index @ padded.affine[:3, :3].T + padded.affine[:3, 3]
    numbers = padded.array[0][padded.array[0] >= 0].astype(int)
    np.testing.assert_allclose(mm, all_mm[numbers], atol=1e-9)


def test_padding_by_hand():
    volume = Volume(np.ones((1, 1, 1, 2), np.float32), np.diag([5.0, 1.0, 1.0, 1.0]))
    padded = volume.pad((1, 0, 0), (0, 0, 1), value=9)
    np.testing.assert_array_equal(padded.array[0], [[[9, 9, 9]], [[1, 1, 9]]])
    np.testing.assert_array_equal(padded.affine[:3, 3], [-5, 0, 0])
