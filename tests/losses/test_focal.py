"""Focal loss: worked out by hand, and against MONAI; its sum with Lovász-Softmax."""

from __future__ import annotations

import math

import pytest
import torch

from u2net3d.losses import focal, lovasz, lovasz_focal


def draw(classes=3):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 3, 4, 5, dtype=torch.float64)
    return logits, torch.randint(0, classes, (2, 3, 4, 5))


def voxels_of(*guess):
    """(1, 2, 1, 1, V): two classes, the first of which is guessed with these probabilities."""
    p = torch.tensor(guess, dtype=torch.float64)
    return torch.stack([p, 1 - p]).log()[None, :, None, None]


def test_two_voxels_by_hand():
    # p of the own class 0.5 and 0.9: (0.25 ln 2 + 0.01 ln (10 / 9)) / 2
    value = focal(voxels_of(0.5, 0.1), torch.tensor([[[[0, 1]]]]))
    assert value.item() == pytest.approx((0.25 * math.log(2) + 0.01 * math.log(10 / 9)) / 2)


def test_balanced_every_class_has_the_same_share():
    # three voxels of class 0 at p 0.5, one of class 1 at p 0.9
    logits, target = voxels_of(0.5, 0.5, 0.5, 0.1), torch.tensor([[[[0, 0, 0, 1]]]])
    first, second = 0.25 * math.log(2), 0.01 * math.log(10 / 9)
    assert focal(logits, target, 0).item() == pytest.approx((3 * first + second) / 4)
    assert focal(logits, target, 1).item() == pytest.approx((first + second) / 2)


def test_it_is_monais():
    from monai.losses import FocalLoss

    logits, target = draw()
    theirs = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2)
    expected = 3 * theirs(logits, target[:, None])  # its mean is over the classes, too
    assert focal(logits, target).item() == pytest.approx(expected.item())


def test_ignored_voxels_are_as_if_they_were_not_there():
    logits, target = voxels_of(0.5, 0.7, 0.1), torch.tensor([[[[0, -1, 1]]]])
    expected = focal(voxels_of(0.5, 0.1), torch.tensor([[[[0, 1]]]]))
    assert focal(logits, target).item() == pytest.approx(expected.item())


def test_the_papers_loss_is_the_sum_of_both():
    logits, target = draw()
    together = lovasz_focal(logits, target)
    assert together.item() == pytest.approx((lovasz(logits, target) + focal(logits, target)).item())
