"""What counts as one object."""

import numpy as np

from u2net3d.prep.instances import instances


def row(*values):
    return np.array(values, np.int16)[None, None]


def test_objects_of_one_value_are_told_apart_by_a_gap():
    found, count = instances(row(1, 1, 0, 1))
    assert count == 2
    assert found[0, 0].tolist() == [1, 1, 0, 2]


def test_two_values_that_touch_are_two_objects():
    found, count = instances(row(3, 3, 1, 3))
    assert count == 3
    assert len(set(found[0, 0].tolist())) == 3
    assert found[0, 0, 0] == found[0, 0, 1]


def test_an_edge_in_common_does_not_join():
    assert instances(np.eye(2, dtype=np.int16)[None])[1] == 2


def test_background_and_ignored_voxels_are_no_objects():
    found, count = instances(row(-1, 0, 2))
    assert count == 1
    assert found[0, 0].tolist() == [0, 0, 1]
    assert instances(row(0, -1, 0))[1] == 0
