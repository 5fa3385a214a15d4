"""What `-i` and `-o` ask for: cases, their channels, and where the results go."""

from __future__ import annotations

from pathlib import Path

import pytest

from u2net3d.errors import UsageError
from u2net3d.infer.jobs import Job, jobs_of


def empty(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [folder / name for name in names]


def cases(folder: Path, channels: int) -> dict[str, list[str]]:
    jobs = jobs_of([folder], folder.parent / "out", channels)
    return {job.output.name: [path.name for path in job.images] for job in jobs}


def test_a_file_goes_to_a_file_or_into_a_folder(tmp_path):
    (scan,) = empty(tmp_path, "scan.nii.gz")
    assert jobs_of([scan], tmp_path / "label.nii", 1) == [Job((scan,), tmp_path / "label.nii")]
    (tmp_path / "out").mkdir()
    (job,) = jobs_of([scan], tmp_path / "out", 1)
    assert job.output == tmp_path / "out" / "scan.nii.gz"


def test_several_files_are_channels_in_the_order_given(tmp_path):
    b, a = empty(tmp_path, "b.nii", "a.nii")
    assert jobs_of([b, a], tmp_path / "label.nii.gz", 2)[0].images == (b, a)


def test_every_image_of_a_folder_is_a_case(tmp_path):
    images = tmp_path / "images"
    empty(images, "b.nii.gz", "a.nrrd", "._a.nii.gz", "notes.txt", "c.NII.GZ")
    assert cases(images, 1) == {
        "a.nii.gz": ["a.nrrd"],
        "b.nii.gz": ["b.nii.gz"],
        "c.nii.gz": ["c.NII.GZ"],
    }


def test_numbers_at_the_end_are_channels_where_the_domain_has_so_many(tmp_path):
    images = tmp_path / "images"
    empty(images, "a_0001.nii.gz", "a_0000.nii.gz", "b.nii.gz", "scan_0007.nii.gz")
    assert cases(images, 2) == {
        "a.nii.gz": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b.nii.gz": ["b.nii.gz"],
        "scan_0007.nii.gz": ["scan_0007.nii.gz"],
    }


def test_of_one_channel_the_number_goes_where_every_file_has_it(tmp_path):
    images = tmp_path / "images"
    empty(images, "a_0000.nii.gz", "b_0000.nii.gz")
    assert cases(images, 1) == {"a.nii.gz": ["a_0000.nii.gz"], "b.nii.gz": ["b_0000.nii.gz"]}
    empty(images, "c_0001.nii.gz")  # so these numbers count cases
    assert list(cases(images, 1)) == ["a_0000.nii.gz", "b_0000.nii.gz", "c_0001.nii.gz"]


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        (("a.nii", "a.nii.gz"), 1),
        (("a_0000.nii", "a_0000.nii.gz"), 1),
        (("a.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz"), 2),
        (("a_0001.nii", "a_0001.nii.gz"), 2),
    ],
)
def test_two_files_of_one_case_are_refused(tmp_path, names, channels):
    empty(tmp_path / "images", *names)
    with pytest.raises(UsageError, match=r"would both be a\.nii\.gz"):
        cases(tmp_path / "images", channels)


def test_an_output_that_is_the_input_is_refused(tmp_path):
    images = tmp_path / "images"
    (scan,) = empty(images, "scan.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(scan)
    for inputs, output in (
        ([scan], scan),
        ([scan], images),
        ([scan], images / ".." / "images" / "scan.nii.gz"),
        ([scan], tmp_path / "link.nii.gz"),
        ([images], images),
        ([images], tmp_path / "images" / "."),
    ):
        with pytest.raises(UsageError, match=r"-o: .*the input"):
            jobs_of(inputs, output, 1)


def test_commands_that_make_no_sense_are_refused(tmp_path):
    images = tmp_path / "images"
    scan, note = empty(images, "scan.nii.gz", "note.txt")
    (tmp_path / "empty").mkdir()
    for inputs, output, what in (
        ([tmp_path / "nowhere"], tmp_path / "out", "-i: .*nowhere does not exist"),
        ([tmp_path / "empty"], tmp_path / "out", "-i: .*empty holds no image"),
        ([images], note, "-o: .* is a file, but -i is a folder"),
        ([images, scan], tmp_path / "out", "-i: .*images is a folder, one of several"),
        ([scan], tmp_path / "label.txt", r"-o: .*label\.txt is no NIfTI name"),
    ):
        with pytest.raises(UsageError, match=what):
            jobs_of(inputs, output, 1)
