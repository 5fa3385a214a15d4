"""UNet++ has the reference's weights, and a level runs and answers as it says."""

from __future__ import annotations

import math

import pytest
import torch

from u2net3d.models import BankShape, network
from u2net3d.spec import ModelSpec

FULL, HALF, FLAT = (1, 1, 1), (2, 2, 2), (1, 2, 2)
CUBE, SLICE = (3, 3, 3), (1, 3, 3)
FLAT_COUNTS = (103_041, 519_105, 2_236_161, 9_163_329)
CUBE_COUNTS = (305_793, 1_551_297, 6_696_705, 27_466_305)


def unetpp(stages=4, stride=HALF, kernel=CUBE, channels=1, classes=2, base_channels=4, **options):
    torch.manual_seed(0)
    model = ModelSpec(family="unetpp", base_channels=base_channels, stages=stages, options=options)
    net = network(model)
    strides = (FULL, *(stride,) * (stages - 1))
    shape = BankShape(
        channels=channels, classes=classes, strides=strides, kernels=(kernel,) * stages
    )
    net.add_bank("a", shape)
    return net


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("stride", "kernel", "channels", "counts"),
    [(FLAT, SLICE, 3, FLAT_COUNTS), (HALF, CUBE, 1, CUBE_COUNTS)],
)
def test_weights_are_those_of_the_reference(level, stride, kernel, channels, counts):
    # up-sampling has no weights, and convolutions have a bias in front of their batch norm
    published = {"norm": "batch", "slope": 0.0, "bias": True, "supervised": False}
    with torch.device("meta"):
        net = unetpp(level + 1, stride, kernel, channels, 1, 32, **published)
    assert sum(weight.numel() for weight in net.parameters()) == counts[level - 1]


@pytest.mark.parametrize("block", ["plain", "residual", "separable"])
@pytest.mark.parametrize("skips", ["nested", "ensemble", "aggregated"])
def test_a_pruned_level_gives_the_bits_of_the_unpruned_head(block, skips):
    net = unetpp(block=block, skips=skips)
    x = torch.randn(1, 1, 16, 11, 8)
    with torch.no_grad():
        heads = net.train()(x, "a")[::-1]  # InstanceNorm is the same in train() and eval()
        for level, head in enumerate(heads, start=1):
            assert torch.equal(net.eval().answer(x, "a", level), head)
    assert len(heads) == net.levels("a") == 3


def ran(net, level):
    found = set()
    hooks = [
        node.register_forward_hook(lambda *_, name=name: found.add(name))
        for name, node in net.bank("a").nodes.items()
    ]
    with torch.no_grad():
        net.eval().answer(torch.randn(1, 1, 16, 16, 16), "a", level)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(
    ("skips", "first", "second"),
    [
        ("nested", {"0_0", "1_0", "0_1"}, {"0_0", "1_0", "2_0", "0_1", "1_1", "0_2"}),
        ("ensemble", {"0_0", "1_0", "0_1"}, {"0_0", "1_0", "2_0", "1_1", "0_2"}),
        ("aggregated", {"0_0", "1_0", "0_1"}, {"0_0", "1_0", "2_0", "0_1", "1_1", "0_2"}),
    ],
)
def test_only_what_a_level_needs_is_run(skips, first, second):
    net = unetpp(skips=skips)
    assert ran(net, 1) == first
    assert ran(net, 2) == second
    assert len(ran(net, "mean")) == 10


def test_mean_is_that_of_the_probabilities_of_all_levels():
    net = unetpp().eval()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        each = [net.answer(x, "a", level).softmax(1) for level in (1, 2, 3)]
        mean = net.answer(x, "a", "mean").softmax(1)
    torch.testing.assert_close(mean, sum(each) / 3)


def test_mean_is_finite_where_every_level_rules_a_class_out():
    net = unetpp().eval()
    for head in net.bank("a").heads.values():
        head.bias.data = torch.tensor([-1000.0, 1000.0])
    with torch.no_grad():
        assert net.answer(torch.randn(1, 1, 16, 16, 16), "a", "mean").isfinite().all()


def learning(net):
    loss = sum(output.square().mean() for output in net.train()(torch.randn(2, 1, 16, 16, 16), "a"))
    loss.backward()
    weights = net.bank("a").named_parameters()
    return {name.split(".")[1] for name, weight in weights if weight.grad is not None} - {"3"}


def test_in_the_ensemble_inner_decoders_learn_by_deep_supervision_alone():
    inner = {"0_1", "0_2", "1_1"}
    encoder, outermost = {"0_0", "1_0", "2_0", "3_0"}, {"2_1", "1_2", "0_3"}
    assert learning(unetpp(skips="ensemble", supervised=False)) == encoder | outermost
    with_it = learning(unetpp(skips="ensemble", supervised=True)) - {"1", "2"}
    assert with_it == encoder | outermost | inner


def test_short_skips_teach_the_inner_decoders_without_deep_supervision():
    for skips in ("aggregated", "nested"):
        assert {"0_1", "0_2", "1_1"} <= learning(unetpp(skips=skips, supervised=False))


def test_channels_read_are_those_of_the_skips():
    # X(0, 2) of 4 channels reads X(0, 0) and X(0, 1), one of them, and the 8 of X(1, 1)
    read = {
        skips: unetpp(skips=skips).bank("a").nodes["0_2"].first.weight.shape[1]
        for skips in ("nested", "ensemble", "aggregated")
    }
    assert read == {"nested": 16, "ensemble": 12, "aggregated": 12}


def test_without_deep_supervision_there_is_one_head_and_no_level():
    net = unetpp(supervised=False)
    assert [*net.bank("a").heads] == ["3"]
    assert net.levels("a") == 0
    with pytest.raises(ValueError, match="level 1 asked of a network that has 0"):
        net.answer(torch.randn(1, 1, 16, 16, 16), "a", 1)


def test_separable_nodes_of_two_domains_share_one_trunk_that_answers_at_every_level():
    net = unetpp(block="separable", base_channels=4)
    shallow = BankShape(channels=2, classes=3, strides=(FULL, FLAT), kernels=(SLICE, CUBE))
    net.add_bank("b", shallow)
    assert all(weight.ndim == 2 for weight in net.trunk.parameters())
    assert {name.split(".")[2] for name in net.learning("b") if name.startswith("trunk.")} == {
        "0_0", "1_0", "0_1",
    }  # fmt: skip
    assert (net.levels("a"), net.levels("b")) == (3, 1)


def test_heads_begin_with_the_variance_of_he():
    torch.manual_seed(0)
    net = unetpp(2, classes=64, base_channels=32)
    assert net.bank("a").heads["1"].weight.std().item() == pytest.approx(math.sqrt(2 / 32), rel=0.1)
