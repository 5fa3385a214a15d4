"""Deep supervision: the weights of the levels, and the voxels their targets are taken at."""

from __future__ import annotations

import pytest
import torch

from u2net3d.losses import dice_ce, supervised


def outputs_of(*shapes, classes=2):
    return [torch.zeros(1, classes, *shape) for shape in shapes]


def targets_seen(shapes, target):
    seen = []

    def loss(logits, at, _balance):
        seen.append(at)
        return logits.sum()

    supervised(loss, outputs_of(*shapes), target)
    return seen


def test_levels_weigh_one_a_half_and_a_quarter():
    values = iter([7.0, 14.0, 28.0])
    target = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    outputs = outputs_of((4, 4, 4), (2, 2, 2), (1, 1, 1))
    loss = supervised(lambda *_: torch.tensor(next(values)), outputs, target)
    assert loss.item() == pytest.approx((7 + 14 / 2 + 28 / 4) / (1 + 1 / 2 + 1 / 4))


def test_every_level_is_balanced_as_asked():
    given = []

    def loss(logits, _at, balance):
        given.append(balance)
        return logits.sum()

    target = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    supervised(loss, outputs_of((4, 4, 4), (2, 2, 2)), target, 0.75)
    assert given == [0.75, 0.75]


def test_one_level_is_the_loss_itself():
    logits, target = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    assert supervised(dice_ce, [logits], target).item() == dice_ce(logits, target).item()


def test_coarse_targets_are_every_second_voxel_beginning_with_the_first():
    target = torch.arange(7)[None, None, None, :]
    seen = targets_seen([(1, 1, 7), (1, 1, 4), (1, 1, 2), (1, 1, 1)], target)
    assert [at.flatten().tolist() for at in seen] == [[*range(7)], [0, 2, 4, 6], [0, 4], [0]]


def test_axes_that_were_not_strided_stay_whole():
    target = torch.arange(3 * 4 * 5).reshape(1, 3, 4, 5)
    seen = targets_seen([(3, 4, 5), (3, 2, 3), (2, 1, 2)], target)
    assert torch.equal(seen[0], target)
    assert torch.equal(seen[1], target[:, :, ::2, ::2])
    assert torch.equal(seen[2], target[:, ::2, ::4, ::4])


@pytest.mark.parametrize("shape", [(8, 96, 80), (7, 33, 45), (5, 9, 3)])
def test_targets_lie_where_strided_convolutions_look(shape):
    # A position carried down by convolutions of padding 1 whose kernel sees its centre alone.
    target = torch.arange(shape[0] * shape[1] * shape[2]).reshape(1, *shape)
    centre = torch.zeros(1, 1, 3, 3, 3, dtype=torch.float64)
    centre[0, 0, 1, 1, 1] = 1
    levels = [target[:, None].double()]
    for stride in [(1, 2, 2), (2, 2, 2)]:
        levels.append(torch.nn.functional.conv3d(levels[-1], centre, stride=stride, padding=1))
    seen = targets_seen([level.shape[2:] for level in levels], target)
    for at, level in zip(seen, levels, strict=True):
        assert torch.equal(at, level[:, 0].long())


def test_gradients_reach_every_level():
    target = torch.randint(0, 2, (1, 8, 8, 8))
    outputs = [torch.randn(1, 2, n, n, n).requires_grad_() for n in (8, 4, 2)]
    supervised(dice_ce, outputs, target).backward()
    assert all(output.grad.abs().sum() > 0 for output in outputs)


def test_outputs_of_one_grid_weigh_alike():
    values = iter([7.0, 14.0, 28.0])
    target = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    outputs = outputs_of((4, 4, 4), (4, 4, 4), (2, 2, 2))
    loss = supervised(lambda *_: torch.tensor(next(values)), outputs, target)
    assert loss.item() == pytest.approx((7 + 14 + 28 / 2) / (1 + 1 + 1 / 2))


def test_an_answer_smaller_than_the_target_is_judged_by_its_middle():
    target = torch.arange(3 * 7).reshape(1, 1, 3, 7)
    (seen,) = targets_seen([(1, 1, 3)], target)
    assert seen.tolist() == [[[[9, 10, 11]]]]
