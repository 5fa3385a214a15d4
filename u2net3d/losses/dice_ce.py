"""Soft Dice plus cross-entropy over a domain's own classes, with its gradient worked out by hand.

The number of operations is that of the plain formulas; what is saved is memory traffic. All is done
class by class over whole planes of voxels (B, K, V), so that a vector holds voxels and not classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -1
_SMOOTH = 1e-5


def dice_ce(logits: Tensor, target: Tensor, balance: float = 0.0) -> Tensor:
    """Cross-entropy minus the mean soft Dice of the foreground classes (Isensee et al. 2021).

    logits (B, K, D, H, W); target (B, D, H, W) int64, -1 where the label is to be ignored. The
    soft Dice is taken per sample and class, 2 sum(p t) / (sum(p) + sum(t)) (Milletari et al. 2016
    with plain instead of squared sums). balance, 0 to 1: how much of the cross-entropy is shared
    out evenly among the classes of the batch instead of among its voxels. A batch without one
    labelled voxel gives 0. Half precision is summed up in float32.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    loss: Tensor = _DiceCE.apply(wide, target, balance)  # type: ignore[no-untyped-call]
    return loss


class _DiceCE(torch.autograd.Function):
    """With p = softmax(z), t the truth as 0 and 1, w_k a voxel's part in the mean entropy.

    The loss is sum(w_k t_k (-log p_k)) - mean(dice), dice = (2 overlap + s) / (total + s) of a
    sample and class. With g_k = d loss / d p_k of the second term, constant but for t, the gradient
    is p_k (g_k - sum_j p_j g_j) + sum_j(w_j t_j) p_k - w_k t_k.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, balance: float) -> Tensor:
        planes = logits.flatten(2).contiguous()
        labels = target.flatten(1).to(torch.int16)  # four times as many in a vector
        truth = _one_hot(labels, planes)
        shifted = planes - planes.amax(1, keepdim=True)
        guess = shifted.exp()
        total = guess.sum(1, keepdim=True)
        guess *= (labels != IGNORED)[:, None] / total  # nothing is guessed where nothing is known
        voxels = truth.sum(2)
        weight = class_weights(voxels.sum(0), balance)
        entropy = _entropy(shifted, total.log_(), truth)
        overlap, summed = (guess * truth).sum(2), guess.sum(2) + voxels
        dice = (2 * overlap + _SMOOTH) / (summed + _SMOOTH)
        any_known = (voxels.sum() > 0).to(dice.dtype)
        ctx.save_for_backward(guess, truth, weight, dice, summed, any_known)
        ctx.shape, ctx.rows_last = logits.shape, _is_rows(logits)
        return (entropy * weight).sum() - dice[:, 1:].mean() * any_known

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        guess, truth, weight, dice, summed, any_known = ctx.saved_tensors
        share = upstream * any_known / dice[:, 1:].numel() / (summed + _SMOOTH)
        share[:, 0] = 0  # the background has no Dice
        hit, guessed = (-2 * share)[:, :, None], (dice * share)[:, :, None]
        by_class = (weight * upstream)[:, None]
        along = torch.addcmul(guessed, truth, hit)
        entropy = truth * by_class
        away = entropy.sum(1, keepdim=True) - (along * guess).sum(1, keepdim=True)
        along += away
        along *= guess
        along -= entropy
        gradient = along.view(ctx.shape)
        if ctx.rows_last:  # in the memory order of what it is the gradient of
            gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        return gradient, None, None


def _one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """(B, K, V) of 0 and 1 in the type of `like`; a voxel that is ignored is of no class."""
    truth = torch.empty_like(like)
    for k in range(like.shape[1]):
        torch.eq(labels, k, out=truth[:, k])
    return truth


def _entropy(shifted: Tensor, log_total: Tensor, truth: Tensor) -> Tensor:
    """(K,): -log p summed over the voxels of each class; `shifted` is written over.

    A class that is ruled out altogether (a logit of -inf) costs nothing where it is not the truth,
    hence the detour over a number that 0 times is 0; where it is the truth the sum is infinite.
    """
    most = torch.finfo(shifted.dtype).max / 8
    cost = torch.sub(log_total, shifted.clamp_(min=-most), out=shifted)
    by_class = cost.mul_(truth).sum((0, 2))
    return by_class.masked_fill(by_class >= most, torch.inf)


def class_weights(voxels: Tensor, balance: float) -> Tensor:
    """A voxel's part in a mean over voxels, mixed with a mean over class means, by class (K,)."""
    even = 1 / voxels.sum().clamp(min=1)
    by_class = 1 / (voxels * (voxels > 0).sum()).clamp(min=1)
    return (1 - balance) * even + balance * by_class


def _is_rows(x: Tensor) -> bool:
    """Whether the classes of a voxel lie side by side in memory."""
    return x.permute(0, 2, 3, 4, 1).is_contiguous() and not x.is_contiguous()
