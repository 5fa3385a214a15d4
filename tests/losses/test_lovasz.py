"""Lovász-Softmax: worked out by hand, against the algorithm as published, and on hard answers."""

from __future__ import annotations

import pytest
import torch

from u2net3d.losses import lovasz


def logits_of(guess):
    """guess: for each voxel the probabilities of its classes -> (1, K, 1, 1, V)."""
    p = torch.tensor(guess, dtype=torch.float64)
    return p.log().t()[None, :, None, None]


def target_of(*labels):
    return torch.tensor(labels)[None, None, None]


def test_three_voxels_by_hand():
    # class 1, truth 1 0 1, errors 0.2 0.4 0.7: J is 1 - 1/2, 1 - 1/3, 1 in the order 0.7 0.4 0.2,
    # so 0.7 / 2 + 0.4 / 6 + 0.2 / 3 = 0.48333; class 0, truth 0 1 0, errors the same: J is 1 - 1/2,
    # 1, 1, so 0.7 / 2 + 0.4 / 2 = 0.55.
    value = lovasz(logits_of([[0.2, 0.8], [0.6, 0.4], [0.7, 0.3]]), target_of(1, 0, 1))
    assert value.item() == pytest.approx((0.35 + 0.4 / 6 + 0.2 / 3 + 0.55) / 2)


def test_an_absent_class_costs_its_boldest_guess():
    # class 2 is nowhere: its Jaccard loss is 1 from the first voxel on, so 0.5. Class 1 likewise:
    # 0.3. Class 0 is everywhere: J grows by 1/2 a voxel, (0.4 + 0.6) / 2.
    value = lovasz(logits_of([[0.6, 0.3, 0.1], [0.4, 0.1, 0.5]]), target_of(0, 0))
    assert value.item() == pytest.approx((0.5 + 0.3 + 0.5) / 3)


def test_of_a_hard_answer_it_is_one_minus_the_mean_jaccard_index():
    # classes 0 1 2; guessed 0 0 1 2 2, true 0 1 1 2 0: 1 of 3, 1 of 2, 1 of 2
    guess = torch.full((5, 3), 1e-12)
    guess[range(5), [0, 0, 1, 2, 2]] = 1.0
    value = lovasz(logits_of(guess.tolist()), target_of(0, 1, 1, 2, 0))
    assert value.item() == pytest.approx(1 - (1 / 3 + 1 / 2 + 1 / 2) / 3, abs=1e-6)


def as_published(logits, target):
    """Algorithm 1, voxel by voxel; ignored voxels are left out."""
    total = 0.0
    guess = logits.softmax(1).movedim(1, 0).flatten(1)
    known = target.flatten() >= 0
    for k, row in enumerate(guess):
        truth = (target.flatten() == k)[known].double()
        errors, order = (truth - row[known]).abs().sort(descending=True)
        truth, before = truth[order], 0.0
        for i in range(len(errors)):
            inside = truth.sum() - truth[: i + 1].sum()
            union = truth.sum() + (1 - truth[: i + 1]).sum()
            jaccard = 1 - inside / union
            total = total + errors[i] * (jaccard - before)
            before = jaccard
    return total / len(guess)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_value_and_gradient_are_those_of_the_published_algorithm(classes, scale):
    torch.manual_seed(0)
    logits = (scale * torch.randn(2, classes, 2, 3, 4, dtype=torch.float64)).requires_grad_()
    target = torch.randint(-1, classes - 1, (2, 2, 3, 4))  # the last class is absent
    expected = as_published(logits, target)
    (wanted,) = torch.autograd.grad(expected, logits)
    value = lovasz(logits, target)
    (given,) = torch.autograd.grad(value, logits)
    assert value.item() == pytest.approx(expected.item())
    torch.testing.assert_close(given, wanted)


def test_half_precision_is_computed_in_single():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 4, 4, 4).half(), torch.randint(0, 3, (1, 4, 4, 4))
    assert torch.equal(lovasz(logits, target), lovasz(logits.float(), target))
