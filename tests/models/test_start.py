"""A new bank's first weights, taken from the banks that are there."""

from __future__ import annotations

import torch

from u2net3d.models.banks import Bank, BankShape
from u2net3d.models.start import start_from
from u2net3d.models.units import UnitBank

FULL, HALF = (1, 1, 1), (2, 2, 2)
CUBE, SLICE = (3, 3, 3), (1, 3, 3)


def bank(kernel=CUBE, stages=2, channels=1, classes=2, base=2):
    shape = BankShape(
        channels=channels,
        classes=classes,
        strides=(FULL, *[HALF] * (stages - 1)),
        kernels=(kernel,) * stages,
    )
    return Bank(shape, base)


def filled(value, **kwargs):
    one = bank(**kwargs)
    with torch.no_grad():
        for weight in one.parameters():
            weight.fill_(value)
    return one


def units(one):
    """Names and weights of a bank's units: all but stem and heads."""
    return {
        f"{name}.{part}": weight
        for name, module in one.named_modules()
        if isinstance(module, UnitBank)
        for part, weight in module.named_parameters()
    }


def test_every_weight_of_the_units_is_the_mean_over_the_banks():
    new = bank()
    taken = start_from(new, [filled(1.0), filled(4.0)])
    assert taken == new.adapters()
    assert all((weight == 2.5).all() for weight in units(new).values())


def test_one_bank_alone_is_copied_bit_for_bit_and_not_shared():
    new, other = bank(), bank()
    start_from(new, [other])
    for name, weight in units(other).items():
        assert torch.equal(units(new)[name], weight)
        assert units(new)[name].data_ptr() != weight.data_ptr()


def test_stem_and_heads_stay_as_they_were_drawn():
    new = bank()
    before = {name: weight.clone() for name, weight in new.named_parameters()}
    start_from(new, [filled(1.0)])
    fresh = before.keys() - units(new).keys()
    assert {name.split(".")[0] for name in fresh} == {"stem", "heads"}
    assert all(torch.equal(new.get_parameter(name), before[name]) for name in fresh)


def test_other_channels_and_classes_do_not_matter():
    new = bank(channels=4, classes=5)
    start_from(new, [filled(1.0, channels=1, classes=2)])
    assert all((weight == 1).all() for weight in units(new).values())


def test_a_flat_kernel_takes_the_centre_slice_of_a_deep_one():
    deep, flat = bank(CUBE), bank(SLICE)
    start_from(flat, [deep])
    given, taken = deep.encoder[1][0].weight, flat.encoder[1][0].weight
    assert taken.shape[2:] == SLICE
    assert torch.equal(taken, given[:, :, 1:2])


def test_a_deep_kernel_takes_a_flat_one_as_its_centre_slice():
    flat, deep = bank(SLICE), bank(CUBE)
    start_from(deep, [flat])
    given, taken = flat.down[0].weight, deep.down[0].weight
    assert taken.shape[2:] == CUBE
    assert torch.equal(taken[:, :, 1:2], given)
    assert (taken[:, :, [0, 2]] == 0).all()


def test_stages_that_no_other_bank_has_stay_fresh():
    new = bank(stages=3)
    before = {name: weight.clone() for name, weight in new.named_parameters()}
    taken = start_from(new, [filled(1.0, stages=2)])
    changed = {name for name, weight in new.named_parameters() if (weight == 1).all()}
    assert taken == bank(stages=2).adapters()
    deep = {
        name for name in before if name.startswith(("encoder.2", "down.1", "up.1", "decoder.1"))
    }
    assert deep
    assert all(torch.equal(new.get_parameter(name), before[name]) for name in deep)
    assert {"encoder.1.0.weight", "down.0.weight"} <= changed


def test_the_mean_is_over_those_that_hold_the_tensor():
    new = bank(stages=3)
    start_from(new, [filled(1.0, stages=2), filled(3.0, stages=3)])
    assert (new.encoder[0][0].weight == 2).all()
    assert (new.encoder[2][0].weight == 3).all()


def test_without_other_banks_nothing_is_taken():
    new = bank()
    before = {name: weight.clone() for name, weight in new.named_parameters()}
    assert start_from(new, []) == 0
    assert all(torch.equal(weight, before[name]) for name, weight in new.named_parameters())


def test_the_start_can_be_trained():
    new = bank()
    start_from(new, [bank()])
    assert all(weight.requires_grad and weight.is_leaf for weight in new.parameters())
