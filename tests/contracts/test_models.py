"""What every network promises, whatever its family, its blocks and its domains look like."""

from __future__ import annotations

import pytest
import torch

from u2net3d import store
from u2net3d.infer import openvino_engine
from u2net3d.infer.engines import Engines
from u2net3d.models import FAMILIES, network
from u2net3d.models.blocks import BLOCKS
from u2net3d.models.network import BankShape, changing
from u2net3d.models.reference_units import UNITS
from u2net3d.spec import PRESETS, Design, DomainSpec, ModelSpec, Plan, ZScoreNormalisation

FULL, HALF, FLAT = (1, 1, 1), (2, 2, 2), (1, 2, 2)
CUBE, SLICE = (3, 3, 3), (1, 3, 3)
SMALL = {"base_channels": 4, "stages": 4}

# Every family with every type of block; a new family is in here without a line of its own.
MODELS = {
    **{
        f"preset {name}": PRESETS[name].model_copy(update={"stages": 4})
        for name in ("tiny", "base", "large")
    },
    **{
        f"reference, {adapter}": ModelSpec(
            family="reference", options={"adapter": adapter}, **SMALL
        )
        for adapter in UNITS
    },
    **{
        f"{family}, {block}": ModelSpec(family=family, options={"block": block}, **SMALL)
        for family in FAMILIES
        if family != "reference"  # which is as published; there the adapter says what a unit is
        for block in BLOCKS
    },
    "unetpp, batch norm": ModelSpec(family="unetpp", options={"norm": "batch"}, **SMALL),
    "unetpp, ensemble": ModelSpec(family="unetpp", options={"skips": "ensemble"}, **SMALL),
    "unetpp, aggregated": ModelSpec(family="unetpp", options={"skips": "aggregated"}, **SMALL),
}

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


def made(model, shape):
    """A network with banks `old` and `new`, whose biases behind norms say something.

    With biases of 0 a later norm takes away what the weight of an earlier one does.
    """
    torch.manual_seed(0)
    net = network(model)
    net.add_bank("old", OTHER)
    net.add_bank("new", shape)
    for name, bias in net.named_parameters():
        if name.endswith("bias") and bias.requires_grad:
            torch.nn.init.normal_(bias)
    return net.train()


@pytest.fixture(params=[(model, domain) for model in MODELS for domain in DOMAINS], ids=": ".join)
def case(request):
    """(network with banks `old` and `new`, shape of `new`, image (2, C, D, H, W) for it)."""
    model, domain = request.param
    shape, size = DOMAINS[domain]
    net = made(MODELS[model], shape)
    return net, shape, torch.randn(2, shape.channels, *size)


@pytest.fixture
def spec_for():
    """spec_for(name, shape, size): the specification of a domain with such a bank and patch."""

    def make(name, shape, size):
        plan = Plan(
            spacing_mm=(1, 1, 1),
            normalisation=(ZScoreNormalisation(),) * shape.channels,
            patch_size=size,
            batch_size=1,
            strides=shape.strides,
            kernels=shape.kernels,
        )
        channels = tuple(f"channel {i}" for i in range(shape.channels))
        labels = tuple(f"label {i}" for i in range(shape.classes))
        return DomainSpec(name=name, channels=channels, labels=labels, plan=plan)

    return make


def loss_of(outputs):
    return sum((output * torch.linspace(-1, 1, output[0].numel()).view_as(output[0])).mean()
               for output in outputs)  # fmt: skip


def reached(net):
    return {name for name, weight in net.named_parameters() if weight.grad is not None}


def test_gradients_reach_what_should_learn_and_nothing_else(case):
    net, _, x = case
    loss_of(net(x, "new")).backward()
    assert reached(net) == net.learning("new")
    weights = dict(net.named_parameters())
    silent = [
        name
        for name in reached(net)
        if not (weights[name].grad.isfinite().all() and weights[name].grad.abs().sum() > 0)
    ]
    assert not silent


def test_what_learns_in_a_trunk_are_the_stages_of_the_domain():
    net = made(MODELS["universal, separable"], DOMAINS["shallow"][0])
    stages = ("encoder.0.0", "encoder.0.1", "encoder.1.0", "encoder.1.1", "down.0", "up.0")
    parts = {f"trunk.{part}.weight" for part in (*stages, "decoder.0.0", "decoder.0.1")}
    bank = {name for name, _ in net.named_parameters() if name.startswith("banks.new.")}
    assert net.learning("new") == bank | parts


def test_with_a_frozen_trunk_gradients_reach_the_bank_alone(case):
    net, _, x = case
    net.freeze_trunk()
    loss_of(net.train()(x, "new")).backward()
    assert reached(net) == net.learning("new")
    assert all(name.startswith("banks.new.") for name in reached(net))


def test_an_answer_is_a_list_full_resolution_first(case):
    net, shape, x = case
    outputs, (answer,) = net.train()(x, "new"), net.eval()(x, "new")
    sizes, coarser = [tuple(x.shape[2:])], tuple(x.shape[2:])
    for stride in shape.strides:
        coarser = tuple(-(-n // s) for n, s in zip(coarser, stride, strict=True))
        sizes.append(coarser)
    assert outputs[0].shape == answer.shape == (2, shape.classes, *x.shape[2:])
    order = [sizes.index(tuple(output.shape[2:])) for output in outputs]
    assert order == sorted(order)
    if net.model.family == "universal":
        below = sizes[2 + net.model.design.first_stage : -1]
        assert [tuple(output.shape[2:]) for output in outputs] == [sizes[0], *below]


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


def test_weights_survive_the_model_folder(case, tmp_path, spec_for):
    net, shape, x = case
    with torch.no_grad():
        net(x, "new")  # statistics of an image, where a norm keeps any
    specs = {"old": spec_for("old", OTHER, (8, 8, 8))}
    specs["new"] = spec_for("new", shape, tuple(x.shape[2:]))
    store.save_model(tmp_path, net, net.model, specs, {})
    assert not store.verify(tmp_path)
    copy, model, found = store.load(tmp_path)
    assert (model, found) == (net.model, specs)
    with torch.no_grad():
        assert torch.equal(copy(x, "new")[0], net.eval()(x, "new")[0])


def test_a_training_brings_back_all_that_it_changed(case):
    net, _, x = case
    kept = {name: tensor.clone() for name, tensor in changing(net).items()}
    with torch.no_grad():
        before = net.eval()(x, "new")[0]
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1)
    loss_of(net.train()(x, "new")).backward()
    optimiser.step()
    net.load_state_dict(kept, strict=False)
    with torch.no_grad():
        assert torch.equal(net.eval()(x, "new")[0], before)


def test_the_deepest_level_is_the_answer_itself_and_others_there_are_not(case):
    net, _, x = case
    count = net.eval().levels("new")
    with torch.no_grad():
        if count:
            assert torch.equal(net.answer(x, "new", count), net(x, "new")[0])
        with pytest.raises(ValueError, match="level"):
            net.answer(x, "new", count + 1)
        with pytest.raises(ValueError, match="level"):
            net.answer(x, "new", 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_choice_that_a_family_does_not_know_is_refused(family):
    with pytest.raises(ValueError, match="nonsense"):
        network(ModelSpec(family=family, options={"nonsense": 1}))
    if family != "universal":
        with pytest.raises(ValueError, match="design"):
            network(ModelSpec(family=family, design=Design(residual=False)))


@pytest.mark.skipif(
    openvino_engine.installed() is None, reason="needs openvino: pip install u2net3d[cpu]"
)
@pytest.mark.parametrize("model", MODELS)
def test_openvino_gives_the_same_logits(model, spec_for):
    shape, size = DOMAINS["thick slices, odd sizes"]
    net = made(MODELS[model], shape).eval()
    for weight in net.parameters():
        if weight.ndim == 1:  # norms and biases that say something
            torch.nn.init.normal_(weight, std=0.5)
    spec = spec_for("new", shape, size)
    engines = Engines("openvino", "cpu", lambda: net, None)
    for level in [None, *range(1, net.levels("new") + 1)]:
        name = engines.name(spec, "", "", level)
        assert (name, engines.note(spec, level)) == ("openvino", None)
