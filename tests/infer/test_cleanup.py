"""Of a label's components the largest stays; everything else is left alone."""

from __future__ import annotations

import numpy as np

from u2net3d.infer.cleanup import keep_largest


def drawn(*rows):
    """A label of one slice from lines of digits."""
    return np.array([[[int(digit) for digit in row] for row in rows]], dtype=np.uint8)


def test_the_largest_component_stays_and_the_strays_become_background():
    label = drawn("1100010", "1100000", "0000220", "2000220")
    expected = drawn("1100000", "1100000", "0000220", "0000220")
    assert np.array_equal(keep_largest(label, (1, 2)), expected)


def test_labels_that_are_not_named_keep_every_voxel():
    label = drawn("1100010", "1100000", "0000220", "2000220")
    expected = drawn("1100000", "1100000", "0000220", "2000220")
    assert np.array_equal(keep_largest(label, (1,)), expected)
    assert np.array_equal(keep_largest(label, ()), label)


def test_voxels_that_touch_by_a_corner_are_one_component():
    label = np.zeros((4, 4, 4), np.uint8)
    for n in range(3):
        label[n, n, n] = 1
    label[3, 0, 0] = 1
    cleaned = keep_largest(label, (1,))
    assert np.argwhere(cleaned).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


def test_components_of_two_labels_are_not_joined_to_one():
    label = drawn("112", "001", "111")  # a 2 between them
    assert np.array_equal(keep_largest(label, (1,)), drawn("112", "001", "111"))
    label = drawn("1121", "0020", "0020")
    assert np.array_equal(keep_largest(label, (1,)), drawn("1120", "0020", "0020"))


def test_of_equal_components_the_first_stays():
    assert np.array_equal(keep_largest(drawn("11011"), (1,)), drawn("11000"))


def test_an_empty_label_stays_empty_and_the_one_given_is_not_changed():
    label = drawn("101")
    keep_largest(label, (1, 2, 9))
    assert np.array_equal(label, drawn("101"))
    assert not keep_largest(np.zeros((2, 2, 2), np.uint8), (1,)).any()
