"""The verb `download`: a data set of the Medical Segmentation Decathlon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from u2net3d.cli.countdown import countdown, size
from u2net3d.cli.say import say
from u2net3d.io.download import archive_of, download
from u2net3d.spec import domain_name


def download_data(name: str, data: Path, mirrors: list[str]) -> None:
    """Fetches a data set and prints its folder."""
    archive = archive_of(name)
    counts: dict[str, Callable[[int, int], None]] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in counts:
            say(f"{what} {archive.name}: {size(total)}")
            counts[what] = countdown(what, size)
        counts[what](done, total)

    folder = download(archive, data, mirrors, show, say)
    say(f"whole: `u2net3d check --data {data} --domains {domain_name(archive.name)}` looks into it")
    print(folder)  # noqa: T201
