"""Probabilities lie where their image lies, and every reader sees them between 0 and 1."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from u2net3d.io.nifti import read_image
from u2net3d.io.probabilities import write_probabilities


@pytest.fixture
def scan(tmp_path):
    """A tilted image that is stored with its axes turned."""
    affine = np.array([[0, 0, 2.0, 5], [-1.2, 0.9, 0, 6], [0.9, 1.2, 0, 7], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.random.default_rng(0).random((4, 5, 6), np.float32), affine)
    image.header["descrip"] = b"SMITH^JOHN"
    nib.save(image, tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_every_reader_gives_the_shares_at_the_images_own_voxels(scan, tmp_path):
    volume, source = read_image(scan)
    marked = np.unravel_index(volume.array[0].argmax(), volume.shape)
    shares = np.zeros((3, *volume.shape), np.uint16)
    shares[0] = 65535
    shares[(slice(None), *marked)] = 13107, 0, 52428  # 0.2, 0, 0.8
    path = tmp_path / "p.nii.gz"
    write_probabilities(path, shares, source)
    image, written = nib.load(scan), nib.load(path)
    assert written.shape == (4, 5, 6, 3)
    np.testing.assert_array_equal(written.affine, image.affine)
    assert written.get_data_dtype() == np.uint16
    values = written.get_fdata()
    assert values.sum(-1) == pytest.approx(np.ones((4, 5, 6)))
    at = np.unravel_index(image.get_fdata().argmax(), image.shape)
    assert values[at] == pytest.approx([0.2, 0, 0.8])
    seen = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))  # (class, K, J, I)
    assert seen.transpose(3, 2, 1, 0)[at] == pytest.approx([0.2, 0, 0.8], abs=1e-6)
    first = path.read_bytes()
    write_probabilities(path, shares, source)
    assert path.read_bytes() == first
    assert b"SMITH" not in nib.load(path).header.binaryblock


def test_what_does_not_fit_is_not_written(scan, tmp_path):
    volume, source = read_image(scan)
    for shares in (
        np.zeros((3, 9, 9, 9), np.uint16),
        np.zeros((3, *volume.shape), np.float32),
    ):
        with pytest.raises(ValueError, match="does not fit its source"):
            write_probabilities(tmp_path / "p.nii.gz", shares, source)
    assert not (tmp_path / "p.nii.gz").exists()
