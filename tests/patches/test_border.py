"""Weights between objects that nearly touch, by hand and against distances to every voxel."""

import math

import numpy as np
import pytest
import torch

from u2net3d.patches.border import border_weights
from u2net3d.patches.loader import DomainLoader
from u2net3d.prep.instances import instances


def row(*values):
    return np.array(values, np.int16)[None, None]


def test_between_two_cells_by_hand():
    # two cells, one voxel apart: at the gap d1 = d2 = 1, in a cell d1 = 0 and d2 to the other
    weights = border_weights(row(0, 1, 0, 1))[0, 0]
    both = [4, 2, 2, 2]  # d1 + d2: 1 + 3, 0 + 2, 1 + 1, 2 + 0
    assert weights == pytest.approx([10 * math.exp(-(d**2) / 50) for d in both], rel=1e-6)


def test_a_face_in_common_of_two_organs_weighs_most():
    weights = border_weights(row(1, 1, 1, 2, 2))[0, 0]
    both = [3, 2, 1, 1, 2]
    assert weights == pytest.approx([10 * math.exp(-(d**2) / 50) for d in both], rel=1e-6)


def test_w0_and_sigma_are_those_given():
    weights = border_weights(row(1, 0, 1), w0=3, sigma_voxels=1)[0, 0]
    assert weights == pytest.approx([3 * math.exp(-2)] * 3, rel=1e-6)


@pytest.mark.parametrize("label", [row(0, 0, 0), row(0, 1, 1), row(-1, 0, 2)])
def test_a_single_object_has_no_neighbour_to_be_kept_from(label):
    assert not border_weights(label).any()


@pytest.mark.parametrize("sigma", [1.0, 5.0])
def test_it_is_the_formula_at_every_voxel(sigma):
    rng = np.random.default_rng(0)
    label = np.zeros((9, 14, 30), np.int16)
    for value in (1, 1, 2, 3, 1):
        d, h, w = (int(rng.integers(0, n - 3)) for n in label.shape)
        label[d : d + 3, h : h + 3, w : w + 3] = value
    objects, count = instances(label)
    places = np.stack(np.indices(label.shape), -1).reshape(-1, 1, 3)
    nearest = [
        np.sqrt(((places - np.argwhere(objects == n)[None]) ** 2).sum(-1)).min(1)
        for n in range(1, count + 1)
    ]
    both = np.sort(nearest, 0)[:2].sum(0).reshape(label.shape)
    expected = np.where(both <= 4 * sigma, 10 * np.exp(-(both**2) / (2 * sigma**2)), 0)
    assert count >= 3
    assert np.allclose(border_weights(label, sigma_voxels=sigma), expected, atol=1e-5)


def test_batches_bring_them_where_they_are_asked_for(noisy_case, make_spec):
    cases = [noisy_case((9, 12, 11))]
    loader = DomainLoader(make_spec(), cases, 0, 1 / 3, border=True)
    batch = loader.batch(3)
    assert batch.border.shape == batch.label.shape
    assert batch.border.dtype == torch.float32
    assert np.array_equal(batch.border[1], border_weights(batch.label[1].numpy()))
    plain = DomainLoader(make_spec(), cases, 0, 1 / 3).batch(3)
    assert plain.border is None
    assert torch.equal(plain.image, batch.image)
