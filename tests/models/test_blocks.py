"""Blocks compute what their names say, and their weights lie where they belong."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from u2net3d.models.blocks import (
    BLOCKS,
    BatchNorm,
    BlockOptions,
    BlockShape,
    centre,
    grid_of,
    joined,
    pooled,
    value,
)
from u2net3d.ops.pending import Features

CUBE, SLICE = (3, 3, 3), (1, 3, 3)


def made(channels_in, channels_out, kernel=CUBE, padded=True, entry=False, **options):
    """(block, its half in the trunk)."""
    torch.manual_seed(0)
    given = BlockOptions(**options)
    kinds = BLOCKS[given.block]
    kind = kinds.entry if entry else kinds.other
    shape = BlockShape(channels_in, channels_out, kernel, given, padded)
    return kind.own(shape), kind.shared(channels_in, channels_out)


def run(block, shared, x):
    source = Features(x, None)
    return value(block([source], shared, grid_of(source)))


def test_a_plain_block_is_two_convolutions_each_with_norm_and_activation():
    block, shared = made(2, 3)
    x = torch.randn(2, 2, 5, 6, 7)
    y = x
    for part in (block.first, block.second):
        y = F.leaky_relu(F.instance_norm(F.conv3d(y, part.weight, padding=1)), 0.01)
    torch.testing.assert_close(run(block, shared, x), y)
    assert not list(shared.parameters())


def test_without_a_norm_there_is_a_bias_and_slope_0_is_a_relu():
    block, shared = made(1, 2, norm="none", slope=0)
    nn.init.constant_(block.second.bias, -1000)
    assert torch.equal(run(block, shared, torch.randn(1, 1, 4, 4, 4)), torch.zeros(1, 2, 4, 4, 4))


@pytest.mark.parametrize("channels", [2, 3])
def test_a_residual_block_whose_convolutions_are_silent_passes_on_what_went_in(channels):
    block, shared = made(2, channels, block="residual", norm="none", slope=0)
    nn.init.zeros_(block.second.weight)
    x = torch.randn(1, 2, 4, 4, 4)
    expected = x if channels == 2 else F.conv3d(x, block.across.weight)
    torch.testing.assert_close(run(block, shared, x), F.relu(expected))


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_without_padding_each_convolution_takes_a_border_off(name):
    block, shared = made(1, 2, kernel=SLICE, padded=False, block=name)
    assert run(block, shared, torch.randn(1, 1, 1, 9, 8)).shape == (1, 2, 1, 5, 4)


@pytest.mark.parametrize("entry", [True, False])
def test_a_separable_block_is_padded(entry):
    with pytest.raises(ValueError, match="padded"):
        made(2, 2, padded=False, entry=entry, block="separable")


@pytest.mark.parametrize(("entry", "inside"), [(True, [(4, 4)]), (False, [(4, 2), (4, 4)])])
def test_a_separable_block_keeps_its_matrices_in_the_trunk(entry, inside):
    block, shared = made(2, 4, entry=entry, block="separable")
    assert [tuple(weight.shape) for weight in shared.parameters()] == inside
    found = run(block, shared, torch.randn(1, 2, 4, 5, 6))
    found.square().sum().backward()
    both = [*block.parameters(), *shared.parameters()]
    assert all(weight.grad is not None for weight in both)
    assert found.shape == (1, 4, 4, 5, 6)


def test_weights_begin_with_the_variance_of_he():
    dense, _ = made(16, 64)
    assert dense.first.weight.std().item() == pytest.approx(math.sqrt(2 / (16 * 27)), rel=0.02)
    separable, shared = made(64, 64, block="separable")
    assert separable.first.weight.std().item() == pytest.approx(math.sqrt(2 / 27), rel=0.05)
    assert shared["first"].weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {"block": "dense"},
        {"norms": "batch"},
        {"block": "separable", "norm": "batch"},
        {"block": "separable", "slope": 0.2},
        {"block": "separable", "bias": True},
    ],
)
def test_options_that_there_are_not_are_refused(options):
    with pytest.raises(ValidationError):
        BlockOptions(**options)


def test_batch_norm_is_torchs_without_the_count_of_batches():
    ours, torchs = BatchNorm(3), nn.BatchNorm3d(3)
    x = 2 + 3 * torch.randn(4, 3, 4, 4, 4)
    for module in (ours, torchs):
        module.train()(x)
        module(x)
    torch.testing.assert_close(ours.eval()(x), torchs.eval()(x))
    assert set(torchs.state_dict()) - set(ours.state_dict()) == {"num_batches_tracked"}


def test_sources_are_repeated_cropped_and_laid_side_by_side():
    small = Features(torch.tensor([[1.0, 2.0]]).view(1, 1, 1, 1, 2), None, up=(1, 1, 2))
    large = Features(torch.tensor([[5.0, 6.0, 7.0]]).view(1, 1, 1, 1, 3), None)
    assert joined([small, large], (1, 1, 3)).flatten(1).tolist() == [[1, 1, 2, 5, 6, 7]]


def test_pooling_takes_the_rest_at_the_end_too():
    x = torch.tensor([1.0, 3.0, 2.0, 0.0, -4.0]).view(1, 1, 1, 1, 5)
    assert pooled(Features(x, None), (1, 1, 2)).x.flatten().tolist() == [3, 2, -4]


def test_the_centre_is_in_the_middle():
    row = torch.arange(6.0).view(1, 1, 1, 1, 6)
    assert centre(row, (1, 1, 2)).flatten().tolist() == [2, 3]
    assert centre(row, (1, 1, 3)).flatten().tolist() == [1, 2, 3]
