"""Adding a tile is the same to the bit on every way."""

from __future__ import annotations

import numpy as np
import pytest

from u2net3d.ops.tiles import add_tile

RNG = np.random.default_rng(0)


def drawn(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("classes", [1, 2, 3, 17])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5), (4, 3, 32), (2, 2, 700)])
@pytest.mark.parametrize("order", ["planes", "channels last", "reversed"])
def test_sums_have_the_bits_of_the_plain_product_and_sum(path, classes, shape, order):
    logits, weight, sums = drawn(classes, *shape), drawn(*shape), drawn(classes, *shape)
    if order == "channels last":
        logits = np.ascontiguousarray(logits.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    if order == "reversed":
        logits = logits[:, ::-1, :, ::-1]
    expected = sums + logits * weight
    add_tile(sums, logits, weight)
    np.testing.assert_array_equal(sums, expected)


def test_only_the_tile_s_own_voxels_change(path):
    whole = drawn(2, 6, 7, 40)
    before, logits, weight = whole.copy(), drawn(2, 3, 4, 17), drawn(3, 4, 17)
    at = (slice(None), slice(2, 5), slice(1, 5), slice(20, 37))
    add_tile(whole[at], logits, weight)
    before[at] += logits * weight
    np.testing.assert_array_equal(whole, before)


def test_sums_whose_voxels_are_not_dense_are_added_to_as_well(path):
    sums, logits, weight = np.zeros((2, 3, 4, 10), np.float32), drawn(2, 3, 4, 5), drawn(3, 4, 5)
    add_tile(sums[..., ::2], logits, weight)
    np.testing.assert_array_equal(sums[..., ::2], logits * weight)
    assert not sums[..., 1::2].any()
