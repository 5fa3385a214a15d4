"""The universal network: what it counts, gives back, shares and keeps apart."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from u2net3d.models.network import BankShape
from u2net3d.models.units import Head, Pointwise, Stem, UnitBank
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import RESERVED_NAMES

HALF, CUBE = (2, 2, 2), (3, 3, 3)


def isotropic(stages, channels=1, classes=2):
    strides = ((1, 1, 1), *[HALF] * (stages - 1))
    return BankShape(channels=channels, classes=classes, strides=strides, kernels=(CUBE,) * stages)


THICK = BankShape(
    channels=2,
    classes=3,
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (1, 3, 3), CUBE, CUBE),
)


def small(*shapes, base=4, stages=4):
    """A narrow network with a bank per shape, named a, b, ..."""
    torch.manual_seed(0)
    net = UniversalNet(base, stages)
    for name, shape in zip("abcdef", shapes, strict=False):
        net.add_bank(name, shape)
    return net


def image(shape, channels=1, batch=1, seed=1):
    return torch.randn(batch, channels, *shape, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def bits(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before, module):
    after = module.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def step(net, optimiser, domain, x):
    optimiser.zero_grad()
    loss = sum(output.square().mean() for output in net(x, domain))
    loss.backward()
    optimiser.step()


@pytest.mark.parametrize(
    ("stages", "trunk", "bank"),
    [(6, 1_309_952, 153_760), (5, 326_912, 74_912), (4, 81_152, 35_488)],
)
def test_the_paper_preset_counts_as_the_design_says(stages, trunk, bank):
    net = UniversalNet(base_channels=16, stages=stages)
    assert count(net.trunk) == trunk
    assert net.add_bank("liver", isotropic(stages)).adapters() == bank


def test_a_bank_is_its_adapters_stem_and_heads():
    # Stem: 2 x 16 x 27 + 2 x 16; heads: 3 classes from 16 ... 256 channels, with bias.
    bank = UniversalNet(16, 6).add_bank("prostate", isotropic(6, channels=2, classes=3))
    stem, heads = 2 * 16 * 27 + 2 * 16, 3 * (16 + 32 + 64 + 128 + 256) + 5 * 3
    assert (count(bank.stem), count(bank.heads)) == (stem, heads)
    assert count(bank) == 153_760 + stem + heads


def test_training_gives_every_level_full_resolution_first():
    net = small(isotropic(4, classes=3)).train()
    outputs = net(image((16, 24, 8)), "a")
    shapes = [tuple(output.shape) for output in outputs]
    assert isinstance(outputs, list)
    assert shapes == [(1, 3, 16, 24, 8), (1, 3, 8, 12, 4), (1, 3, 4, 6, 2)]


def test_eval_gives_a_list_of_one_the_same_as_in_training():
    net = small(isotropic(4))
    x = image((16, 16, 16), batch=2)
    with torch.no_grad():
        first = net.train()(x, "a")[0]
        outputs = net.eval()(x, "a")
    assert isinstance(outputs, list)
    assert len(outputs) == 1
    assert torch.equal(outputs[0], first)


@pytest.mark.parametrize("shape", [(8, 96, 80), (7, 33, 45), (5, 8, 9)])
def test_thick_slices_and_odd_sizes_come_back_in_their_own_size(shape):
    net = small(THICK).train()
    d, h, w = shape
    outputs = net(image(shape, channels=2), "a")
    assert tuple(outputs[0].shape) == (1, 3, d, h, w)
    assert tuple(outputs[1].shape[2:]) == (d, -(-h // 2), -(-w // 2))
    assert tuple(outputs[2].shape[2:]) == (d, -(-h // 4), -(-w // 4))


@pytest.mark.parametrize("shape", [(9, 11, 13), (1, 7, 5), (3, 3, 3)])
def test_odd_sizes_come_back_in_their_own_size(shape):
    net = small(isotropic(4)).eval()
    assert tuple(net(image(shape), "a")[0].shape[2:]) == shape


def test_a_sample_is_answered_alike_alone_and_in_a_batch():
    net, x = small(isotropic(3)).eval(), image((8, 9, 10), batch=3)
    with torch.no_grad():
        together = net(x, "a")[0]
        alone = torch.cat([net(sample[None], "a")[0] for sample in x])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def optimiser_of(kind, net):
    if kind == "adamw":
        return torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    return torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9, weight_decay=0.1)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_step_changes_nothing_that_its_domain_does_not_use(kind):
    net = small(isotropic(4), isotropic(2)).train()
    optimiser = optimiser_of(kind, net)
    for seed in range(2):  # leaves momentum behind in every stage of the trunk
        step(net, optimiser, "a", image((16, 16, 16), seed=seed))
    before = bits(net)
    step(net, optimiser, "b", image((8, 8, 8)))
    parts = ("encoder.0", "encoder.1", "down.0", "up.0", "decoder.0")
    used = tuple(f"trunk.{part}." for part in parts)
    assert all(name.startswith(("banks.b.", *used)) for name in changed(before, net))
    shared = {name for name in changed(before, net) if name.startswith("trunk.")}
    assert len(shared) == 8  # 2 units in 2 encoder stages, 1 down, 1 up, 2 in the decoder


def test_gradients_reach_the_whole_bank_and_the_stages_it_runs_through():
    net = small(isotropic(4), isotropic(3)).train()
    loss = sum(output.square().mean() for output in net(image((12, 12, 12)), "b"))
    loss.backward()
    with_gradient = {name for name, weight in net.named_parameters() if weight.grad is not None}
    bank = {f"banks.b.{name}" for name, _ in net.bank("b").named_parameters()}
    assert bank <= with_gradient
    assert not any(name.startswith("banks.a.") for name in with_gradient)
    deep = ("trunk.encoder.3", "trunk.down.2", "trunk.up.2", "trunk.decoder.2")
    trunk = {name for name, _ in net.named_parameters() if name.startswith("trunk.")}
    assert with_gradient - bank == {name for name in trunk if not name.startswith(deep)}


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_frozen_trunk_keeps_its_bytes_whatever_is_called(kind):
    net = small(isotropic(3)).train()
    optimiser = optimiser_of(kind, net)
    step(net, optimiser, "a", image((8, 8, 8)))
    optimiser.zero_grad()
    net.freeze_trunk()
    before = bits(net.trunk)
    net.add_bank("b", isotropic(3))
    optimiser.add_param_group({"params": list(net.bank("b").parameters())})
    net.eval()
    net.train()
    assert not any(weight.requires_grad for weight in net.trunk.parameters())
    bank = bits(net.bank("b"))
    step(net, optimiser, "b", image((8, 8, 8)))
    assert not changed(before, net.trunk)
    assert changed(bank, net.bank("b"))


def test_each_tensor_is_registered_once():
    net = small(isotropic(4), THICK)
    named = list(net.named_parameters(remove_duplicate=False))
    assert len({id(weight) for _, weight in named}) == len(named)
    assert len({weight.data_ptr() for _, weight in named}) == len(named)
    assert {name for name, _ in named} == set(net.state_dict())


def test_weights_start_as_he_et_al_draw_them():
    torch.manual_seed(0)
    net = UniversalNet(16, 4)
    bank = net.add_bank("a", isotropic(4, channels=4, classes=200))
    fan_in = {
        Pointwise: lambda w: w.shape[1],
        UnitBank: lambda w: math.prod(w.shape[2:]),
        Stem: lambda w: w.shape[1] * 27,
        Head: lambda w: w.shape[1],
    }
    seen = set()
    for module in net.modules():
        if type(module) not in fan_in or module.weight.numel() < 1000:
            continue
        std = math.sqrt(2 / fan_in[type(module)](module.weight))
        assert module.weight.std().item() == pytest.approx(std, rel=0.1)
        assert abs(module.weight.mean().item()) < 0.1 * std
        seen.add(type(module))
    assert seen == set(fan_in)
    assert all(torch.equal(head.bias, torch.zeros(200)) for head in bank.heads)
    assert torch.equal(bank.stem.norm.weight, torch.ones(16))
    assert torch.equal(bank.stem.norm.bias, torch.zeros(16))


def test_adding_a_bank_leaves_the_old_answers_bit_identical():
    net, x = small(isotropic(4)).eval(), image((9, 12, 10))
    with torch.no_grad():
        before, weights = net(x, "a")[0], bits(net)
        net.add_bank("b", THICK)
        assert torch.equal(net(x, "a")[0], before)
    assert not changed(weights, net)
    assert net.domains == ("a", "b")


def test_a_new_bank_is_in_the_mode_of_the_network():
    net = small(isotropic(2)).eval()
    assert not net.add_bank("b", isotropic(2)).stem.training
    assert net.train().add_bank("c", isotropic(2)).stem.training


def test_the_generator_alone_decides_a_bank():
    one, other = small(isotropic(3)), small(isotropic(3))
    assert not changed(bits(one), other)
    torch.manual_seed(1)
    third = copy.deepcopy(one)
    third.add_bank("b", isotropic(3))
    assert changed(bits(third.bank("a")), third.bank("b"))


def test_two_banks_of_one_name_are_refused():
    net = small(isotropic(2))
    with pytest.raises(ValueError, match="a has a bank already"):
        net.add_bank("a", isotropic(2))


def test_a_bank_deeper_than_the_trunk_is_refused():
    net = small(stages=3)
    with pytest.raises(ValueError, match="4 stages asked of a trunk of 3"):
        net.add_bank("a", isotropic(4))
    assert net.domains == ()


def test_a_domain_without_a_bank_is_a_key_error():
    net = small(isotropic(2))
    with pytest.raises(KeyError, match="spleen"):
        net(image((8, 8, 8)), "spleen")


def test_the_shape_of_a_bank_follows_the_specification():
    from u2net3d.spec import DomainSpec, Plan, ZScoreNormalisation

    plan = Plan(
        spacing_mm=(3, 1, 1),
        normalisation=(ZScoreNormalisation(),) * 2,
        patch_size=(8, 96, 80),
        batch_size=2,
        strides=THICK.strides,
        kernels=THICK.kernels,
    )
    labels = ("background", "peripheral", "transition")
    spec = DomainSpec(name="prostate", channels=("T2", "ADC"), labels=labels, plan=plan)
    assert BankShape.of(spec) == THICK
    assert THICK.stages == 4


def test_every_name_that_a_bank_cannot_have_is_reserved():
    taken = {name for name in dir(torch.nn.ModuleDict()) if name.isalnum() and name.islower()}
    assert taken <= RESERVED_NAMES | {name for name in taken if name.startswith("_")}
