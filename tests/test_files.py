"""A file is the old one or the new one, never half of either."""

from __future__ import annotations

import hashlib
import os

import pytest

from u2net3d import files
from u2net3d.errors import UsageError


def fail_half_way(path, error):
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise error


def test_a_write_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    files.write_text(path, "old")
    files.write_text(path, "größer")
    assert path.read_bytes() == "größer".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(RuntimeError, match="disk"):
        fail_half_way(path, RuntimeError("disk"))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_first_write_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fail_half_way(tmp_path / "a.bin", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")

    def refuse(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="no space"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": {1, 2}})
    assert path.read_text() == '{\n  "a": 1\n}\n'


def test_the_temporary_file_lies_beside_and_keeps_the_suffixes(tmp_path):
    path = tmp_path / "label.nii.gz"
    with files.replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith("label.nii.gz")
        assert temporary.name.startswith(".")
        assert not path.exists()
        temporary.write_bytes(b"")
    assert path.exists()


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert files.sha256_file(tmp_path / "a") == want


def test_the_hash_of_json_knows_no_order_of_keys():
    assert files.sha256_json({"b": 1, "a": [2]}) == files.sha256_json({"a": [2], "b": 1})
    assert files.sha256_json({"b": 1}) == hashlib.sha256(b'{"b":1}').hexdigest()
    assert files.sha256_json([1, 2]) != files.sha256_json([2, 1])


def test_a_writable_place_stays_as_it_was(tmp_path):
    files.require_writable(tmp_path / "not" / "yet" / "a.json", "--json")
    files.require_writable(tmp_path, "--model")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_must_be_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--model: .*is a file, not a folder"):
        files.require_writable(tmp_path / "file" / "model", "--model")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_leave_to_write_is_a_usage_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match=r"--model: cannot write in"):
        files.require_writable(tmp_path / "model", "--model")


def test_a_disk_that_refuses_is_a_usage_error(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    with pytest.raises(UsageError, match=r"--cache: .*Read-only file system"):
        files.require_writable(tmp_path / "cache", "--cache")
