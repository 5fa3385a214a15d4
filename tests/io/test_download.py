"""Archives from a server of this test: taken up again, held against their hash, or refused."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from u2net3d.errors import DataError, DiskError, UsageError
from u2net3d.io import download as module
from u2net3d.io.dataset import find_dataset
from u2net3d.io.download import Archive, archive_of, archives, download

NAME = "Task04_Hippocampus"


class Server(ThreadingHTTPServer):
    """Serves one file.

    breaks: bytes after which a connection ends, one number for each of the first connections;
    ranges: whether it can begin in the middle; codes: answers of the first connections.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges = content, True
        self.breaks: list[int] = []
        self.codes: list[int] = []
        self.asked: list[str | None] = []
        self.headers: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/sets"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        if server.codes:
            self.send_error(server.codes.pop(0))
            return
        if self.path != f"/sets/{NAME}.tar":
            self.send_error(404)
            return
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        size = len(server.content)
        if server.ranges and asked and begin >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.end_headers()
            return
        begin = begin if server.ranges else 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        headers = {"Content-Length": str(size - begin)} | server.headers
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        end = begin + server.breaks.pop(0) if server.breaks else size
        self.wfile.write(server.content[begin:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def tar(tmp_path_factory, make_dataset):
    """A whole archive as it is published."""
    import tarfile

    root = tmp_path_factory.mktemp("tar")
    make_dataset(root, NAME, cases=2)
    with tarfile.open(root / "archive.tar", "w") as archive:
        archive.add(root / NAME, NAME)
    return (root / "archive.tar").read_bytes()


@pytest.fixture
def server(tar, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    with Server(tar) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def fetch(tar, server, tmp_path):
    """fetch(mirror, ...) downloads into tmp_path / "data"; gives the folder and what was told."""

    def run(*mirrors):
        told = SimpleNamespace(progress=[], lines=[])
        archive = Archive(NAME, f"{server.url}/{NAME}.tar", hashlib.md5(tar).hexdigest())
        told.folder = download(
            archive,
            tmp_path / "data",
            mirrors,
            lambda *step: told.progress.append(step),
            told.lines.append,
        )
        return told

    return run


def left_in(tmp_path):
    return sorted(path.name for path in (tmp_path / "data").iterdir())


def test_an_archive_becomes_a_data_set_and_nothing_else_is_left(fetch, tar, tmp_path):
    told = fetch()
    assert told.folder == tmp_path / "data" / NAME
    assert len(find_dataset(tmp_path / "data", "hippocampus").cases) == 2
    assert left_in(tmp_path) == [NAME]
    assert ("fetching", len(tar), len(tar)) in told.progress
    assert told.progress[-1][0] == "unpacking"
    assert told.progress[-1][1] == told.progress[-1][2]


def test_a_broken_connection_is_taken_up_where_it_ended(fetch, server, tar):
    server.breaks = [1000, 5, 0, 0, 2000]
    fetch()
    begins = [None, "bytes=1000-", "bytes=1005-", "bytes=1005-", "bytes=1005-", "bytes=3005-"]
    assert server.asked == begins


def test_a_download_that_was_given_up_goes_on_with_the_same_command(fetch, server, tmp_path):
    server.breaks = [1000] + [0] * 20
    with pytest.raises(DataError, match=r"broke off.*1000 bytes are kept") as error:
        fetch()
    assert "\n" not in str(error.value)
    assert left_in(tmp_path) == [f".{NAME}.tar.part"]
    server.breaks, server.asked = [], []
    fetch()
    assert server.asked == ["bytes=1000-"]
    assert left_in(tmp_path) == [NAME]


def test_an_archive_that_was_fetched_whole_is_not_fetched_again(fetch, server, tar, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f".{NAME}.tar.part").write_bytes(tar)
    fetch()
    assert server.asked == [f"bytes={len(tar)}-"]
    assert left_in(tmp_path) == [NAME]


def test_a_rest_that_is_longer_than_the_archive_is_thrown_away(fetch, server, tar, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f".{NAME}.tar.part").write_bytes(tar + b"more")
    fetch()
    assert server.asked == [f"bytes={len(tar) + 4}-", None]


def test_a_server_that_cannot_begin_in_the_middle_is_asked_for_all(fetch, server, tmp_path):
    server.ranges, server.breaks = False, [1000]
    fetch()
    assert server.asked == [None, "bytes=1000-"]
    assert left_in(tmp_path) == [NAME]


def test_other_bytes_than_the_published_ones_are_thrown_away(fetch, server, tar, tmp_path):
    server.content = tar[:2000] + bytes([tar[2000] ^ 1]) + tar[2001:]
    with pytest.raises(DataError, match="is not the published archive"):
        fetch()
    assert left_in(tmp_path) == []
    server.content = tar
    fetch()
    assert left_in(tmp_path) == [NAME]


def test_mirrors_are_asked_in_turn_and_the_publisher_is_not(fetch, server, tmp_path):
    told = fetch(f"{server.url}/nowhere", f"{server.url}/")
    assert len(told.lines) == 1
    assert "404" in told.lines[0]
    assert left_in(tmp_path) == [NAME]
    assert len(server.asked) == 2


@pytest.mark.parametrize("mirror", ["file:///etc", "ftp://host/x", "host/x", "https://", ""])
def test_only_web_addresses_are_mirrors(fetch, server, mirror):
    with pytest.raises(UsageError, match="--mirror"):
        fetch(mirror)
    assert server.asked == []


def test_a_server_that_is_busy_is_asked_again_one_that_refuses_is_not(fetch, server):
    server.codes = [503, 429]
    fetch()
    assert len(server.asked) == 3


def test_a_refusal_is_told_at_once(fetch, server):
    server.codes = [403]
    with pytest.raises(DataError, match="403"):
        fetch()
    assert len(server.asked) == 1


def test_nobody_there_is_told_with_the_address(tar, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    with Server(tar) as gone:
        url = gone.url
    archive = Archive(NAME, f"{url}/{NAME}.tar", "0" * 32)
    with pytest.raises(DataError, match=r"cannot be fetched .*refused.*network") as error:
        download(archive, tmp_path, (), lambda *_: None, lambda _: None)
    assert error.value.where == archive.url
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", ["", "many", "-1"])
def test_an_answer_of_no_known_length_is_refused(fetch, server, length):
    server.headers = {"Content-Length": length}
    with pytest.raises(DataError, match="otherwise than a server of files"):
        fetch()


def test_too_little_room_is_told_before_anything_is_fetched(fetch, server, tar, monkeypatch):
    free = SimpleNamespace(free=2 * len(tar) - 1)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: free)
    with pytest.raises(DiskError, match=f"{2 * len(tar)} bytes are needed"):
        fetch()
    free.free += 1
    fetch()


def test_what_is_there_already_is_never_touched(fetch, server, tmp_path):
    mine = tmp_path / "data" / NAME / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    with pytest.raises(UsageError, match="is there already"):
        fetch()
    assert server.asked == []
    assert mine.read_text() == "years of work"


def test_what_a_killed_download_left_half_unpacked_is_removed(fetch, tmp_path, monkeypatch):
    from u2net3d import files

    left = files.temporary_beside(tmp_path / "data" / NAME)
    left.mkdir(parents=True)
    monkeypatch.setattr(files, "is_alive", lambda _: False)
    fetch()
    assert left_in(tmp_path) == [NAME]


def test_the_ten_published_archives_are_known_by_their_domains():
    known = archives()
    assert len(known) == 10
    assert archive_of("Hippocampus") == known["hippocampus"]
    assert known["hippocampus"].name == NAME
    assert all(len(archive.md5) == 32 for archive in known.values())
    assert all(archive.url.startswith("https://") for archive in known.values())
    with pytest.raises(UsageError, match=r"did you mean hippocampus\?"):
        archive_of("hipocampus")
