"""NRRD and MetaImage read as NIfTI does: the same voxels at the same place in mm."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from u2net3d import io
from u2net3d.errors import DataError
from u2net3d.io import nifti, other

SUFFIXES = [".nrrd", ".mha", ".mhd"]
# A tilted LPS direction, as SimpleITK keeps it (row by row).
TILTED = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, -1.0)


def image_of(array, direction=TILTED, vector=False):
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing((0.5, 1.5, 4.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection(direction)
    return image


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_image_in_another_format_has_its_voxels_at_the_same_place(suffix, tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    for name in (f"a{suffix}", "a.nii.gz"):
        sitk.WriteImage(image_of(array), str(tmp_path / name))
    volume, source = io.read_image([tmp_path / f"a{suffix}"])
    same, _ = nifti.read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, same.array)
    np.testing.assert_allclose(volume.affine, same.affine, atol=1e-5)
    assert volume.array.dtype == np.float32
    assert source.stored_shape == (3, 4, 5)


def test_left_posterior_superior_becomes_right_anterior_superior(tmp_path):
    array = np.zeros((5, 4, 3), np.int16)
    array[0, 0, 0] = 1  # at its origin: 10 mm left, 20 mm in front, 30 mm up
    sitk.WriteImage(image_of(array, (1, 0, 0, 0, 1, 0, 0, 0, 1)), str(tmp_path / "a.nrrd"))
    volume, _ = other.read_image(tmp_path / "a.nrrd")
    index = np.argwhere(volume.array[0])[0]
    assert index.tolist() == [0, 3, 2]
    np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], [-10, 20, 30])


def test_a_label_written_for_another_format_lies_where_its_image_lay(tmp_path):
    array = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    sitk.WriteImage(image_of(array), str(tmp_path / "a.mha"))
    volume, source = other.read_image(tmp_path / "a.mha")
    nifti.write_label(tmp_path / "b.nii.gz", volume.array[0].astype(np.uint8), source)
    written = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), array.T)
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    assert int(written.header["sform_code"]) == int(written.header["qform_code"]) == 1
    back = sitk.ReadImage(str(tmp_path / "b.nii.gz"))
    np.testing.assert_allclose(back.GetDirection(), TILTED, atol=1e-6)
    np.testing.assert_allclose(back.GetOrigin(), (10, -20, 30), atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_components_of_a_vector_are_the_channels(suffix, tmp_path):
    array = np.arange(120, dtype=np.float32).reshape(5, 4, 3, 2)
    identity = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    sitk.WriteImage(image_of(array, identity, vector=True), str(tmp_path / f"a{suffix}"))
    volume, _ = other.read_image(tmp_path / f"a{suffix}")
    assert volume.array.shape == (2, 5, 4, 3)
    # x and y turn round on the way from LPS to RAS
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, 3, 0)[:, :, ::-1, ::-1])


def test_a_label_of_whole_floats_becomes_int16(tmp_path):
    array = np.zeros((5, 4, 3), np.float32)
    array[0, 0, 0] = 2
    sitk.WriteImage(image_of(array), str(tmp_path / "a.nrrd"))
    label, _ = io.read_label(tmp_path / "a.nrrd")
    assert label.array.dtype == np.int16
    assert label.array.sum() == 2


def test_what_is_no_volume_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 3), np.uint8)), str(tmp_path / "a.mha"))
    with pytest.raises(DataError, match="2-D image"):
        other.read_image(tmp_path / "a.mha")


def test_missing_and_damaged_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "a.nrrd").write_text("not an image")
    with pytest.raises(DataError, match="cannot be read") as error:
        other.read_image(tmp_path / "a.nrrd")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="does not exist"):
        other.read_image(tmp_path / "b.nrrd")
