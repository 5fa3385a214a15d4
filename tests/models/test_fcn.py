"""Fully convolutional networks: what 32s, 16s and 8s add up, and a classifier as a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from u2net3d.models import network
from u2net3d.models.fcn import as_convolution
from u2net3d.models.network import BankShape
from u2net3d.models.upsample import linear
from u2net3d.spec import PRESETS, ModelSpec

FULL, HALF, FLAT = (1, 1, 1), (2, 2, 2), (1, 2, 2)
CUBE, SLICE = (3, 3, 3), (1, 3, 3)
SIX = BankShape(channels=1, classes=3, strides=(FULL, *(HALF,) * 5), kernels=(CUBE,) * 6)
FOUR = BankShape(channels=1, classes=3, strides=(FULL, *(HALF,) * 3), kernels=(CUBE,) * 4)
THICK = BankShape(channels=2, classes=2, strides=(FULL, FLAT, HALF), kernels=(SLICE, SLICE, CUBE))


def make(shape, stride_out=8, block="plain", stages=6):
    torch.manual_seed(0)
    options = {"stride_out": stride_out, "block": block}
    net = network(ModelSpec(family="fcn", base_channels=2, stages=stages, options=options))
    net.add_bank("new", shape)
    return net


@pytest.mark.parametrize(
    ("shape", "stride_out", "fused", "last"),
    [
        (SIX, 32, (), (32, 32, 32)),
        (SIX, 16, (4,), (16, 16, 16)),
        (SIX, 8, (4, 3), (8, 8, 8)),
        (FOUR, 32, (), (8, 8, 8)),
        (FOUR, 8, (2, 1), (2, 2, 2)),
        (THICK, 8, (1,), (1, 2, 2)),
    ],
)
def test_a_name_says_how_much_the_last_step_enlarges_with_five_poolings(
    shape, stride_out, fused, last
):
    bank = make(shape, stride_out).bank("new")
    assert bank.fused == fused
    assert bank.ups[-1].stride == last
    assert len(bank.scores) == len(bank.ups) == len(fused) + 1


def test_16s_is_twice_the_last_score_and_the_one_of_the_pooling_before_16_times():
    net = make(SIX, 16).double().eval()
    bank, x = net.bank("new"), torch.randn(1, 1, 64, 32, 32, dtype=torch.float64)
    features, pools = x, []
    for i, block in enumerate(bank.encoder):
        if i:
            features = F.max_pool3d(features, 2)
        pools.append(features)
        for unit in (block.first, block.second):
            features = F.conv3d(features, unit.weight, padding=1)
            norm = unit.norm
            features = F.instance_norm(features, weight=norm.weight, bias=norm.bias)
            features = F.leaky_relu(features, 0.01)
    first, second = (
        F.conv3d(of, head.weight[:, :, None, None, None], head.bias)
        for head, of in zip(bank.scores, (features, pools[4]), strict=True)
    )
    expected = linear(linear(first, HALF) + second, (16, 16, 16))
    with torch.no_grad():
        (answer,) = net(x, "new")
    assert torch.allclose(answer, expected, atol=1e-9)


@pytest.mark.parametrize("shape", [FOUR, THICK])
@pytest.mark.parametrize("block", ["plain", "residual", "separable"])
def test_every_weight_learns_and_odd_sizes_come_back_whole(shape, block):
    net = make(shape, block=block, stages=4).train()
    x = torch.randn(2, shape.channels, 9, 21, 18)
    (answer,) = net(x, "new")
    assert answer.shape == (2, shape.classes, 9, 21, 18)
    (answer * torch.linspace(-1, 1, answer.numel()).view_as(answer)).mean().backward()
    reached = {
        name
        for name, weight in net.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    assert reached == net.learning("new")
    assert (block == "separable") == any(name.startswith("trunk.") for name in reached)


def test_options_that_there_are_not_are_refused():
    for options in ({"stride_out": 4}, {"stride": 8}, {"block": "round"}):
        with pytest.raises(ValueError):
            network(ModelSpec(family="fcn", options=options))


def test_the_preset_is_of_the_family():
    assert PRESETS["fcn8s"].family == "fcn"
    network(PRESETS["fcn8s"])


@pytest.mark.parametrize("bias", [True, False])
def test_a_classifier_as_a_convolution_gives_what_it_gives_window_by_window(bias):
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Conv3d(4, 5, 2)).double()
    window = (3, 4, 5)  # of features; of the image 3 voxels more along each axis
    classifier = nn.Linear(5 * 3 * 4 * 5, 6, bias=bias).double()
    image = torch.randn(2, 1, 8, 9, 10, dtype=torch.float64)
    dense = as_convolution(classifier, window)(features(image))
    assert dense.shape == (2, 6, 3, 3, 3)
    for d in range(3):
        for h in range(3):
            for w in range(3):
                crop = image[:, :, d : d + 6, h : h + 7, w : w + 8]
                alone = classifier(features(crop).flatten(1))
                assert torch.allclose(dense[:, :, d, h, w], alone, atol=1e-12)
