"""Soft Dice plus cross-entropy over a domain's own classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -1
_SMOOTH = 1e-5


def dice_ce(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy minus the mean soft Dice of the foreground classes (Isensee et al. 2021).

    logits (B, K, D, H, W); target (B, D, H, W) int64, -1 where the label is to be ignored. The
    soft Dice is taken per sample and class, 2 sum(p t) / (sum(p) + sum(t)) (Milletari et al. 2016
    with plain instead of squared sums). A batch without one labelled voxel gives 0.
    """
    known = target != IGNORED
    entropy = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
    entropy = entropy / known.sum().clamp(min=1)
    return entropy - _soft_dice(logits.softmax(1), target, known) * known.any()


def _soft_dice(probability: Tensor, target: Tensor, known: Tensor) -> Tensor:
    space = (2, 3, 4)
    truth = torch.zeros_like(probability)
    truth.scatter_(1, target.clamp(min=0)[:, None], 1)
    truth = truth[:, 1:] * known[:, None]
    guess = probability[:, 1:] * known[:, None]
    overlap = (guess * truth).sum(space)
    total = guess.sum(space) + truth.sum(space)
    return ((2 * overlap + _SMOOTH) / (total + _SMOOTH).clamp(min=1e-8)).mean()
