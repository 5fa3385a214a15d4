"""Separable convolution: published figures, the way from dense to depthwise, what it is not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from u2net3d.models.separable import Separable, SeparableConv, analytic_ratio, scaled_grid


def test_the_worked_example_in_two_dimensions():
    # 256 filters of 3x3 over a colour picture of 224x224
    form, grid = Separable(channels_in=3, channels_out=256, kernel=(1, 3, 3)), (1, 224, 224)
    assert sum(form.multiply_adds(grid)) == 39_889_920
    assert form.dense_weights * 224 * 224 == 346_816_512
    ratio = 39_889_920 / 346_816_512
    assert round(ratio, 4) == 0.1150
    assert ratio == pytest.approx(analytic_ratio(256, (3, 3)), rel=1e-12)


def test_in_three_dimensions_the_share_is_one_by_n_and_one_by_27():
    form = Separable(channels_in=32, channels_out=64)
    assert form.weights == (32 * 27, 32 * 64)
    assert sum(form.weights) / form.dense_weights == pytest.approx(1 / 64 + 1 / 27, rel=1e-12)


INCEPTION = Separable(
    channels_in=256, channels_out=192, kernel=(1, 3, 3), between=96, groups=3, first="pointwise"
)


def test_the_inception_split_counts_as_published():
    # three towers, each 256 -> 32 by 1x1 and 32 -> 64 by 3x3, against one 3x3 from 256 to 192
    assert INCEPTION.weights == (3 * 32 * 64 * 9, 256 * 96)
    assert sum(INCEPTION.weights) == 79_872
    assert INCEPTION.dense_weights == 442_368
    parameters = SeparableConv(INCEPTION).parameters()
    assert sum(weight.numel() for weight in parameters) == 79_872


def rank(kernel):
    """Of a kernel (N, C, k, k, k) as a matrix (N k, C)."""
    return torch.linalg.matrix_rank(kernel.flatten(2).transpose(1, 2).flatten(0, 1))


def test_the_inception_split_is_a_dense_convolution_of_low_rank_and_no_other():
    net = SeparableConv(INCEPTION).double()
    pointwise, spatial = (step.weight for step in net.steps)
    dense = torch.zeros(192, 256, 1, 3, 3, dtype=torch.float64)
    for tower in range(3):
        outputs, inner = slice(64 * tower, 64 * tower + 64), slice(32 * tower, 32 * tower + 32)
        dense[outputs] = torch.einsum(
            "omdhw,mc->ocdhw", spatial[outputs], pointwise[inner, :, 0, 0, 0]
        )
    x = torch.randn(1, 256, 1, 6, 7, dtype=torch.float64)
    assert torch.allclose(net(x), F.conv3d(x, dense, padding=(0, 1, 1)), atol=1e-12)
    assert rank(dense) == 96
    whole = torch.randn_like(dense)  # a dense convolution of its own: no split of 96 gives it
    assert rank(whole) == 256


@pytest.mark.parametrize("groups", [1, 2, 4, 16])
@pytest.mark.parametrize("first", ["depthwise", "pointwise"])
def test_more_groups_cost_less_down_to_the_extreme(groups, first):
    form = Separable(channels_in=16, channels_out=16, groups=groups, first=first)
    assert form.weights == (16 * 16 * 27 // groups, 256)
    net = SeparableConv(form)
    assert sum(weight.numel() for weight in net.parameters()) == sum(form.weights)
    extreme = Separable(channels_in=16, channels_out=16, first=first)
    assert extreme.spatial_groups == 16


def test_one_group_and_nothing_between_is_a_whole_convolution():
    net = SeparableConv(Separable(channels_in=3, channels_out=5, groups=1)).double()
    spatial, pointwise = (step.weight for step in net.steps)
    dense = torch.einsum("om,mcdhw->ocdhw", pointwise[:, :, 0, 0, 0], spatial)
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    assert torch.allclose(net(x), F.conv3d(x, dense, padding=1), atol=1e-12)


def test_only_an_activation_between_the_halves_makes_it_more_than_linear():
    x = torch.randn(1, 4, 5, 5, 5)
    for activation in (False, True):
        net = SeparableConv(Separable(channels_in=4, channels_out=4, activation=activation))
        assert torch.allclose(net(-x), -net(x), atol=1e-5) is not activation


@pytest.mark.parametrize("first", ["depthwise", "pointwise"])
def test_the_width_multiplier_squares_the_pointwise_half(first):
    form = Separable(channels_in=32, channels_out=64, first=first)
    spatial, pointwise = form.weights
    assert form.scaled(0.5).weights == (spatial // 2, pointwise // 4)


def test_the_resolution_multiplier_goes_with_its_cube_and_on_one_slice_with_its_square():
    form = Separable(channels_in=32, channels_out=64)
    whole = sum(form.multiply_adds((16, 16, 16)))
    assert sum(form.multiply_adds(scaled_grid((16, 16, 16), 0.5))) == whole // 8
    assert scaled_grid((1, 16, 16), 0.5) == (1, 8, 8)


@pytest.mark.parametrize("first", ["depthwise", "pointwise"])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2)])
def test_multiply_adds_are_those_that_torch_counts(first, stride):
    from torch.utils.flop_counter import FlopCounterMode

    form = Separable(channels_in=4, channels_out=6, stride=stride, first=first, activation=True)
    with FlopCounterMode(display=False) as counted:
        y = SeparableConv(form)(torch.zeros(1, 4, 4, 6, 8))
    assert counted.get_total_flops() == 2 * sum(form.multiply_adds(tuple(y.shape[2:])))


def test_groups_that_divide_no_channels_are_refused():
    with pytest.raises(ValueError, match="3 groups do not divide"):
        Separable(channels_in=4, channels_out=6, groups=3)
