"""Soft Dice plus cross-entropy over a domain's own classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -1
_SMOOTH = 1e-5


def dice_ce(logits: Tensor, target: Tensor, balance: float = 0.0) -> Tensor:
    """Cross-entropy minus the mean soft Dice of the foreground classes (Isensee et al. 2021).

    logits (B, K, D, H, W); target (B, D, H, W) int64, -1 where the label is to be ignored. The
    soft Dice is taken per sample and class, 2 sum(p t) / (sum(p) + sum(t)) (Milletari et al. 2016
    with plain instead of squared sums). balance, 0 to 1: how much of the cross-entropy is shared
    out evenly among the classes of the batch instead of among its voxels. A batch without one
    labelled voxel gives 0.
    """
    known = target != IGNORED
    entropy = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")
    entropy = (entropy * _weights(target, known, logits.shape[1], balance)).sum()
    return entropy - _soft_dice(logits.softmax(1), target, known) * known.any()


def _weights(target: Tensor, known: Tensor, classes: int, balance: float) -> Tensor:
    """Each voxel's part (B, D, H, W) in a mean over voxels, mixed with a mean over class means."""
    count = torch.bincount(target[known], minlength=classes).float()
    even = 1 / count.sum().clamp(min=1)
    by_class = 1 / (count * (count > 0).sum()).clamp(min=1)
    weight = (1 - balance) * even + balance * by_class
    return weight[target.clamp(min=0)] * known


def _soft_dice(probability: Tensor, target: Tensor, known: Tensor) -> Tensor:
    space = (2, 3, 4)
    truth = torch.zeros_like(probability)
    truth.scatter_(1, target.clamp(min=0)[:, None], 1)
    truth = truth[:, 1:] * known[:, None]
    guess = probability[:, 1:] * known[:, None]
    overlap = (guess * truth).sum(space)
    total = guess.sum(space) + truth.sum(space)
    return ((2 * overlap + _SMOOTH) / (total + _SMOOTH).clamp(min=1e-8)).mean()
