"""Border-weighted cross-entropy, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from u2net3d.losses import LOSSES, border_ce, supervised


def logits_of(probabilities):
    """(V, K) probabilities -> (1, K, 1, 1, V) logits."""
    return torch.tensor(probabilities).log().t()[None, :, None, None, :]


def volume_of(values):
    return torch.tensor(values)[None, None, None, :]


LOGITS = logits_of([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])
COST = [-math.log(0.8), -math.log(0.5), -math.log(0.9)]  # of the truth 0, 1, 1


def test_every_voxel_weighs_one_and_its_border():
    border = volume_of([0.0, 9.8, 2.0])
    loss = border_ce(LOGITS, volume_of([0, 1, 1]), 0.0, border)
    expected = (COST[0] + 10.8 * COST[1] + 3 * COST[2]) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_balanced_classes_weigh_the_same_beside_the_border():
    border = volume_of([0.0, 9.8, 2.0])
    loss = border_ce(LOGITS, volume_of([0, 1, 1]), 1.0, border)
    by_class = (COST[0] + (COST[1] + COST[2]) / 2) / 2
    expected = by_class + (9.8 * COST[1] + 2 * COST[2]) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_the_border_of_an_ignored_voxel_counts_for_nothing():
    target, border = volume_of([0, -1, 1]), volume_of([0.0, 9.8, 2.0])
    loss = border_ce(LOGITS, target, 0.0, border)
    assert loss.item() == pytest.approx((COST[0] + 3 * COST[2]) / 2, rel=1e-6)


def test_without_a_border_it_is_the_cross_entropy():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 5, 6), torch.randint(-1, 3, (2, 4, 5, 6))
    expected = F.cross_entropy(logits, target, ignore_index=-1).item()
    assert LOSSES["border_ce"](logits, target, 0.0).item() == pytest.approx(expected, rel=1e-6)


def test_a_coarser_level_takes_the_border_where_it_takes_its_target():
    border = torch.arange(64.0).view(1, 4, 4, 4)
    seen = []

    def loss(logits, target, _balance, at):
        seen.append((target, at))
        return logits.sum()

    outputs = [torch.zeros(1, 2, *size) for size in ((4, 4, 4), (2, 4, 2))]
    supervised(loss, outputs, border.long(), 0.0, border)
    assert torch.equal(seen[0][1], border)
    assert all(torch.equal(target, at.long()) for target, at in seen)
    assert seen[1][1].shape == (1, 2, 4, 2)
