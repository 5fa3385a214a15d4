"""Soft Dice plus cross-entropy, by hand and against monai."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from u2net3d.losses import dice_ce


def logits_of(probabilities):
    """(V, K) probabilities -> (1, K, 1, 1, V) logits."""
    return torch.tensor(probabilities).log().t()[None, :, None, None, :]


def target_of(values):
    return torch.tensor(values)[None, None, None, :]


def random_case(batch=2, classes=3, shape=(4, 5, 6), seed=0):
    torch.manual_seed(seed)
    return torch.randn(batch, classes, *shape), torch.randint(0, classes, (batch, *shape))


def test_three_voxels_by_hand():
    # Probabilities of the foreground 0.2, 0.5, 0.9, truth 0, 1, 1.
    logits = logits_of([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])
    entropy = -(math.log(0.8) + math.log(0.5) + math.log(0.9)) / 3
    dice = 2 * (0.5 + 0.9) / ((0.2 + 0.5 + 0.9) + 2)
    loss = dice_ce(logits, target_of([0, 1, 1]))
    assert loss.item() == pytest.approx(entropy - dice, abs=1e-5)


@pytest.mark.parametrize("balance", [0.0, 0.25, 1.0])
def test_balance_shares_the_entropy_out_among_the_classes(balance):
    # Probabilities of the foreground 0.2, 0.3, 0.4, 0.5, truth 0, 0, 0, 1: one voxel of four.
    logits = logits_of([[0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.5, 0.5]])
    background = -(math.log(0.8) + math.log(0.7) + math.log(0.6))
    by_voxel = (background - math.log(0.5)) / 4
    by_class = (background / 3 - math.log(0.5)) / 2
    dice = 2 * 0.5 / (1.4 + 1)
    loss = dice_ce(logits, target_of([0, 0, 0, 1]), balance)
    expected = (1 - balance) * by_voxel + balance * by_class - dice
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_a_class_that_is_absent_takes_no_part_in_the_balance():
    two, three = logits_of([[0.8, 0.2], [0.5, 0.5]]), logits_of([[0.8, 0.2, 0], [0.5, 0.5, 0]])
    target = target_of([0, 1])
    entropy = -(math.log(0.8) + math.log(0.5)) / 2
    dice = 2 * 0.5 / (0.7 + 1)
    assert dice_ce(two, target, 1.0).item() == pytest.approx(entropy - dice, abs=1e-5)
    # the third class has nothing to overlap and nothing guessed: a soft Dice of 1
    assert dice_ce(three, target, 1.0).item() == pytest.approx(entropy - (dice + 1) / 2, abs=1e-5)


def test_an_ignored_voxel_counts_in_neither_term():
    seen = logits_of([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])
    wrong = logits_of([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9], [0.99, 0.01]]).requires_grad_()
    loss = dice_ce(wrong, target_of([0, 1, 1, -1]))
    assert loss.item() == pytest.approx(dice_ce(seen, target_of([0, 1, 1])).item(), abs=1e-6)
    loss.backward()
    assert torch.equal(wrong.grad[..., 3], torch.zeros(1, 2, 1, 1))
    assert wrong.grad[..., :3].abs().min() > 0


def test_a_batch_that_is_ignored_throughout_teaches_nothing():
    logits, target = random_case()
    logits.requires_grad_()
    loss = dice_ce(logits, torch.full_like(target, -1))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_batch_that_is_ignored_throughout_gives_nothing():
    logits, target = random_case()
    assert dice_ce(logits, torch.full_like(target, -1)).item() == pytest.approx(0, abs=1e-6)


def test_a_perfect_prediction_tends_to_minus_one():
    _, target = random_case()
    truth = F.one_hot(target, 3).movedim(-1, 1).float()
    losses = [dice_ce(scale * truth, target).item() for scale in (1, 4, 16, 64)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(-1, abs=1e-6)


def test_dice_is_taken_per_sample_and_class():
    # Sample 0 all right, sample 1 all wrong: mean 1/2, however many voxels each class has.
    target = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0]])[:, None, None, :]
    guess = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1]])[:, None, None, :]
    logits = 200 * F.one_hot(guess, 2).movedim(-1, 1).float()
    entropy = F.cross_entropy(logits, target)
    assert (dice_ce(logits, target) - entropy).item() == pytest.approx(-0.5, abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_dice_part_agrees_with_monai(classes):
    with warnings.catch_warnings():  # monai's import warns of its own dependencies
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        from monai.losses import DiceLoss

    oracle = DiceLoss(
        include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    logits, target = random_case(classes=classes)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = dice_ce(ours, target)
    want = oracle(theirs, target[:, None]) - 1 + F.cross_entropy(theirs, target)
    torch.testing.assert_close(loss, want, atol=1e-5, rtol=1e-5)
    loss.backward()
    want.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_the_gradient_agrees_with_finite_differences():
    logits, target = random_case(batch=1, shape=(2, 2, 2))
    target[0, 0, 0] = -1
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: dice_ce(values, target), (logits,))


def plain(logits, target, balance):
    """The same loss as the formulas say it, in as many passes as they have terms."""
    classes, known = logits.shape[1], target != -1
    count = torch.bincount(target[known], minlength=classes).to(logits.dtype)
    by_class = 1 / (count * (count > 0).sum()).clamp(min=1)
    weight = (1 - balance) / count.sum().clamp(min=1) + balance * by_class
    entropy = F.cross_entropy(logits, target, ignore_index=-1, reduction="none")
    truth = F.one_hot(target.clamp(min=0), classes).movedim(-1, 1)[:, 1:] * known[:, None]
    guess = logits.softmax(1)[:, 1:] * known[:, None]
    overlap, total = ((guess * truth).sum((2, 3, 4)), (guess + truth).sum((2, 3, 4)))
    dice = ((2 * overlap + 1e-5) / (total + 1e-5)).mean()
    return (entropy * weight[target.clamp(min=0)] * known).sum() - dice * known.any()


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_value_and_gradient_are_those_of_the_plain_formulas(
    order, classes, balance, dtype, tolerance
):
    logits, target = random_case(classes=classes, shape=(5, 7, 6))
    logits = (3 * logits.to(dtype)).contiguous(memory_format=order)
    target[target == classes - 1] = -1  # ignored here, and a class that is absent
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, want = dice_ce(ours, target, balance), plain(theirs, target, balance)
    torch.testing.assert_close(loss, want, atol=tolerance, rtol=tolerance)
    (2.5 * loss).backward()
    (2.5 * want).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=tolerance, rtol=tolerance)
    assert ours.grad.stride() == logits.stride()


@pytest.mark.parametrize("balance", [0.0, 0.7])
def test_the_gradient_agrees_with_finite_differences_in_rows(balance):
    logits, target = random_case(classes=3, shape=(2, 1, 3))
    target[0, 0, 0, 0] = -1
    rows = logits.double().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: dice_ce(values, target, balance), (rows,))


def test_a_target_of_every_second_voxel_needs_no_copy_by_the_caller():
    logits, target = random_case(shape=(4, 6, 6))
    every_second = target[:, ::2, ::2, ::2]
    few = logits[:, :, ::2, ::2, ::2]
    expected = dice_ce(few.contiguous(), every_second.contiguous())
    assert dice_ce(few, every_second).item() == expected.item()


def test_half_precision_is_summed_in_float32():
    logits, target = random_case(shape=(8, 9, 10))
    half = logits.bfloat16().requires_grad_()
    loss = dice_ce(half, target)
    assert loss.dtype == torch.float32
    assert loss.item() == dice_ce(half.detach().float(), target).item()
    loss.backward()
    assert half.grad.dtype == torch.bfloat16


def test_a_class_that_was_ruled_out_and_is_the_truth_costs_without_end():
    logits = torch.tensor([[0.0, 0.0], [0.0, -math.inf]]).t()[None, :, None, None, :]
    assert dice_ce(logits, target_of([1, 1])).item() == math.inf
    assert math.isfinite(dice_ce(logits, target_of([1, 0])).item())
    assert math.isnan(dice_ce(logits + math.nan, target_of([1, 0])).item())


def test_the_logits_are_not_written_to():
    logits, target = random_case()
    before = logits.clone()
    dice_ce(logits.requires_grad_(), target).backward()
    assert torch.equal(logits.detach(), before)
