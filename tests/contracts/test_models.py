"""What every network promises, whatever its domains look like."""

from __future__ import annotations

import pytest
import torch

from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet

FULL, HALF, FLAT = (1, 1, 1), (2, 2, 2), (1, 2, 2)
CUBE, SLICE = (3, 3, 3), (1, 3, 3)

# name -> (bank, image size): each runs in a trunk of four stages beside a bank of another shape.
DOMAINS = {
    "as deep as the trunk": (
        BankShape(channels=1, classes=2, strides=(FULL, HALF, HALF, HALF), kernels=(CUBE,) * 4),
        (16, 16, 16),
    ),
    "shallow": (
        BankShape(channels=1, classes=2, strides=(FULL, HALF), kernels=(CUBE,) * 2),
        (8, 6, 8),
    ),
    "thick slices, odd sizes": (
        BankShape(
            channels=2,
            classes=4,
            strides=(FULL, FLAT, HALF),
            kernels=(SLICE, SLICE, CUBE),
        ),
        (5, 21, 18),
    ),
    "four channels": (
        BankShape(channels=4, classes=3, strides=(FULL, HALF, HALF), kernels=(CUBE,) * 3),
        (8, 9, 12),
    ),
}
OTHER = BankShape(channels=1, classes=2, strides=(FULL, HALF, FLAT), kernels=(CUBE, CUBE, SLICE))


@pytest.fixture(params=DOMAINS)
def case(request):
    """(network with banks `old` and `new`, shape of `new`, image (2, C, D, H, W) for it)."""
    shape, size = DOMAINS[request.param]
    torch.manual_seed(0)
    net = UniversalNet(base_channels=4, stages=4)
    net.add_bank("old", OTHER)
    net.add_bank("new", shape)
    return net.train(), shape, torch.randn(2, shape.channels, *size)


def loss_of(outputs):
    return sum((output * torch.linspace(-1, 1, output[0].numel()).view_as(output[0])).mean()
               for output in outputs)  # fmt: skip


def expected(net, shape):
    """Names of the parameters that a step of `new` should teach: its bank and its trunk stages."""
    stages = range(shape.stages)
    parts = [f"trunk.encoder.{i}." for i in stages]
    parts += [f"trunk.{part}.{i}." for part in ("down", "up", "decoder") for i in stages[:-1]]
    names = [name for name, _ in net.named_parameters()]
    return {name for name in names if name.startswith(("banks.new.", *parts))}


def test_gradients_reach_what_should_learn_and_nothing_else(case):
    net, shape, x = case
    loss_of(net(x, "new")).backward()
    reached = {name for name, weight in net.named_parameters() if weight.grad is not None}
    assert reached == expected(net, shape)
    silent = [
        name
        for name, weight in net.named_parameters()
        if name in reached and not (weight.grad.isfinite().all() and weight.grad.abs().sum() > 0)
    ]
    assert not silent


def test_with_a_frozen_trunk_gradients_reach_the_bank_alone(case):
    net, _, x = case
    net.freeze_trunk()
    loss_of(net.train()(x, "new")).backward()
    reached = {name for name, weight in net.named_parameters() if weight.grad is not None}
    assert reached == {name for name, _ in net.named_parameters() if name.startswith("banks.new.")}


def test_an_answer_is_a_list_full_resolution_first(case):
    net, shape, x = case
    outputs, (answer,) = net.train()(x, "new"), net.eval()(x, "new")
    assert len(outputs) == shape.stages - 1
    assert outputs[0].shape == answer.shape == (2, shape.classes, *x.shape[2:])
    sizes = x.shape[2:]
    for output, stride in zip(outputs, shape.strides, strict=False):
        sizes = tuple(-(-n // s) for n, s in zip(sizes, stride, strict=True))
        assert output.shape == (2, shape.classes, *sizes)


def test_the_same_image_twice_gives_the_same_bits(case):
    net, _, x = case
    first, second = (net(x, "new") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_step_of_one_domain_leaves_the_other_answers_when_the_trunk_is_frozen(case):
    net, _, x = case
    image = torch.randn(1, 1, 8, 8, 8)
    net.freeze_trunk()
    with torch.no_grad():
        before = net.eval()(image, "old")[0]
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    loss_of(net.train()(x, "new")).backward()
    optimiser.step()
    with torch.no_grad():
        assert torch.equal(net.eval()(image, "old")[0], before)


def test_weights_survive_their_names(case):
    net, shape, x = case
    copy = UniversalNet(base_channels=4, stages=4)
    copy.add_bank("old", OTHER)
    copy.add_bank("new", shape)
    copy.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(copy.eval()(x, "new")[0], net.eval()(x, "new")[0])
