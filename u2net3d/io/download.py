"""The archives of the Medical Segmentation Decathlon, fetched: the only place that uses a network.

What is fetched is believed only when its hash is the published one; so any mirror will do.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from u2net3d import files
from u2net3d.errors import DataError, DiskError, UsageError
from u2net3d.io.unpack import unpack
from u2net3d.spec import domain_name

TIMEOUT_S = 60.0
TRIES = 5  # in a row without a byte; what was fetched is kept, so a slow line gets there
PAUSE_S = 2.0
_BLOCK = 1 << 18

Progress = Callable[[str, int, int], None]  # what is being done, bytes done, of how many
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Archive:
    """A published archive: `Task04_Hippocampus`, where it lies, and the MD5 of its bytes."""

    name: str
    url: str
    md5: str


class _BrokenOffError(Exception):
    """The connection ended early, or nobody answered; another try may go on from there."""


def archives() -> dict[str, Archive]:
    """The published archives by domain name; addresses and hashes are those that monai knows."""
    from monai.apps.datasets import DecathlonDataset

    urls, hashes = DecathlonDataset.resource, DecathlonDataset.md5
    return {domain_name(name): Archive(name, url, hashes[name]) for name, url in urls.items()}


def archive_of(text: str) -> Archive:
    """The archive of a domain. Raises UsageError, with the nearest name, for one there is not."""
    name, known = domain_name(text), archives()
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    mend = f"did you mean {near[0]}? " if near else ""
    what = f"'{text}' is no data set of the Medical Segmentation Decathlon"
    raise UsageError("NAME", what, f"{mend}there are: {', '.join(known)}")


def download(
    archive: Archive, data: Path, mirrors: Sequence[str], progress: Progress, tell: Tell
) -> Path:
    """Fetches, checks and unpacks an archive into `data`; gives the new folder.

    mirrors: addresses of folders that hold the same file, asked in turn instead of the publisher.
    What a broken download leaves is taken up again. Raises UsageError where the folder is there
    already or a mirror is no web address, DataError where no address gives the published bytes,
    DiskError where there is no room.
    """
    target = data / archive.name
    if os.path.lexists(target):
        raise UsageError(target, "is there already", "use it, or move it away to fetch it again")
    urls = [_inside(mirror, archive.name) for mirror in mirrors] or [archive.url]
    files.require_writable(data, "--data")
    data.mkdir(parents=True, exist_ok=True)
    files.sweep(data)
    part = data / f".{archive.name}.tar.part"
    for place, url in enumerate(urls, start=1):
        try:
            _fetch(url, part, archive, progress)
            break
        except DataError as error:
            if place == len(urls):
                raise
            tell(f"{error}; trying the next mirror")
    unpack(part, target, lambda done, total: progress("unpacking", done, total))
    part.unlink()
    return target


def _inside(mirror: str, name: str) -> str:
    if not re.match(r"https?://[^/]", mirror):
        mend = "write https://host/folder, the folder that holds the archives"
        raise UsageError("--mirror", f"'{mirror}' is no web address", mend)
    return f"{mirror.rstrip('/')}/{name}.tar"


def _fetch(url: str, part: Path, archive: Archive, progress: Progress) -> None:
    """Brings `part` to the whole archive. Raises DataError, `part` kept, where it cannot be had."""
    left = TRIES
    while True:
        before = _size(part)
        try:
            _receive(url, part, progress)
            break
        except _BrokenOffError as error:
            left = TRIES if _size(part) > before else left - 1
            if left == 0:
                have = f"; {_size(part)} bytes are kept" if _size(part) else ""
                mend = "look at the network or name a --mirror, then repeat the command"
                raise DataError(url, f"cannot be fetched ({error}){have}", mend) from error
        time.sleep(PAUSE_S)
    with part.open("rb") as handle:
        found = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != archive.md5:
        part.unlink()
        what = f"is not the published archive (its MD5 is {found}, not {archive.md5})"
        raise DataError(url, what, "it was thrown away: repeat the command, or name a --mirror")


def _receive(url: str, part: Path, progress: Progress) -> None:
    """One connection: what is missing of `part` behind what is there."""
    have = _size(part)
    request = urllib.request.Request(url)  # noqa: S310  the scheme was looked at
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            begin, total = _extent(response, have, url)
            _require_room(part.parent, total - begin + total)
            with part.open("r+b" if begin else "wb") as handle:
                handle.seek(begin)
                _copy(response, handle.write, begin, total, progress)
    except urllib.error.HTTPError as error:
        _refused(error, url, part, have)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            mend = "make room, then repeat the command: it goes on from there"
            raise DiskError(part, "no room left", mend) from error
        raise _BrokenOffError(" ".join(str(reason).split()) or type(error).__name__) from error


def _extent(response: http.client.HTTPResponse, have: int, url: str) -> tuple[int, int]:
    """Where what comes begins in the archive, and how long the archive is."""
    ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if response.status == http.HTTPStatus.PARTIAL_CONTENT and ranged and int(ranged[1]) == have:
        return have, int(ranged[2])
    length = response.headers.get("Content-Length", "")
    if response.status != http.HTTPStatus.OK or not length.isdecimal():
        what = "answers otherwise than a server of files does"
        raise DataError(url, what, "name a --mirror")
    return 0, int(length)


def _copy(
    response: http.client.HTTPResponse,
    write: Callable[[bytes], int],
    begin: int,
    total: int,
    progress: Progress,
) -> None:
    done = begin
    progress("fetching", done, total)
    while done < total and (block := response.read(min(_BLOCK, total - done))):
        done += write(block)
        progress("fetching", done, total)
    if done < total:
        raise _BrokenOffError("the connection broke off")


def _refused(error: urllib.error.HTTPError, url: str, part: Path, have: int) -> None:
    """What an answer of the server other than the file means; nothing where `part` is whole."""
    with error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return
            part.unlink()
            raise _BrokenOffError("what was there is longer than the archive")
    if error.code in (408, 425, 429) or error.code >= 500:
        raise _BrokenOffError(f"{error.code} {error.reason}")
    what = f"cannot be fetched ({error.code} {error.reason})"
    raise DataError(url, what, "name a --mirror that holds the archive")


def _require_room(data: Path, needed: int) -> None:
    free = shutil.disk_usage(data).free
    if free < needed:
        what = f"{needed} bytes are needed for the archive and what is in it, {free} are free"
        raise DiskError(data, what, "make room, or name another --data")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
