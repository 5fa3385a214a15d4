"""What every loss of the table promises."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from u2net3d.losses import LOSSES, supervised
from u2net3d.spec import TrainSpec

SHAPE = (4, 5, 6)


@pytest.fixture(params=[(name, balance) for name in LOSSES for balance in (0.0, 0.5, 1.0)])
def loss(request):
    """A loss at one balance of the classes; `supervised` hands it a balance of its own."""
    name, balance = request.param
    return lambda logits, target, _balance=0.0: LOSSES[name](logits, target, balance)


def draw(classes=4, batch=2):
    torch.manual_seed(0)
    target = torch.randint(0, classes, (batch, *SHAPE))
    return torch.randn(batch, classes, *SHAPE).requires_grad_(), target


TARGETS = {
    "all classes": lambda target: target,
    "an absent class": lambda target: target.clamp(max=2),
    "background alone": torch.zeros_like,
    "one class alone": lambda target: torch.full_like(target, 3),
    "half ignored": lambda target: target.masked_fill(target % 2 == 0, -1),
    "one sample ignored": lambda target: torch.cat([target[:1], torch.full_like(target[1:], -1)]),
    "all ignored": lambda target: torch.full_like(target, -1),
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_value_and_gradient_are_finite(loss, kind, scale):
    logits, target = draw()
    value = loss(logits * scale, TARGETS[kind](target))
    value.backward()
    assert value.shape == ()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("kind", ["half ignored", "one sample ignored", "all ignored"])
def test_an_ignored_voxel_gets_no_gradient_whatever_was_guessed(loss, kind):
    logits, target = draw()
    target = TARGETS[kind](target)
    ignored = (target == -1)[:, None].expand_as(logits)
    value = loss(logits, target)
    value.backward()
    assert torch.equal(logits.grad[ignored], torch.zeros(int(ignored.sum())))
    other = torch.where(ignored, torch.full_like(logits, 5.0), logits)
    assert loss(other, target).item() == pytest.approx(value.item(), abs=1e-6)


def test_a_known_voxel_gets_a_gradient(loss):
    logits, target = draw()
    loss(logits, target).backward()
    assert (logits.grad.abs().sum(1) > 0).all()


def test_the_truth_costs_less_than_any_step_away_from_it(loss):
    _, target = draw()
    truth = 10 * F.one_hot(target, 4).movedim(-1, 1).float()
    best = loss(truth, target)
    for axis in (2, 3, 4):
        assert loss(truth.roll(1, axis), target) > best
    assert loss(torch.zeros_like(truth), target) > best


def test_a_small_step_along_the_gradient_costs_less(loss):
    logits, target = draw()
    value = loss(logits, target)
    value.backward()
    assert loss(logits - 0.1 * logits.grad / logits.grad.norm(), target) < value


def test_names_of_classes_do_not_matter_among_the_foreground(loss):
    logits, target = draw()
    order = torch.tensor([0, 3, 1, 2])
    renamed = torch.argsort(order)[target]
    value = loss(logits[:, order], renamed)
    assert value.item() == pytest.approx(loss(logits, target).item(), abs=1e-6)


def test_it_serves_every_level_of_the_decoder(loss):
    _, target = draw()
    sizes = [SHAPE, (4, 3, 3), (2, 2, 2)]
    outputs = [torch.randn(2, 4, *size).requires_grad_() for size in sizes]
    supervised(loss, outputs, target).backward()
    assert all(output.grad.abs().sum() > 0 for output in outputs)


def test_the_default_of_training_is_in_the_table():
    assert TrainSpec().loss in LOSSES
