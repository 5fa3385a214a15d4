"""NIfTI files: read as they are, refused in one line, written back as they lay."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from u2net3d import io
from u2net3d.errors import DataError, UsageError
from u2net3d.io import nifti

SHAPE = (3, 4, 5)
AFFINE = np.diag([1.5, 2.0, 3.0, 1.0])


def save(path: Path, array, affine=AFFINE, kind=nib.Nifti1Image) -> Path:
    nib.save(kind(array, affine), path)
    return path


def message(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert " — " in text
    return text


def test_a_3d_file_gives_one_channel(tmp_path):
    stored = np.arange(60, dtype=np.int16).reshape(SHAPE)
    volume, source = nifti.read_image(save(tmp_path / "a.nii.gz", stored))
    assert volume.array.shape == (1, 5, 4, 3)
    assert volume.array.dtype == np.float32
    assert volume.array[0, 4, 2, 1] == stored[1, 2, 4]
    assert volume.spacing_mm == (3, 2, 1.5)
    assert source.stored_shape == SHAPE
    assert source.path == tmp_path / "a.nii.gz"


@pytest.mark.parametrize("shape", [(*SHAPE, 2), (*SHAPE, 1, 2)])
def test_the_last_axis_of_a_4d_or_vector_file_is_the_channel(shape, tmp_path):
    stored = np.arange(120, dtype=np.int16).reshape(shape)
    volume, source = nifti.read_image(save(tmp_path / "a.nii", stored))
    assert volume.array.shape == (2, 5, 4, 3)
    assert volume.array[1, 4, 2, 1] == stored.reshape(*SHAPE, 2)[1, 2, 4, 1]
    assert source.stored_shape == SHAPE


def test_scaling_in_the_header_is_applied(tmp_path):
    image = nib.Nifti1Image(np.full(SHAPE, 10, np.int16), AFFINE)
    image.header.set_slope_inter(2.0, -1024.0)
    nib.save(image, tmp_path / "a.nii.gz")
    raw = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    raw[112:120] = struct.pack("<ff", 2.0, -1024.0)
    raw[352:] = np.full(SHAPE, 10, "<i2").tobytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    assert np.unique(nifti.read_image(tmp_path / "b.nii.gz")[0].array).tolist() == [-1004]


def test_a_volume_is_contiguous_however_it_was_stored(tmp_path):
    flipped = np.diag([-1.0, -1.0, -1.0, 1.0])
    volume, _ = nifti.read_image(save(tmp_path / "a.nii", np.zeros(SHAPE, np.uint8), flipped))
    assert volume.array.flags.c_contiguous


def test_a_zipped_file_is_read_whatever_its_name_says(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.ones(SHAPE, np.uint8))
    path.rename(tmp_path / "a.nii")
    assert nifti.read_image(tmp_path / "a.nii")[0].array.min() == 1


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ((4, 5), "2-D image (4×5 voxels)"),
        ((4, 5, 1), "no 3-D volume (4×5×1 voxels)"),
        ((*SHAPE, 2, 2), "5-D image"),
    ],
)
def test_what_is_no_volume_is_refused(shape, what, tmp_path):
    path = save(tmp_path / "a.nii.gz", np.zeros(shape, np.uint8))
    with pytest.raises(DataError) as error:
        nifti.read_image(path)
    assert what in message(error)
    assert message(error).startswith(str(path))


def test_colours_and_complex_numbers_are_refused(tmp_path):
    rgb = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    for array in (rgb, np.zeros(SHAPE, np.complex64)):
        with pytest.raises(DataError, match="colours or complex"):
            nifti.read_image(save(tmp_path / "a.nii", array))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_voxels_that_are_no_finite_float32_are_counted_and_refused(value, tmp_path):
    stored = np.zeros(SHAPE)
    stored[0, 0, :2] = value
    with pytest.raises(DataError, match="2 voxels are not finite"):
        nifti.read_image(save(tmp_path / "a.nii", stored))


def test_a_broken_affine_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", np.zeros(SHAPE, np.uint8))
    for row in ([0, 0, 0, 0], [np.nan, 0, 0, 0]):
        raw = bytearray(path.read_bytes())
        raw[280:296] = struct.pack("<4f", *row)  # srow_x
        (tmp_path / "b.nii").write_bytes(raw)
        with pytest.raises(DataError, match="no usable affine"):
            nifti.read_image(tmp_path / "b.nii")


def test_damaged_files_are_refused_in_one_line(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 20)).astype(np.uint8)
    whole = save(tmp_path / "a.nii.gz", noise).read_bytes()
    bad_crc = bytearray(whole)
    bad_crc[-8] ^= 1
    raw = gzip.decompress(whole)
    damaged = {
        "crc.nii.gz": bytes(bad_crc),
        "short.nii.gz": whole[: len(whole) // 2],
        "short.nii": raw[:4000],
        "header.nii": raw[:100],
        "text.nii.gz": b"not an image",
        "empty.nii.gz": b"",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        for read in (nifti.read_image, nifti.read_label):
            with pytest.raises(DataError) as error:
                read(tmp_path / name)
            assert f"{name}: cannot be read" in message(error)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        nifti.read_image(tmp_path / "none.nii.gz")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        nifti.read_image(tmp_path / "folder.nii")


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_labels_of_any_type_that_hold_whole_numbers_become_int16(dtype, tmp_path):
    stored = np.zeros(SHAPE, dtype)
    stored[1, 2, 4] = 2
    label, _ = nifti.read_label(save(tmp_path / "a.nii.gz", stored))
    assert label.array.dtype == np.int16
    assert label.array.shape == (1, 5, 4, 3)
    assert label.array[0, 4, 2, 1] == 2
    assert label.array.sum() == 2


@pytest.mark.parametrize(
    ("value", "what"), [(0.5, "holds 0.5"), (np.nan, "holds nan"), (np.inf, "inf"), (7e4, "70000")]
)
def test_label_values_that_are_no_small_whole_numbers_are_refused(value, what, tmp_path):
    stored = np.zeros(SHAPE, np.float32)
    stored[1, 1, 1] = value
    with pytest.raises(DataError) as error:
        nifti.read_label(save(tmp_path / "a.nii.gz", stored))
    assert what in message(error)


def test_a_label_with_several_values_a_voxel_is_refused(tmp_path):
    with pytest.raises(DataError, match="no 3-D label"):
        nifti.read_label(save(tmp_path / "a.nii.gz", np.zeros((*SHAPE, 2), np.uint8)))


def test_a_written_label_takes_geometry_and_nothing_else_from_its_source(tmp_path):
    image = nib.Nifti1Image(np.ones((*SHAPE, 2), np.float32), AFFINE)
    image.set_qform(AFFINE * [[1], [1], [1], [1]], code=1)
    other = AFFINE.copy()
    other[:3, 3] = [4, 5, 6]
    image.set_sform(other, code=2)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Name of a patient"
    image.header["db_name"] = b"Hospital"
    image.header["intent_name"] = b"Somebody"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Name of a patient"))
    nib.save(image, tmp_path / "a.nii.gz")
    volume, source = nifti.read_image(tmp_path / "a.nii.gz")
    nifti.write_label(tmp_path / "b.nii.gz", volume.array[0].astype(np.uint8), source)

    before, after = nib.load(tmp_path / "a.nii.gz").header, nib.load(tmp_path / "b.nii.gz").header
    for form in ("qform", "sform"):
        assert int(after[f"{form}_code"]) == int(before[f"{form}_code"])
        np.testing.assert_array_equal(
            getattr(after, f"get_{form}")(), getattr(before, f"get_{form}")()
        )
    np.testing.assert_array_equal(after["pixdim"][:4], before["pixdim"][:4])
    assert after["xyzt_units"] == before["xyzt_units"]
    assert after.get_data_dtype() == np.uint8
    assert not after.extensions
    raw = gzip.decompress((tmp_path / "b.nii.gz").read_bytes())
    assert all(text not in raw for text in (b"patient", b"Hospital", b"Somebody", b"a.nii"))


def test_a_file_without_form_codes_keeps_its_place(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)
    image.header["qform_code"] = image.header["sform_code"] = 0
    image.header["pixdim"][1:4] = [1.5, 2, 3]
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), None, image.header), tmp_path / "a.nii")
    before = nib.load(tmp_path / "a.nii")
    volume, source = nifti.read_image(tmp_path / "a.nii")
    nifti.write_label(tmp_path / "b.nii", volume.array[0].astype(np.uint8), source)
    after = nib.load(tmp_path / "b.nii")
    assert int(after.header["qform_code"]) == int(after.header["sform_code"]) == 0
    np.testing.assert_array_equal(after.affine, before.affine)


def test_a_nifti2_file_keeps_its_double_precision(tmp_path):
    affine = AFFINE.copy()
    affine[0, 3] = 1 / 3
    path = save(tmp_path / "a.nii.gz", np.zeros(SHAPE, np.uint8), affine, nib.Nifti2Image)
    volume, source = nifti.read_image(path)
    nifti.write_label(tmp_path / "b.nii.gz", volume.array[0].astype(np.uint8), source)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").affine, affine)


@pytest.mark.parametrize(("highest", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_a_label_is_stored_in_the_smallest_unsigned_type(highest, dtype, tmp_path):
    volume, source = nifti.from_array(np.zeros(SHAPE), AFFINE)
    nifti.write_label(tmp_path / "b.nii", np.full(volume.shape, highest, np.int16), source)
    assert nib.load(tmp_path / "b.nii").get_data_dtype() == dtype
    assert np.unique(nib.load(tmp_path / "b.nii").dataobj).tolist() == [highest]


def test_the_same_label_gives_the_same_bytes_under_any_name(tmp_path):
    volume, source = nifti.from_array(np.zeros(SHAPE), AFFINE)
    label = np.arange(60, dtype=np.uint8).reshape(volume.shape)
    for name in ("a.nii.gz", "b.nii.gz"):
        nifti.write_label(tmp_path / name, label, source)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_label_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    volume, source = nifti.from_array(np.zeros(SHAPE), AFFINE)
    label = np.zeros(volume.shape, np.uint8)
    with pytest.raises(UsageError, match="end the name in"):
        nifti.write_label(tmp_path / "b.png", label, source)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        nifti.write_label(tmp_path / "file" / "b.nii.gz", label, source)
    with pytest.raises(ValueError, match="does not fit"):
        nifti.write_label(tmp_path / "b.nii.gz", label[1:], source)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_image_in_memory_reads_as_its_file_does(tmp_path):
    stored = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)
    affine = np.diag([-1.5, 2.0, -3.0, 1.0])
    path = save(tmp_path / "a.nii.gz", stored, affine)
    by_file, _ = nifti.read_image(path)
    by_nibabel, source = nifti.from_nibabel(nib.load(path))
    by_array, _ = nifti.from_array(np.moveaxis(stored, 3, 0), affine)
    for volume in (by_nibabel, by_array):
        np.testing.assert_array_equal(volume.array, by_file.array)
        np.testing.assert_allclose(volume.affine, by_file.affine)
    label = nifti.to_nibabel(np.zeros(by_file.shape, np.uint8), source)
    np.testing.assert_array_equal(label.affine, affine)
    assert label.shape == SHAPE


def test_an_image_in_memory_is_copied():
    array = np.zeros(SHAPE, np.float32)
    for volume, _ in (
        nifti.from_array(array, np.eye(4)),
        nifti.from_nibabel(nib.Nifti1Image(array, np.eye(4))),
    ):
        volume.array[:] = 1
    assert array.max() == 0


def test_one_file_per_channel_is_read_in_the_order_given(tmp_path):
    paths = [save(tmp_path / f"{n}.nii.gz", np.full(SHAPE, n, np.uint8)) for n in (3, 1, 2)]
    volume, source = io.read_image(paths)
    assert volume.array[:, 0, 0, 0].tolist() == [3, 1, 2]
    assert source.path == paths[0]


def test_channels_of_different_grids_are_refused(tmp_path):
    first = save(tmp_path / "a.nii", np.zeros(SHAPE, np.uint8))
    larger = save(tmp_path / "b.nii", np.zeros((3, 4, 6), np.uint8))
    with pytest.raises(DataError, match=r"has 3×4×6 voxels, a\.nii has 3×4×5"):
        io.read_image([first, larger])
    moved = AFFINE.copy()
    moved[0, 3] = 0.5
    with pytest.raises(DataError, match=r"up to 0\.5 mm beside a\.nii"):
        io.read_image([first, save(tmp_path / "c.nii", np.zeros(SHAPE, np.uint8), moved)])
    with pytest.raises(DataError, match="holds 2 channels"):
        io.read_image([first, save(tmp_path / "d.nii", np.zeros((*SHAPE, 2), np.uint8))])


def test_grids_may_differ_by_a_hundredth_of_a_voxel_and_no_more(tmp_path):
    first = save(tmp_path / "a.nii", np.zeros(SHAPE, np.uint8))  # smallest spacing 1.5 mm
    for shift, fits in ((0.014, True), (0.016, False)):
        moved = AFFINE.copy()
        moved[2, 3] = shift
        second = save(tmp_path / "b.nii", np.zeros(SHAPE, np.uint8), moved)
        if fits:
            io.read_image([first, second])
        else:
            with pytest.raises(DataError, match="affines differ"):
                io.read_image([first, second])


def test_one_grid_stored_in_two_orientations_is_one_grid(tmp_path):
    stored = np.arange(60, dtype=np.uint8).reshape(SHAPE)
    flipped = np.diag([-1.5, 2.0, 3.0, 1.0])
    flipped[0, 3] = 1.5 * 2
    paths = [save(tmp_path / "a.nii", stored), save(tmp_path / "b.nii", stored[::-1], flipped)]
    volume, _ = io.read_image(paths)
    np.testing.assert_array_equal(volume.array[0], volume.array[1])


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a.png.*\.nii\.gz, \.nii, \.nrrd"):
        io.read_image([tmp_path / "a.png"])
    with pytest.raises(DataError, match="is a folder"):
        io.read_image([tmp_path])


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.NII.GZ", "scan.nrrd", "scan.mha"])
def test_the_stem_of_a_name_is_free_of_every_suffix(name):
    assert io.stem(Path(name)) == "scan"


def test_importing_the_readers_imports_no_slow_library():
    code = "import sys, u2net3d.io.dataset; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "nibabel", "SimpleITK", "monai", "nnunetv2", "scipy"} & set(loaded)
