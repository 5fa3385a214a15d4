"""A file is the old one or the new one, never half of either."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from u2net3d import files
from u2net3d.errors import DiskError, UsageError


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


def test_a_disk_without_room_is_named_with_what_is_still_good(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError) as error:
        files.write_bytes(path, b"new")
    said = str(error.value)
    assert said.startswith(f"{path}: no room left on {tmp_path} (")
    assert said.endswith("MiB free) — what stood there is untouched: make room, then repeat")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["write", "fsync", "replace"])
def test_a_failing_disk_is_said_wherever_it_fails(tmp_path, monkeypatch, place):
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    name = {"write": "pathlib.Path.write_bytes", "fsync": "os.fsync"}.get(place)
    monkeypatch.setattr(name or "pathlib.Path.replace", fail)
    with pytest.raises(DiskError, match="Input/output error"):
        files.write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_bytes_than_were_written_are_never_put_in_place(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    write = type(path).write_bytes

    def forgetful(self, content):
        return write(self, b"\0" * len(content))  # as a disk that loses a block

    monkeypatch.setattr("pathlib.Path.write_bytes", forgetful)
    with pytest.raises(DiskError, match="not what is read back"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_its_check_refuses_is_not_put_in_place(tmp_path):
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")

    def refuse(temporary):
        assert temporary.read_bytes() == b"new"
        raise DiskError(path, "is not a label", "repeat")

    with pytest.raises(DiskError), files.replacing(path, refuse) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_written_through(tmp_path):
    target, link = tmp_path / "there" / "a.bin", tmp_path / "a.bin"
    target.parent.mkdir()
    link.symlink_to(target)
    for content in (b"first", b"second"):  # the link dangles at first
        files.write_bytes(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


def test_a_replaced_file_keeps_its_permissions_and_a_new_one_has_the_users(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()
    old.chmod(0o640)
    before = os.umask(0o027)
    try:
        files.write_bytes(old, b"")
        files.write_bytes(new, b"")
    finally:
        os.umask(before)
    assert (old.stat().st_mode & 0o777, new.stat().st_mode & 0o777) == (0o640, 0o640)
    old.chmod(0o604)
    files.write_bytes(old, b"again")
    assert old.stat().st_mode & 0o777 == 0o604


def test_a_device_or_a_pipe_is_never_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(UsageError, match="is no regular file"):
            files.write_bytes(path, b"")
    assert (tmp_path / "pipe").is_fifo()


def test_the_longest_names_can_be_written(tmp_path):
    for name in ("é" * 120 + ".nii.gz", "a" * 248 + ".nii.gz"):
        with files.replacing(tmp_path / name) as temporary:
            assert temporary.name.endswith(".nii.gz")
            temporary.touch()
        assert (tmp_path / name).exists()


def test_lines_are_added_one_by_one(tmp_path):
    for line in ("a", "ö"):
        files.append_line(tmp_path / "a.jsonl", line)
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == "a\nö\n"


def test_a_line_that_finds_no_room_is_not_added_by_half(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    files.append_line(path, "whole")
    real = type(path).open

    class Small:
        """Takes three bytes, then the disk is full."""

        def __init__(self, handle):
            self.handle, self.room = handle, 3

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.handle.close()

        def __getattr__(self, name):
            return getattr(self.handle, name)

        def write(self, content):
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room = 0
            return self.handle.write(content[:3])

    monkeypatch.setattr("pathlib.Path.open", lambda self, *a, **k: Small(real(self, *a, **k)))
    with pytest.raises(DiskError, match="no room left"):
        files.append_line(path, "a longer line")
    monkeypatch.undo()
    assert path.read_bytes() == b"whole\n"


def killed_while_writing(path):
    """The temporary file that a process leaves which is killed before it can rename it."""
    code = (
        "import os, signal, sys; from pathlib import Path; from u2net3d import files\n"
        "with files.replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    (left,) = [other for other in path.parent.iterdir() if other.name.startswith(".")]
    return left


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    left = killed_while_writing(path)
    assert path.read_bytes() == b"old"
    mine = files.temporary_beside(path)  # of a living process: this one
    mine.touch()
    hidden = tmp_path / ".u2net3d-notes"
    hidden.touch()
    other = tmp_path / left.name.replace(left.name.split("-")[1], "0123abcd", 1)
    other.touch()  # of another machine, fresh
    assert files.sweep(tmp_path, tmp_path / "nowhere", path) == [left]
    assert set(tmp_path.iterdir()) == {path, mine, hidden, other}
    os.utime(other, (0, 0))  # of another machine, from long ago
    assert files.sweep(tmp_path) == [other]


def test_a_disk_of_3_mb_that_is_full_keeps_every_file_whole(small_disk):
    path = small_disk / "a.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(DiskError, match="no room left on"):
        files.write_bytes(path, bytes(4 << 20))
    assert path.read_bytes() == b"old"
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(DiskError, match=r"no room left on .* \(0.0 MiB free\)"):
        files.write_bytes(path, b"new" * 2000)
    log = small_disk / "log"
    log.symlink_to("a.bin")
    with pytest.raises(DiskError, match="no room left on"):
        files.append_line(log, "x" * 8000)
    assert path.read_bytes() == b"old"
    assert {found.name for found in small_disk.iterdir()} == {"a.bin", "ballast", "log"}


def test_a_name_in_no_known_encoding_is_written_and_comes_back(tmp_path):
    name = os.fsdecode(b"m\xfcller")  # a file of an older system: Latin-1
    files.write_json(tmp_path / "names.json", {name: name})
    assert json.loads((tmp_path / "names.json").read_text(encoding="utf-8")) == {name: name}
