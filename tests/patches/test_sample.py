import subprocess
import sys

import numpy as np
import pytest

from u2net3d.patches.sample import (
    case_of,
    choose_patch,
    foreground_count,
    generator,
    mirrored,
    read_patch,
)
from u2net3d.prep.cache import IGNORED


def test_the_same_place_gives_the_same_numbers_in_another_process():
    program = (
        "from u2net3d.patches.sample import generator;"
        "print(generator(7, 'liver', 'patch', 3, 1).integers(10**9))"
    )
    other = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert int(other) == generator(7, "liver", "patch", 3, 1).integers(10**9)


def test_another_seed_domain_step_or_sample_gives_other_numbers():
    places = [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1)]
    assert len({int(generator(*place).integers(2**62)) for place in places}) == len(places)


def test_every_case_comes_once_in_each_epoch_and_epochs_differ():
    epochs = [[case_of(3, "liver", e * 7 + i, 7) for i in range(7)] for e in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize(
    ("batch", "share", "count"), [(5, 1 / 3, 2), (2, 1 / 3, 1), (6, 1 / 3, 2), (4, 0, 1), (3, 1, 3)]
)
def test_at_least_one_sample_is_centred_on_foreground(batch, share, count):
    assert foreground_count(batch, share) == count


def test_a_patch_lies_in_the_volume_and_reaches_all_of_it(noisy_case):
    case = noisy_case((9, 6, 4))
    rng = np.random.default_rng(0)
    starts = {choose_patch(case, (4, 6, 6), rng, foreground=False) for _ in range(500)}
    assert {d for d, _, _ in starts} == set(range(6))
    assert {h for _, h, _ in starts} == {0}
    assert {w for _, _, w in starts} == {-2, -1, 0}  # the smaller volume lies inside the patch


def test_a_foreground_patch_holds_foreground_and_each_label_is_equally_likely(make_case):
    label = np.zeros((30, 30, 30))
    label[2, 2, 2] = 1  # one voxel of this
    label[20:28, 20:28, 20:28] = 2  # 512 of that
    case = make_case(label[None], label)
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        start = choose_patch(case, (8, 8, 8), rng, foreground=True)
        held.append(set(np.unique(read_patch(case, start, (8, 8, 8))[1])) - {0})
    assert all(held)
    assert 110 < sum(1 in labels for labels in held) < 190


def test_a_case_without_foreground_is_drawn_uniformly(make_case):
    case = make_case(np.zeros((1, 5, 5, 5)), np.zeros((5, 5, 5)))
    rng = np.random.default_rng(0)
    starts = {choose_patch(case, (4, 5, 5), rng, foreground=True) for _ in range(50)}
    assert starts == {(0, 0, 0), (1, 0, 0)}


def test_a_row_is_mirrored_at_both_ends_as_often_as_needed():
    assert mirrored(-2, 7, 3).tolist() == [2, 1, 0, 1, 2, 1, 0]
    assert mirrored(1, 3, 9).tolist() == [1, 2, 3]
    assert mirrored(-3, 4, 1).tolist() == [0, 0, 0, 0]
    wide = np.pad(np.arange(5), (11, 13), mode="reflect")
    assert mirrored(-11, 29, 5).tolist() == wide.tolist()


@pytest.mark.parametrize("start", [(-2, 0, 1), (3, -4, -9), (0, 0, 0), (5, 4, 2), (-7, 8, 0)])
def test_outside_the_volume_the_image_is_mirrored_and_the_label_ignored(noisy_case, start):
    case, size = noisy_case((6, 7, 8), channels=2), (5, 6, 9)
    image, label = read_patch(case, start, size)
    widths = [(10, 10)] * 3
    cut = tuple(slice(s + 10, s + 10 + p) for s, p in zip(start, size, strict=True))
    full = np.pad(case.image, [(0, 0), *widths], mode="reflect")
    assert np.array_equal(image, full[(slice(None), *cut)])
    assert np.array_equal(label, np.pad(case.label, widths, constant_values=IGNORED)[cut])


def test_a_patch_is_read_from_a_memory_map_and_does_not_hold_it(noisy_case, make_case, tmp_path):
    case = noisy_case((6, 7, 8))
    np.save(tmp_path / "image.npy", case.image)
    mapped = make_case(case.image, case.label)
    object.__setattr__(mapped, "image", np.load(tmp_path / "image.npy", mmap_mode="r"))
    image, _ = read_patch(mapped, (1, 1, 1), (4, 4, 4))
    assert type(image) is np.ndarray
    assert image.flags.owndata
    assert image.flags.writeable
    assert np.array_equal(image, case.image[:, 1:5, 1:5, 1:5])
