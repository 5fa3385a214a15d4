"""Evil archives write nothing; whole ones are unpacked as they are."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from u2net3d.errors import DataError, DiskError
from u2net3d.io import unpack as module
from u2net3d.io.unpack import unpack

NAME = "Task02_Heart"


def member(name, content=b"x", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, io.BytesIO(content)


WHOLE = [
    member(f"./._{NAME}"),
    member(NAME, b"", type=tarfile.DIRTYPE),
    member(f"{NAME}/dataset.json", b"{}"),
    member(f"./{NAME}/imagesTr/a.nii.gz", b"image"),
    member(f"{NAME}/imagesTr/._a.nii.gz", b"of macOS"),
]


@pytest.fixture
def unpacked(tmp_path):
    """unpacked(members) writes a tar of them, as `zipped`, and unpacks it to tmp_path/data/NAME."""

    def run(members, zipped=None, cut=None):
        path = tmp_path / "archive.tar"
        with tarfile.open(path, "w") as tar:
            for info, content in members:
                content.seek(0)
                tar.addfile(info, content)
        content = zipped(path.read_bytes()) if zipped else path.read_bytes()
        path.write_bytes(content[:cut])
        target = tmp_path / "data" / NAME
        target.parent.mkdir(exist_ok=True)
        unpack(path, target, lambda *_: None)
        return target

    return run


def everything(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))


def test_a_whole_archive_is_unpacked_without_what_macos_left(unpacked, tmp_path):
    target = unpacked(WHOLE)
    files = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert files == {"dataset.json": b"{}", "imagesTr/a.nii.gz": b"image"}
    assert [path.name for path in (tmp_path / "data").iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("evil", "what"),
    [
        (member("/tmp/evil"), "the absolute name"),
        (member(f"{NAME}/C:evil"), "the absolute name"),
        (member(f"{NAME}\\..\\evil"), "the absolute name"),
        (member("../evil"), "leads out of its folder"),
        (member(f"{NAME}/../../evil"), "leads out of its folder"),
        (member(f"{NAME}/a/../b"), "leads out of its folder"),
        (member("evil"), "lies outside of Task02_Heart"),
        (member("Task03_Liver/evil"), "lies outside of Task02_Heart"),
        (member(f"{NAME}/l", b"", type=tarfile.SYMTYPE, linkname="/etc"), "a link, a device"),
        (member(f"{NAME}/l", b"", type=tarfile.LNKTYPE, linkname="../x"), "a link, a device"),
        (member(f"{NAME}/n", b"", type=tarfile.CHRTYPE), "a link, a device"),
        (member(f"{NAME}/n", b"", type=tarfile.BLKTYPE), "a link, a device"),
        (member(f"{NAME}/n", b"", type=tarfile.FIFOTYPE), "a link, a device"),
        (member(f"{NAME}/dataset.json"), "twice"),
        (member(f"{NAME}/DATASET.json"), "twice"),
        (member(f"{NAME}/a\nb", b"", type=tarfile.SYMTYPE), r"a\\nb"),
    ],
)
def test_an_evil_member_is_refused_before_anything_is_written(unpacked, tmp_path, evil, what):
    with pytest.raises(DataError, match=what) as error:
        unpacked([*WHOLE, evil])
    assert "\n" not in str(error.value)
    assert everything(tmp_path) == ["archive.tar", "data"]


def test_an_archive_that_says_more_than_it_holds_is_refused(tmp_path):
    bomb, _ = member(f"{NAME}/bomb", b"")
    bomb.size = 10**12
    path = tmp_path / "archive.tar"
    path.write_bytes(bomb.tobuf() + bytes(1024))
    with pytest.raises(DataError, match="says that it holds 1000000000000 bytes"):
        unpack(path, tmp_path / NAME, lambda *_: None)
    assert everything(tmp_path) == ["archive.tar"]


@pytest.mark.parametrize("size", [-1, -512, -(10**6)])
def test_a_negative_size_is_refused_and_ends_the_search(tmp_path, size):
    info, _ = member(f"{NAME}/evil", b"")
    info.size = size
    path = tmp_path / "archive.tar"
    path.write_bytes(info.tobuf(format=tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError):
        unpack(path, tmp_path / NAME, lambda *_: None)


def test_a_sparse_file_is_refused(tmp_path):
    info, _ = member(f"{NAME}/sparse", b"", type=tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(format=tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % 10**9  # its size once unpacked
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    path = tmp_path / "archive.tar"
    path.write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(DataError, match=r"a link, a device|says that it holds"):
        unpack(path, tmp_path / NAME, lambda *_: None)
    assert everything(tmp_path) == ["archive.tar"]


def test_a_compressed_archive_is_refused_whatever_is_in_it(unpacked, tmp_path):
    with pytest.raises(DataError, match="is no whole tar"):
        unpacked(WHOLE, zipped=gzip.compress)
    assert everything(tmp_path) == ["archive.tar", "data"]


@pytest.mark.parametrize("cut", [0, 100, 600, 1600, 2600])
def test_a_truncated_archive_leaves_nothing(unpacked, tmp_path, cut):
    with pytest.raises(DataError):
        unpacked([*WHOLE[1:], member(f"{NAME}/b", bytes(3000))], cut=cut)
    assert everything(tmp_path) == ["archive.tar", "data"]


def test_too_many_files_are_refused(unpacked, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_MEMBERS", len(WHOLE))
    unpacked(WHOLE)
    with pytest.raises(DataError, match="more than 5 files"):
        unpacked([*WHOLE, member(f"{NAME}/b")])


def test_a_folder_that_is_there_is_kept(unpacked, tmp_path):
    unpacked(WHOLE)
    with pytest.raises(DataError, match="is there already"):
        unpacked([*WHOLE, member(f"{NAME}/b")])
    assert not (tmp_path / "data" / NAME / "b").exists()
    assert [path.name for path in (tmp_path / "data").iterdir()] == [NAME]


def test_an_archive_without_dataset_json_is_refused(unpacked, tmp_path):
    with pytest.raises(DataError, match=r"holds no Task02_Heart/dataset\.json"):
        unpacked([WHOLE[3]])
    assert everything(tmp_path) == ["archive.tar", "data"]


def test_a_disk_that_fails_leaves_nothing(unpacked, tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(DiskError, match="No space left"):
        unpacked(WHOLE)
    assert everything(tmp_path) == ["archive.tar", "data"]
