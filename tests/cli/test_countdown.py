"""A count with the time left, worked out by hand."""

from __future__ import annotations

import pytest

from u2net3d.cli import countdown as module
from u2net3d.cli.countdown import clock, countdown, size


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def at(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_off_a_terminal_a_line_comes_every_half_minute(at, capsys):
    show = countdown("liver: case")
    for done in (1, 2, 3):
        at.now += 20
        show(done, 10)
    assert capsys.readouterr().err == "liver: case 2 of 10, 2:40 left\n"  # 20 s for one, 8 left


def test_what_is_quick_says_nothing(at, capsys):
    show = countdown("liver: case")
    show(1, 2)
    show(2, 2)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_the_line_is_rewritten_and_ended(at, capsys, monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True)
    show = countdown("fetching", size)
    at.now += 1
    show(0, 4000)
    at.now += 1
    show(1000, 4000)
    show(4000, 4000)
    lines = capsys.readouterr().err.split("\r\x1b[K")
    assert lines[-2] == "fetching 1 kB of 4 kB, 0:03 left"
    assert lines[-1] == "fetching 4 kB of 4 kB\n"


def test_a_download_taken_up_in_the_middle_counts_only_what_came_since(at, capsys):
    show = countdown("fetching", size)
    show(5000, 10_000)
    at.now += 50
    show(6000, 10_000)
    assert "3:20 left" in capsys.readouterr().err  # 1,000 bytes in 50 s, 4,000 to come


def test_sizes_and_times_as_a_person_writes_them():
    assert [size(n) for n in (0, 999, 437_000, 2_000_000, 1_200_000_000, 3e12)] == [
        "0 B",
        "999 B",
        "437 kB",
        "2 MB",
        "1.2 GB",
        "3000.0 GB",
    ]
    assert [clock(s) for s in (0, 187, 3765)] == ["0:00", "3:07", "1:02:45"]
