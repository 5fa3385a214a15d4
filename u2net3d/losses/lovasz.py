"""The Lovász-Softmax loss: the Jaccard index of every class, made piecewise linear.

Berman, Triki, Blaschko, "The Lovász-Softmax loss", CVPR 2018 (arXiv 1705.08790). With m the errors
of a class over all voxels in falling order, |t - p|, and J the Jaccard loss of the set of the first
i of them, the loss of the class is the sum over m_i (J_i - J_(i-1)) (eq. 8-9, algorithm 1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from u2net3d.losses.dice_ce import IGNORED


def lovasz(logits: Tensor, target: Tensor, _balance: float = 0.0) -> Tensor:
    """Mean over all classes, the background and absent ones too, of their Lovász extension.

    logits (B, K, D, H, W); target (B, D, H, W) int64, -1 where the label is to be ignored. The
    batch is one set of voxels, as in the official code of 3D U2-Net. Classes weigh the same
    whatever their size, so there is nothing to balance. A batch without one labelled voxel gives 0.
    Half precision is computed in float32.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    known = target.flatten() != IGNORED
    guess = wide.softmax(1).movedim(1, 0).flatten(1)[:, known]
    loss: Tensor = _Lovasz.apply(guess, target.flatten()[known])  # type: ignore[no-untyped-call]
    return loss


class _Lovasz(torch.autograd.Function):
    """Of guess (K, V) and labels (V,). Its gradient is J_i - J_(i-1) in the place of voxel i, with
    the sign of the error; it falls out of the forward pass, and nothing that was sorted is kept."""

    @staticmethod
    def forward(ctx: Any, guess: Tensor, labels: Tensor) -> Tensor:
        gradient, loss = torch.zeros_like(guess), guess.new_zeros(())
        for k in range(len(guess) if labels.numel() else 0):
            loss += _of_class(guess[k], labels == k, gradient[k])
        ctx.save_for_backward(gradient.div_(len(guess)))
        return loss / len(guess)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None


def _of_class(guess: Tensor, truth: Tensor, gradient: Tensor) -> Tensor:
    """The loss of one class from guess (V,) and truth (V,) of bool; its gradient is written.

    Behind the last voxel of the class J is 1 and changes no more. So voxels of smaller error are
    left out before anything is sorted; where the class is absent the first voxel is all there is.
    """
    errors = torch.where(truth, 1 - guess, guess)
    least = errors[truth].amin() if bool(truth.any()) else errors.amax()
    places = (errors >= least).nonzero().squeeze(1)
    found, order = errors[places].sort(descending=True)
    places = places[order]
    hit = truth[places]
    missed = (~hit).cumsum(0, dtype=found.dtype)
    inside = hit.cumsum(0, dtype=found.dtype)
    total = inside[-1]
    jaccard = 1 - (total - inside) / (total + missed)
    change = jaccard.diff(prepend=jaccard.new_zeros(1))
    gradient[places] = torch.where(hit, -change, change)
    return found @ change
