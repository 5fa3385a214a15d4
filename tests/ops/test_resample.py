"""Every way an image is brought to another grid, against torch's antialiased bicubic in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from u2net3d.ops.resample import cubic, resample

GRIDS = [
    ((7, 9, 11), (13, 17, 23)),  # growing
    ((21, 24, 50), (8, 11, 17)),  # shrinking
    ((20, 70, 30), (31, 30, 40)),  # growing along D, shrinking along H
    ((9, 20, 33), (5, 31, 20)),
    ((5, 6, 40), (5, 6, 43)),  # along one axis, by little
    ((5, 40, 6), (5, 39, 6)),
    ((40, 5, 6), (39, 5, 6)),
    ((6, 5, 40), (12, 9, 40)),
    ((1, 40, 1), (3, 13, 9)),
    ((40, 3, 5), (2, 9, 1)),
    ((1, 1, 1), (2, 3, 4)),
    ((40, 90, 70), (3, 2, 5)),  # many neighbours
    ((18, 300, 3), (19, 280, 5)),  # several tasks
]


def drawn(channels, shape):
    return np.random.default_rng(0).normal(100, 30, (channels, *shape)).astype(np.float32)


def by_torch(image, shape):
    """(C, *shape) in float64, of each channel's own range."""

    def along(volume, axis, size):
        lines = volume.movedim(axis, -1)
        rows = lines.reshape(1, 1, -1, lines.shape[-1])
        made = interpolate(
            rows, (rows.shape[2], size), mode="bicubic", antialias=True, align_corners=False
        )
        return made.reshape(*lines.shape[:-1], size).movedim(-1, axis)

    whole = torch.from_numpy(image).double()
    result = whole
    for axis, size in enumerate(shape, start=1):
        result = along(result, axis, size)
    low, high = (f(whole, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    return result.clamp(low, high).numpy()


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_those_of_torch_s_antialiased_bicubic(path, channels, old, new):
    image = drawn(channels, old)
    result = resample(image, new)
    assert (result.dtype, result.shape) == (np.float32, (channels, *new))
    np.testing.assert_allclose(result, by_torch(image, new), atol=1e-4)


@pytest.mark.parametrize("width", range(1, 41))
def test_every_width_is_whole(path, width):
    image = drawn(2, (3, 5, width))
    for new in (2 * width, width + 1, max(1, width // 2), 17):
        np.testing.assert_allclose(
            resample(image, (4, 3, new)), by_torch(image, (4, 3, new)), atol=1e-4
        )


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_where_all_neighbours_are_equal_the_result_is_exactly_their_value(path, old, new):
    image = np.full((2, *old), np.float32(0.1))
    image[1] = np.float32(-1 / 3)
    expected = np.broadcast_to(image[:, :1, :1, :1], (2, *new))
    np.testing.assert_array_equal(resample(image, new), expected)


def test_a_constant_half_stays_exact_up_to_the_reach_of_the_other_half(path):
    image = drawn(1, (6, 8, 60))
    image[..., :40] = np.float32(0.1)
    grown, shrunk = resample(image, (9, 12, 90)), resample(image, (4, 6, 30))
    assert (grown[..., : 60 - 3] == np.float32(0.1)).all()  # 2 voxels of 1.5 new ones
    assert (shrunk[..., : 20 - 2] == np.float32(0.1)).all()
    assert (grown[..., 60] != np.float32(0.1)).all()


def test_a_line_of_four_doubles_and_halves_as_by_hand(path):
    # At distances 0.25, 0.75, 1.25 and 1.75 the cubic is 0.8671875, 0.2265625, -0.0703125 and
    # -0.0234375; times 64: 55.5, 14.5, -4.5 and -1.5. What is below 0 is set to 0, the lowest.
    line = np.array([0, 64, 0, 0], np.float32).reshape(1, 1, 1, 4)
    # Of new voxel 1 the neighbour at -1.25 lies outside, of new voxel 2 the one at -1.75.
    doubled = [0, 14.5 / (1 + 4.5 / 64), 55.5 / (1 + 1.5 / 64), 55.5, 14.5, 0, 0, 0]
    np.testing.assert_allclose(resample(line, (1, 1, 8))[0, 0, 0], doubled, rtol=1e-6)
    # Halving stretches the cubic: all four are neighbours, at -0.25, 0.25, 0.75, 1.25 of the first.
    inside = (55.5 + 55.5 + 14.5 - 4.5) / 64
    halved = [55.5 / inside, 14.5 / inside]
    np.testing.assert_allclose(resample(line, (1, 1, 2))[0, 0, 0], halved, rtol=1e-6)


def test_each_channel_keeps_within_its_own_range(path):
    image = np.zeros((2, 4, 4, 8), np.float32)
    image[..., 4:] = 1
    image[1] *= 50
    result = resample(image, (7, 7, 19))
    assert (result.min(axis=(1, 2, 3)) == [0, 0]).all()
    assert (result.max(axis=(1, 2, 3)) == [1, 50]).all()


def test_the_image_itself_is_left_alone_in_any_order_of_memory(path):
    image = drawn(2, (6, 7, 20))
    for given in (image[:, ::-1], image.transpose(0, 3, 2, 1), image.astype(np.float64)):
        before = given.copy()
        found = resample(given, (9, 5, 13))
        np.testing.assert_array_equal(given, before)
        np.testing.assert_allclose(
            found, by_torch(before.astype(np.float32), (9, 5, 13)), atol=1e-4
        )


def test_the_bits_do_not_depend_on_the_number_of_threads(native_path, threads):
    image, found = drawn(2, (30, 300, 60)), []
    for count in (1, 3):
        threads(count)
        found.append(resample(image, (41, 200, 71)))
    np.testing.assert_array_equal(*found)


def test_no_neighbour_lies_outside_the_line():
    for old in range(1, 30):
        for new in range(1, 60):
            line = cubic(old, new)
            assert line.first.min() >= 0
            assert line.first.max() + line.many <= old
            assert line.middle.min() >= 0
            assert line.middle.max() < line.many
