"""The official architecture: its counts, its padding, what is shared and what is a domain's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from u2net3d.models import network
from u2net3d.models.network import BankShape
from u2net3d.models.reference_units import same_padded
from u2net3d.models.start import start_from
from u2net3d.spec import PRESETS, ModelSpec

FULL, HALF, CUBE = (1, 1, 1), (2, 2, 2), (3, 3, 3)
SHARING = ("separable", "series", "parallel", "shared")
ADAPTERS = (*SHARING, "independent")
# channels and classes, as the official code counts them
FIVE = {
    "heart": (1, 2),
    "liver": (1, 2),
    "hippocampus": (1, 3),
    "prostate": (2, 3),
    "pancreas": (1, 2),
}


def shape_of(channels, classes, stages=6, strides=None):
    strides = strides or (FULL, *[HALF] * (stages - 1))
    return BankShape(
        channels=channels, classes=classes, strides=strides, kernels=(CUBE,) * len(strides)
    )


THICK = shape_of(2, 3, strides=(FULL, (1, 2, 2), HALF))  # fewer stages than its trunk
DEEP = shape_of(1, 2, 4)


def tiny(adapter, seed=0, **shapes):
    torch.manual_seed(seed)
    net = network(
        ModelSpec(family="reference", base_channels=2, stages=4, options={"adapter": adapter})
    )
    for name, shape in (shapes or {"old": DEEP, "new": THICK}).items():
        net.add_bank(name, shape)
    return net


def count(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ("adapter", "trunk", "further", "all_five"),
    [
        ("separable", 5_853_840, 144_590, 6_577_460),
        ("series", 33_103_504, 980_990, 38_009_124),
        ("parallel", 33_103_504, 1_148_574, 38_847_044),
        ("shared", 33_103_504, 9_710, 33_152_724),
    ],
)
def test_it_has_as_many_weights_as_the_official_code(adapter, trunk, further, all_five):
    with torch.device("meta"):
        net = network(PRESETS[f"reference-{adapter}"])
        for name, (channels, classes) in FIVE.items():
            net.add_bank(name, shape_of(channels, classes))
    assert count(net.trunk) == trunk
    assert count(net.bank("liver")) == further
    assert count(net) == all_five


def test_independent_nets_have_as_many_weights_each():
    with torch.device("meta"):
        net = network(PRESETS["reference-independent"])
        for name, (channels, classes) in FIVE.items():
            net.add_bank(name, shape_of(channels, classes, 4 if name == "hippocampus" else 6))
    counts = {name: count(net.bank(name)) for name in FIVE}
    assert counts["heart"] == counts["liver"] == counts["pancreas"] == 33_113_214
    assert counts["hippocampus"] == 2_055_285
    assert counts["prostate"] == 33_113_765
    assert count(net) == 134_508_692
    assert count(net.trunk) == 0


@pytest.mark.parametrize(
    ("row", "stride", "sums"),
    [
        # three ones over a row; TensorFlow's SAME: an odd number of zeros has its last behind
        ([1, 2, 3, 4], 2, [1 + 2 + 3, 3 + 4]),
        ([1, 2, 3, 4, 5], 2, [1 + 2, 2 + 3 + 4, 4 + 5]),
        ([1, 2, 3, 4], 1, [1 + 2, 1 + 2 + 3, 2 + 3 + 4, 3 + 4]),
        ([7], 2, [7]),
    ],
)
def test_a_strided_convolution_is_padded_as_tensorflow_pads(row, stride, sums):
    weight = torch.zeros(1, 1, 3, 3, 3)
    weight[0, 0, 1, 1] = 1
    x = torch.tensor(row, dtype=torch.float32).view(1, 1, 1, 1, -1)
    assert same_padded(x, weight, (1, 1, stride)).flatten().tolist() == sums


@pytest.mark.parametrize("adapter", ["series", "parallel"])
def test_an_adapter_of_zeros_leaves_the_shared_network(adapter):
    plain, adapted = tiny("shared"), tiny(adapter, seed=1)
    weights = {**adapted.state_dict(), **plain.state_dict()}
    zeros = {name: weight * 0 for name, weight in weights.items() if ".adapter." in name}
    adapted.load_state_dict({**weights, **zeros})
    x = torch.randn(2, 2, 4, 12, 12)
    torch.testing.assert_close(adapted(x, "new")[0], plain(x, "new")[0])
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".adapter.weight" in name:
                weight.normal_()
    assert not torch.allclose(adapted(x, "new")[0], plain(x, "new")[0], atol=1e-2)


def test_an_independent_net_is_a_shared_one_of_one_domain():
    shared, alone = tiny("shared", new=DEEP), tiny("independent", seed=1, new=DEEP)
    own = {f"banks.new.own.{name}": weight for name, weight in shared.trunk.state_dict().items()}
    alone.load_state_dict({**shared.banks.state_dict(prefix="banks."), **own})
    x = torch.randn(1, 1, 16, 8, 8)
    assert torch.equal(alone(x, "new")[0], shared(x, "new")[0])


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("size", [(4, 16, 8), (5, 21, 18), (2, 7, 9)])
def test_the_answer_is_one_of_full_resolution_in_training_too(adapter, size):
    net, x = tiny(adapter), torch.randn(2, 2, *size)
    (trained,), (answer,) = net.train()(x, "new"), net.eval()(x, "new")
    assert answer.shape == (2, 3, *size)
    assert torch.equal(trained, answer)


def test_what_supervises_the_coarser_levels_is_added_to_the_answer():
    net, x = tiny("shared"), torch.randn(1, 1, 16, 16, 16)
    before = net(x, "old")[0]
    with torch.no_grad():  # a norm without weight gives its bias: 3 at the coarser of the two
        first, second = net.bank("old").supervision
        own = before - _added(net, x)
        for part, value in ((first, 0.5), (second, 3.0)):
            part.norm.weight.zero_()
            part.norm.bias.fill_(value)
    torch.testing.assert_close(net(x, "old")[0], own + 3.5)


def _added(net, x):
    """What supervision adds: the answer without it taken from the answer."""
    saved = {name: weight.clone() for name, weight in net.state_dict().items()}
    with torch.no_grad():
        whole = net(x, "old")[0]
        for part in net.bank("old").supervision:
            part.norm.weight.zero_()
            part.norm.bias.zero_()
        bare = net(x, "old")[0]
    net.load_state_dict(saved)
    return whole - bare


def used(net, stages):
    """Names of what a step of `new` should teach: its bank and its stages of the trunk."""
    names = [name for name, weight in net.named_parameters() if weight.requires_grad]
    parts = [f"trunk.encoder.{i}." for i in range(stages)]
    parts += [f"trunk.{p}.{i}." for p in ("down", "up", "decoder") for i in range(stages - 1)]
    return {name for name in names if name.startswith(("banks.new.", *parts))}


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_gradients_reach_what_should_learn_and_nothing_else(adapter):
    net, x = tiny(adapter).train(), torch.randn(2, 2, 4, 16, 16)
    with torch.no_grad():  # without a bias a later norm takes the weight of an earlier one away
        for name, weight in net.named_parameters():
            if name.endswith(("outer.bias", "norm.bias", "inner.bias")):
                weight.normal_()
    answer = net(x, "new")[0]
    (answer * torch.randn_like(answer)).sum().backward()
    reached = {name for name, weight in net.named_parameters() if weight.grad is not None}
    assert reached == used(net, 3)
    weights = dict(net.named_parameters())
    silent = {name for name in reached if not weights[name].grad.abs().sum() > 1e-3}
    # the last norm takes away what the bias of a norm inside a series adapter adds
    assert {name for name in silent if not (adapter == "series" and "inner.bias" in name)} == set()


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_biases_before_a_norm_are_kept_and_not_learnt(adapter):
    net = tiny(adapter)
    kept = {name for name, weight in net.named_parameters() if not weight.requires_grad}
    assert kept
    assert all(name.endswith(".bias") and ".head." not in name for name in kept)


@pytest.mark.parametrize("adapter", SHARING)
def test_with_a_frozen_trunk_a_step_leaves_the_other_answers_bit_for_bit(adapter):
    net, image = tiny(adapter), torch.randn(1, 1, 16, 16, 16)
    net.freeze_trunk()
    with torch.no_grad():
        before = net.eval()(image, "old")[0]
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1, weight_decay=0.1)
    answer = net.train()(torch.randn(2, 2, 4, 16, 16), "new")[0]
    answer.square().mean().backward()
    optimiser.step()
    with torch.no_grad():
        assert torch.equal(net.eval()(image, "old")[0], before)


@pytest.mark.parametrize("adapter", ["separable", "series", "parallel"])
def test_a_bank_starts_from_the_mean_of_others(adapter):
    net = tiny(adapter, a=DEEP, b=DEEP, c=DEEP)
    a, b, c = (net.bank(name) for name in "abc")
    assert start_from(c, [a, b]) == c.adapters()
    units = dict(c.named_parameters())
    for name in ("encoder.0.0.outer.weight", "decoder.1.1.outer.bias"):
        expected = (a.get_parameter(name) + b.get_parameter(name)) / 2
        torch.testing.assert_close(units[name], expected)


def test_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match="block"):
        network(ModelSpec(family="reference", options={"block": "plain"}))
    with pytest.raises(ValueError, match="adapter"):
        network(ModelSpec(family="reference", options={"adapter": "none"}))


def test_the_padding_is_that_of_pytorch_where_nothing_is_odd():
    x, weight = torch.randn(1, 2, 5, 7, 9), torch.randn(3, 2, 3, 3, 3)
    assert torch.equal(same_padded(x, weight, HALF), F.conv3d(x, weight, None, HALF, 1))
