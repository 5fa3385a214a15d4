"""The focal loss, and the sum of it and Lovász-Softmax with which 3D U2-Net was trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from u2net3d.losses.dice_ce import IGNORED, class_weights
from u2net3d.losses.lovasz import lovasz

GAMMA = 2.0  # Lin et al.'s choice, and that of the official code of 3D U2-Net


def focal(logits: Tensor, target: Tensor, balance: float = 0.0) -> Tensor:
    """Mean of -(1 - p)^2 log p over the voxels, p the guess of a voxel's own class.

    Lin et al., "Focal loss for dense object detection", ICCV 2017 (eq. 4, gamma 2, no alpha).
    logits (B, K, D, H, W); target (B, D, H, W) int64, -1 where the label is to be ignored.
    balance, 0 to 1: how much of the mean is shared out evenly among the classes of the batch
    instead of among its voxels. A batch without one labelled voxel gives 0. Half precision is
    computed in float32.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    known = target != IGNORED
    own = target.clamp(min=0)
    voxels = torch.bincount(own[known], minlength=wide.shape[1]).to(wide.dtype)
    weight = class_weights(voxels, balance)[own] * known
    log_p = F.log_softmax(wide, 1).gather(1, own[:, None]).squeeze(1)
    cost = (1 - log_p.exp()) ** GAMMA * -log_p
    return (weight * cost).sum()


def lovasz_focal(logits: Tensor, target: Tensor, balance: float = 0.0) -> Tensor:
    """Lovász-Softmax plus focal loss, Huang et al. 2019; shapes as there.

    Their code takes the factor (1 - p)^2 for a constant when it differentiates; here the gradient
    is that of the published loss.
    """
    return lovasz(logits, target, balance) + focal(logits, target, balance)
