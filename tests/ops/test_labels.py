"""Every way from logits to labels against torch's interpolation of the whole volume in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from u2net3d.ops import labels
from u2net3d.ops.labels import Axis, between, label_between, probabilities_between

GRIDS = [
    ((7, 9, 11), (13, 17, 23)),  # growing
    ((20, 24, 20), (31, 40, 33)),
    ((5, 6, 40), (9, 6, 40)),  # along one axis
    ((5, 6, 40), (5, 7, 43)),  # by little
    ((30, 31, 33), (11, 12, 50)),  # shrinking and growing
    ((12, 12, 70), (7, 5, 30)),
    ((40, 3, 5), (2, 9, 1)),
    ((5, 1, 3), (9, 4, 1)),
    ((1, 40, 1), (3, 13, 9)),
    ((1, 1, 1), (2, 3, 4)),
]
TWO = ((4, 5, 30), (9, 9, 51))


def label_of(logits, shape):
    pairs = between((plane.numpy() for plane in logits.unbind(1)), tuple(logits.shape[1:]), shape)
    return np.stack([label_between(*pair) for pair in pairs])


def plain(logits, shape):
    """All classes (K, *shape) in float64."""
    whole = logits.double()[None]
    return interpolate(whole, size=shape, mode="trilinear", align_corners=False)[0]


def assert_largest(label, logits, shape):
    """Equal but for near-ties, and those are few."""
    whole = plain(logits, shape)
    assert (label.dtype, label.shape) == (np.uint8, shape)
    own = whole.gather(0, torch.from_numpy(label.astype(np.int64))[None])[0]
    assert (whole.amax(0) - own).max() <= 1e-5 * logits.abs().max()
    assert np.mean(label != whole.argmax(0).numpy()) < 1e-3


def noise(classes, shape, seed=0):
    return torch.randn(classes, *shape, generator=torch.Generator().manual_seed(seed))


def smooth(classes, shape):
    coarse = noise(classes, [max(1, n // 4) for n in shape])
    return 5 * interpolate(coarse[None], size=shape, mode="trilinear", align_corners=False)[0]


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize("classes", [1, 2, 3, 17])
def test_labels_are_the_largest_of_the_interpolated_logits(path, classes, old, new):
    for logits in (noise(classes, old), smooth(classes, old)):
        assert_largest(label_of(logits, new), logits, new)


@pytest.mark.parametrize("classes", [4, 5, 31, 64, 256])
def test_there_may_be_many_classes(path, classes):
    logits = noise(classes, TWO[0])
    assert_largest(label_of(logits, TWO[1]), logits, TWO[1])


@pytest.mark.parametrize("width", range(1, 41))
def test_every_width_is_whole(path, width):
    for new in (width, 2 * width, width + 1, max(1, width // 2)):
        logits = noise(3, (2, 3, width), seed=width)
        assert_largest(label_of(logits, (3, 4, new)), logits, (3, 4, new))


def test_equal_logits_go_to_the_first_class(path):
    # Small whole numbers at factor 2 are exact in float32, so that ties are ties.
    logits = noise(3, (8, 9, 20)).round()
    expected = plain(logits, (16, 18, 40)).argmax(0).numpy()
    np.testing.assert_array_equal(label_of(logits, (16, 18, 40)), expected)
    assert (label_of(torch.zeros(5, 2, 3, 9), (4, 7, 20)) == 0).all()


def test_a_class_that_is_largest_at_no_corner_wins_between_them(path):
    # 0 and 2 win at one end each, 1 is second at both: in the middle it has 2 against 1.5.
    ends = torch.tensor([[3.0, 0.0], [2.0, 2.0], [0.0, 3.0]])
    logits = ends[:, None, None, :].expand(3, 2, 2, 2)
    row = label_of(logits, (2, 2, 10))[0, 0].tolist()
    assert row == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]


def test_logits_of_the_same_shape_are_not_interpolated(path):
    logits = noise(3, (4, 5, 6))
    expected = logits.argmax(dim=0).numpy()
    np.testing.assert_array_equal(label_of(logits, (4, 5, 6)), expected)


def test_where_the_corners_agree_nothing_is_read_beyond_them(native_path, monkeypatch):
    # Logits that say otherwise than the largest classes given: the latter decide, uninterpolated.
    planes = [labels.Plane(noise(3, (1, 3, 9))[:, 0].numpy(), Axis(3, 5), Axis(9, 17))] * 2
    monkeypatch.setitem(planes[0].__dict__, "largest", np.full((3, 9), 7, np.uint8))
    assert (label_between(*planes, 0.5) == 7).all()


def test_threads_change_no_label(native_path, threads):
    logits = noise(3, (4, 40, 30))
    threads(1)
    alone = label_of(logits, (7, 77, 50))
    threads(3)
    np.testing.assert_array_equal(label_of(logits, (7, 77, 50)), alone)


def test_slices_may_lie_apart_in_memory(path):
    logits = noise(6, (4, 5, 6))
    expected = label_of(logits[::2].contiguous(), (7, 8, 9))
    np.testing.assert_array_equal(label_of(logits[::2], (7, 8, 9)), expected)
    turned = logits.flip(3).contiguous().flip(3).permute(0, 3, 2, 1)
    np.testing.assert_array_equal(
        label_of(turned, (9, 8, 7)), label_of(turned.contiguous(), (9, 8, 7))
    )


def test_no_more_than_two_slices_are_held_at_a_time(path):
    given = []

    def slices():
        for z in range(6):
            given.append(z)
            yield noise(2, (3, 4), seed=z).numpy()

    ahead = [
        given[-1] - int((z + 0.5) * 6 / 13 - 0.5)
        for z, _ in enumerate(between(slices(), (6, 3, 4), (13, 5, 5)))
    ]
    assert max(ahead) <= 1
    assert given == [*range(6)]


@pytest.mark.parametrize("count", [0, 2, 4])
def test_slices_that_are_too_few_or_too_many_are_refused(count):
    slices = [np.zeros((2, 4, 5), np.float32)] * count
    with pytest.raises(ValueError):
        list(between(slices, (3, 4, 5), (6, 6, 6)))


def test_slices_of_another_shape_are_refused():
    with pytest.raises(ValueError):
        list(between([np.zeros((2, 4, 5), np.float32)] * 3, (3, 5, 4), (6, 6, 6)))


def test_probabilities_are_the_softmax_of_the_interpolated_logits(path):
    old, new = (5, 6, 7), (9, 11, 5)
    logits = noise(4, old)
    pairs = between((plane.numpy() for plane in logits.unbind(1)), old, new)
    shares = np.stack([probabilities_between(*pair) for pair in pairs], 1)
    expected = plain(logits, new).softmax(0).numpy()
    np.testing.assert_allclose(shares / 65535, expected, atol=0.6 / 65535)
    assert shares.dtype == np.uint16
