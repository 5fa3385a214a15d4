"""A window of sums that moves along the volume against sums over the whole of it."""

from __future__ import annotations

import tempfile
import tracemalloc

import numpy as np
import pytest

from u2net3d.errors import DataError
from u2net3d.infer import scratch
from u2net3d.infer.scratch import DEFAULT_BYTES, Room, Scratch, bytes_of
from u2net3d.infer.sums import Sums
from u2net3d.infer.window import gaussian_weight, tile_starts

IN_FILE, IN_MEMORY = 0, DEFAULT_BYTES
CASES = [
    ((8, 8, 8), (8, 8, 8), 0.5),
    ((21, 13, 9), (8, 8, 8), 0.5),
    ((40, 9, 11), (8, 5, 11), 0.7),
    ((17, 16, 8), (6, 8, 8), 0.0),
]


def tiles_of(shape, patch, overlap, classes=3):
    rng = np.random.default_rng(0)
    for start in tile_starts(shape, patch, overlap):
        yield start, rng.standard_normal((classes, *patch)).astype(np.float32)


def streamed(shape, patch, overlap, limit_bytes, classes=3):
    sums = Sums(classes, shape, gaussian_weight(patch), limit_bytes)
    tiles = list(tiles_of(shape, patch, overlap, classes))
    stops = [*(start[0] for start, _ in tiles[1:]), shape[0]]
    for (start, logits), stop in zip(tiles, stops, strict=True):
        sums.add(start, logits)
        yield from sums.means(stop)


@pytest.mark.parametrize("limit_bytes", [IN_FILE, IN_MEMORY])
@pytest.mark.parametrize(("shape", "patch", "overlap"), CASES)
def test_the_means_have_the_bits_of_sums_over_the_whole_volume(shape, patch, overlap, limit_bytes):
    weight = gaussian_weight(patch)
    total, weights = np.zeros((3, *shape), np.float32), np.zeros(shape, np.float32)
    for start, logits in tiles_of(shape, patch, overlap):
        at = tuple(slice(a, a + n) for a, n in zip(start, patch, strict=True))
        total[(slice(None), *at)] += logits * weight
        weights[at] += weight
    means = np.stack(list(streamed(shape, patch, overlap, limit_bytes)), axis=1)
    np.testing.assert_array_equal(means, total / weights)


def test_a_longer_volume_takes_no_more_memory():
    peaks = []
    for depth in (24, 240):
        tracemalloc.start()
        sums = Sums(5, (depth, 8, 8), gaussian_weight((8, 8, 8)), IN_MEMORY)
        for z in range(0, depth - 7, 4):
            sums.add((z, 0, 0), np.ones((5, 8, 8, 8), np.float32))
            for _ in sums.means(z + 4):
                pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_what_is_larger_than_the_limit_lies_in_a_file_and_is_zero():
    small, large = Scratch((4, 5), np.float32, 80), Scratch((4, 5), np.float32, 79)
    assert (small.in_file, large.in_file) == (False, True)
    assert not large.array.any()
    large.array[2] = 7
    large.hand_back()
    assert large.array.sum() == 35


def test_the_file_has_no_name(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = Scratch((1000,), np.float32, 0)
    kept.array[:] = 1
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_named_in_one_line(monkeypatch, small_disk):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(DataError, match=r"small: has no room for .* — set TMPDIR"):
        Scratch((2000, 1000), np.float32, 0)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 * 2**30), ("1.5g", 1610612736), (" 8M ", 2**23), (5, 5), (2e9, 2 * 10**9)],
)
def test_sizes_are_read(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "4", "G", "-1G", "0M", "nanG", "infG", "4GB", "1e99T", 0, -1])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(scratch.UsageError, match="--max-memory"):
        bytes_of(text)


def test_room_is_what_the_process_leaves(monkeypatch):
    monkeypatch.setattr(scratch, "held_bytes", lambda: 600)
    assert Room().left() == DEFAULT_BYTES
    assert Room(streams=4).left(10**12) == DEFAULT_BYTES // 4
    assert Room(1000).left() == 400
    assert Room(1000, streams=2).left(100) == 150
    assert Room(500).left() == 0
