"""No file is read as other voxels, or at another place, than its maker meant.

Either one line names file and mend, or the voxels are those that were stored.
"""

from __future__ import annotations

import gzip
import io as streams
import itertools
import os
import runpy
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from u2net3d import io
from u2net3d.errors import DataError
from u2net3d.io import forms, stream
from u2net3d.io.nifti import Source
from u2net3d.volume import Volume, to_canonical

TABLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("faults.py"))))
WHOLE, _ = to_canonical(TABLE.VOXELS[None].astype(np.float32), TABLE.AFFINE)
# The corners of the volume, to compare places by.
CORNERS = np.array([(d, h, w, 1) for d in (0, 4) for h in (0, 3) for w in (0, 2)], float)
# What nothing else in a header can contradict.
SCALING = {"scl_slope", "scl_inter"}
# (quatern_d is 0 in this image, and so is what most flips make of it.)
QFORM = {"pixdim", "quatern_b", "quatern_c", *(f"qoffset_{axis}" for axis in "xyz")}


def named(faults):
    return pytest.mark.parametrize("fault", faults, ids=lambda fault: fault.kind)


def read(path: Path, label: bool = False) -> tuple[Volume, Source]:
    return io.read_label(path) if label else io.read_image([path])


def outcome(path: Path) -> str:
    """`refused` (in one line), `same`, `noted` (another place, and said so), or worse."""
    try:
        volume, source = io.read_image([path])
    except DataError as error:
        return "refused" if path.name in str(error) and "\n" not in str(error) else "unclear"
    if not np.array_equal(volume.array, WHOLE.array):
        return "wrong"
    apart_mm = np.linalg.norm(CORNERS @ (volume.affine - WHOLE.affine).T, axis=1).max()
    if apart_mm < 0.04:  # a thirtieth of a voxel
        return "same"
    return "noted" if source.notes else "wrong"


def flips(
    raw: bytes, places: Iterable[int], bits: Iterable[int] = range(8)
) -> Iterator[tuple[int, bytes]]:
    """Every place, and the bytes with one bit of it turned; once for each bit."""
    for place, bit in itertools.product(places, bits):
        yield place, TABLE.flipped(raw, place, bit)


def test_the_table_holds_more_than_forty_kinds_of_bad_file():
    assert len({(chapter, f.kind) for chapter, fs in TABLE.CHAPTERS.items() for f in fs}) > 40


@named(TABLE.REFUSED)
def test_a_bad_file_is_refused_in_one_line_with_its_name_and_a_mend(fault, tmp_path):
    path = fault.make(tmp_path)
    with pytest.raises(DataError) as error:
        read(path, fault.label)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "scan."))
    assert error.value.mend
    assert len(str(error.value)) < len(str(tmp_path)) + 300
    assert "Error" not in str(error.value)  # no words of a library


@named(TABLE.NOTED)
def test_what_was_mended_or_chosen_is_noted(fault, tmp_path):
    _, source = io.read_image([fault.make(tmp_path)])
    (note,) = source.notes
    assert "scan" not in note  # notes are kept; names are not


@named(TABLE.READ)
def test_a_trap_is_read_right(fault, tmp_path):
    path = fault.make(tmp_path)
    assert outcome(path) == "same"
    volume, source = io.read_image([path])
    assert source.notes == ()
    assert source.stored_shape == TABLE.SHAPE
    assert volume.spacing_mm == pytest.approx((3, 1.4, 1.2))


@named([f for f in (*TABLE.NOTED, *TABLE.READ) if f.kind not in ("few NaN", "few infinite")])
def test_a_label_for_it_lies_where_the_file_lay(fault, tmp_path):
    volume, source = io.read_image([fault.make(tmp_path)])
    label = (volume.array[0] > 0).astype(np.uint8)
    io.nifti.write_label(tmp_path / "label.nii.gz", label, source)
    again, its_source = io.read_label(tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(again.array[0], label)
    np.testing.assert_allclose(its_source.affine, source.affine, atol=1e-5)


def test_few_broken_voxels_become_the_smallest_value_of_their_channel(tmp_path):
    voxels = np.full((20, 20, 20, 2), [5, -7], np.float32)
    voxels[0, 0, :3, 0] = np.nan, np.inf, -np.inf
    voxels[1, 0, 0] = 3, -9
    (tmp_path / "a.nii.gz").write_bytes(TABLE.zipped(TABLE.nii(voxels)))
    volume, source = io.read_image([tmp_path / "a.nii.gz"])
    assert np.isfinite(volume.array).all()
    assert np.unique(volume.array[0], return_counts=True)[1].tolist() == [4, 7996]
    assert volume.array[0].min() == 3
    note = "3 voxels that were no finite numbers were set to 3, the smallest of channel 0"
    assert source.notes == (note,)


def test_a_thousandth_of_a_channel_may_be_broken_and_no_more(tmp_path):
    for count, fits in ((8, True), (9, False)):
        voxels = np.zeros((20, 20, 20), np.float32)
        voxels.flat[:count] = np.nan
        (tmp_path / "a.nii").write_bytes(TABLE.nii(voxels))
        if fits:
            io.read_image([tmp_path / "a.nii"])
        else:
            with pytest.raises(DataError, match="9 voxels are not finite"):
                io.read_image([tmp_path / "a.nii"])


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
def test_a_file_cut_anywhere_is_refused(name, tmp_path):
    raw = TABLE.zipped(TABLE.nii()) if name.endswith("gz") else TABLE.nii()
    path = tmp_path / name
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        assert outcome(path) == "refused", length
    path.write_bytes(raw)
    assert outcome(path) == "same"


def test_a_flipped_byte_of_a_zipped_file_is_never_read_as_other_voxels(tmp_path):
    path, raw = tmp_path / "scan.nii.gz", TABLE.zipped(TABLE.nii())
    harmless = (
        set()
    )  # flags and time in the header of gzip, and runs of zeros copied from elsewhere
    for place, damaged in flips(raw, range(len(raw))):
        path.write_bytes(damaged)
        found = outcome(path)
        assert found in ("refused", "same"), place
        harmless |= {place} if found == "same" else set()
    assert len(harmless) < len(raw) / 10


@pytest.mark.parametrize(
    ("codes", "bits", "unchecked"),
    [
        ((1, 1), range(8), SCALING),
        ((0, 1), (0, 6, 7), SCALING | {"srow_x", "srow_y", "srow_z"}),
        ((1, 0), (0, 6, 7), SCALING | QFORM),
    ],
)
def test_a_flipped_byte_of_a_plain_header_is_refused_noted_or_harmless(
    codes, bits, unchecked, tmp_path
):
    """A .nii has no checksum: what one field alone says stays unchecked, and nothing else."""
    path, raw = tmp_path / "scan.nii", TABLE.nii(codes=codes)
    layout = nib.nifti1.header_dtype
    fields = {at + i: n for n, (kind, at) in layout.fields.items() for i in range(kind.itemsize)}
    text = range(layout.fields["descrip"][1], layout.fields["qform_code"][1])
    wrong = set()
    for place, damaged in flips(raw, sorted({*range(352)} - {*text[8:]}), bits):
        path.write_bytes(damaged)
        found = outcome(path)
        assert found in ("refused", "same", "noted", "wrong")
        if found == "wrong":
            wrong.add(fields.get(place, "extension"))
    assert wrong == unchecked


@pytest.mark.parametrize(("name", "begins"), [("scan.nrrd", b"\n\n"), ("scan.mha", b"LOCAL\n")])
def test_packed_voxels_of_other_formats_are_never_read_wrong(name, begins, tmp_path):
    path = TABLE.other(name, lambda raw: raw, True)(tmp_path)
    raw = path.read_bytes()
    start = raw.index(begins) + len(begins)
    for place in range(start, len(raw)):
        path.write_bytes(raw[:place])
        assert outcome(path) == "refused", place
        path.write_bytes(TABLE.flipped(raw, place, place % 8))
        assert outcome(path) in ("refused", "same"), place


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path):
    bomb = next(fault for fault in TABLE.REFUSED if fault.kind == "a bomb")
    path = bomb.make(tmp_path)
    io.stem(path)
    tracemalloc.start()
    with pytest.raises(DataError, match="more are there"):
        io.read_image([path])
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < TABLE.BIG / 4


def test_a_volume_that_does_not_fit_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "memory_bytes", lambda: 6 * 60 - 1)  # int16 and float32
    for name, content in (("a.nii", TABLE.nii()), ("a.nii.gz", TABLE.zipped(TABLE.nii()))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="GiB of memory"):
            io.read_image([tmp_path / name])
    monkeypatch.setattr(stream, "memory_bytes", lambda: 6 * 60)
    io.read_image([tmp_path / "a.nii"])


def test_a_file_that_is_still_being_written_is_refused(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(TABLE.nii())
    opening = stream.opened(path)
    opening.__enter__().read(10)
    path.write_bytes(TABLE.nii() + b"more")
    with pytest.raises(DataError, match="changed while it was read"):
        opening.__exit__(None, None, None)


@pytest.mark.parametrize("piece", [1, 7, 300, 1 << 20])
def test_a_stream_hands_out_what_gzip_holds_in_any_pieces(piece, tmp_path):
    content = np.random.default_rng(1).integers(0, 9, 5000).astype(np.uint8).tobytes() * 3
    parts = [content[:1], content[1:9000], b"", content[9000:]]
    (tmp_path / "a").write_bytes(b"".join(map(gzip.compress, parts)))
    with stream.opened(tmp_path / "a") as opened:
        found = streams.BytesIO()
        while taken := opened.read(piece):
            found.write(taken)
        assert opened.at_end()
    assert found.getvalue() == content


def test_voxels_of_a_pair_that_look_like_gzip_are_voxels(tmp_path):
    voxels = TABLE.VOXELS.copy()
    voxels[0, 0, 0] = np.frombuffer(b"\x1f\x8b", "<i2")[0]
    nib.save(nib.Nifti1Pair(voxels, TABLE.AFFINE), tmp_path / "scan.hdr")
    assert (tmp_path / "scan.img").read_bytes()[:2] == b"\x1f\x8b"
    volume, _ = io.read_image([tmp_path / "scan.img"])
    assert volume.array[0, 0].max() == WHOLE.array[0, 0].max()
    assert (volume.array == np.float32(voxels[0, 0, 0])).any()


def test_a_zipped_pair_is_read_by_either_name(tmp_path):
    nib.save(nib.Nifti1Pair(TABLE.VOXELS, TABLE.AFFINE), tmp_path / "scan.img.gz")
    for name in ("scan.hdr.gz", "scan.img.gz"):
        assert outcome(tmp_path / name) == "same"
        assert [path.name for path in io.parts(tmp_path / name)] == ["scan.hdr.gz", "scan.img.gz"]


def test_every_file_of_a_volume_is_named(tmp_path):
    (tmp_path / "other").mkdir()
    header = TABLE.other("scan.mhd", lambda raw: raw)(tmp_path)
    assert io.parts(header) == (header, tmp_path / "scan.raw")
    single = TABLE.whole()(tmp_path)
    assert io.parts(single) == (single,)
    with pytest.raises(DataError, match="is a pipe"):
        io.parts(TABLE.pipe(tmp_path / "other"))
    assert io.stem(Path("a.img")) == io.stem(Path("a.hdr.gz")) == "a"


def test_the_notes_of_every_channel_are_kept(tmp_path):
    (tmp_path / "a.nii").write_bytes(TABLE.nii())
    (tmp_path / "b.nii").write_bytes(TABLE.nii(codes=(1, 4), qform=TABLE.moved(5)))
    _, source = io.read_image([tmp_path / "a.nii", tmp_path / "b.nii"])
    assert source.notes == ("channel 1: qform and sform differ by up to 5 mm: sform taken",)


@pytest.mark.parametrize("angle", [0, 1e-6, 1e-5, 1e-4, 1e-3, 0.1])
def test_the_rounding_of_a_quaternion_is_no_disagreement(angle):
    """Half a turn, as axial slices are stored, and a little more: a large volume of thin voxels."""
    cos, sin = np.cos(np.pi - angle), np.sin(np.pi - angle)
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) * 0.3
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    found, notes = forms.affine_of(image.header, (512, 512, 400), Path("scan.nii"))
    np.testing.assert_allclose(found, affine, atol=1e-6)
    assert notes == ()


def test_an_image_in_memory_is_held_to_the_same_rule_of_forms():
    image = nib.Nifti1Image.from_bytes(TABLE.nii(qform=TABLE.mirrored()))
    with pytest.raises(DataError, match="left and right may be mirrored"):
        io.nifti.from_nibabel(image)
    _, source = io.nifti.from_nibabel(nib.Nifti1Image.from_bytes(TABLE.nii(codes=(0, 0))))
    assert "neither qform nor sform" in source.notes[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "scan.nii").write_bytes(TABLE.nii())
    (tmp_path / "scan.nii").chmod(0)
    with pytest.raises(DataError, match=r"scan\.nii: may not be read"):
        io.read_image([tmp_path / "scan.nii"])


def test_scaling_is_computed_as_nibabel_does(tmp_path):
    for dtype in (np.uint8, np.int16, np.float32, np.float64):
        raw = TABLE.nii(np.abs(TABLE.VOXELS % 100).astype(dtype), slope=(0.37, -1024.5))
        (tmp_path / "a.nii").write_bytes(raw)
        volume, source = io.read_image([tmp_path / "a.nii"])
        expected = nib.load(tmp_path / "a.nii").get_fdata().astype(np.float32)
        np.testing.assert_array_equal(source.orientation.undo(volume.array[0]), expected)
