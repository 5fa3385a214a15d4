"""Cross-entropy in which voxels between objects that nearly touch weigh more.

Ronneberger et al., "U-Net", MICCAI 2015 (arXiv 1505.04597), equations 1 and 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -1


def border_ce(
    logits: Tensor, target: Tensor, balance: float = 0.0, border: Tensor | None = None
) -> Tensor:
    """sum(w -log p of the truth) / V, w = w_c + border, over the V voxels that are not ignored.

    logits (B, K, D, H, W); target (B, D, H, W) int64, -1 where the label is to be ignored; border
    (B, D, H, W): w0 exp(-(d1 + d2)^2 / (2 sigma^2)), None for none. balance, 0 to 1: w_c goes from
    1 to V / (classes present x voxels of the class), which gives every class of the batch the same
    weight. The paper sums; the mean keeps the learning rate free of the patch's size. A batch
    without one labelled voxel gives 0. Half precision is summed up in float32.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    known = target != IGNORED
    weight = _class_weights(target, known, wide, balance)
    if border is not None:
        weight = weight + border.to(wide.dtype)
    entropy = F.cross_entropy(wide, target, ignore_index=IGNORED, reduction="none")
    return (entropy * weight).sum() / known.sum().clamp(min=1)


def _class_weights(target: Tensor, known: Tensor, like: Tensor, balance: float) -> Tensor:
    """w_c at every voxel (B, D, H, W); ignored voxels have one, too."""
    classes = like.shape[1]
    voxels = torch.bincount(target[known], minlength=classes).to(like.dtype)
    even = voxels.sum() / (voxels * (voxels > 0).sum()).clamp(min=1)
    by_class = (1 - balance) + balance * even
    weights: Tensor = by_class[target.clamp(min=0)]
    return weights
