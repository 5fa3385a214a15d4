"""A new bank's first weights, taken from the banks that are there."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv3d

from u2net3d.models import network
from u2net3d.models.banks import UniversalBank
from u2net3d.models.network import BankShape
from u2net3d.models.start import copy_ends, start_from
from u2net3d.models.units import UnitBank
from u2net3d.spec import DomainSpec, ModelSpec, Plan, ZScoreNormalisation

FULL, HALF = (1, 1, 1), (2, 2, 2)
CUBE, SLICE = (3, 3, 3), (1, 3, 3)


def bank(kernel=CUBE, stages=2, channels=1, classes=2, base=2):
    shape = BankShape(
        channels=channels,
        classes=classes,
        strides=(FULL, *[HALF] * (stages - 1)),
        kernels=(kernel,) * stages,
    )
    return UniversalBank(shape, base)


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


def test_a_flat_kernel_answers_alike_slices_as_the_deep_one_that_it_starts_from():
    deep, flat = bank(CUBE), bank(SLICE)
    start_from(flat, [deep])
    given, taken = deep.encoder[1][0].weight, flat.encoder[1][0].weight
    assert taken.shape[2:] == SLICE
    alike = torch.randn(1, len(given), 1, 6, 6).expand(-1, -1, 5, -1, -1)
    answers = [conv3d(alike, weight, groups=len(given)) for weight in (given, taken)]
    torch.testing.assert_close(answers[0][:, :, 0], answers[1][:, :, 2])


def test_a_deep_kernel_takes_a_flat_one_as_its_centre_slice():
    flat, deep = bank(SLICE), bank(CUBE)
    start_from(deep, [flat])
    given, taken = flat.down[0].weight, deep.down[0].weight
    assert taken.shape[2:] == CUBE
    assert torch.equal(taken[:, :, 1:2], given)
    assert (taken[:, :, [0, 2]] == 0).all()


def test_the_mean_over_flat_and_deep_kernels_has_each_in_the_shape_of_the_new_one():
    flat, deep = bank(SLICE), bank(CUBE)
    start_from(new_flat := bank(SLICE), [flat, deep])
    start_from(new_deep := bank(CUBE), [flat, deep])
    thin, thick = flat.encoder[1][0].weight, deep.encoder[1][0].weight
    summed = thick.sum(2, keepdim=True)
    torch.testing.assert_close(new_flat.encoder[1][0].weight, (thin + summed) / 2)
    around = torch.nn.functional.pad(thin, (0, 0, 0, 0, 1, 1))
    torch.testing.assert_close(new_deep.encoder[1][0].weight, (around + thick) / 2)


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


def spec(labels, channels=("MR",)):
    plan = Plan(
        spacing_mm=(1, 1, 1),
        normalisation=(ZScoreNormalisation(),) * len(channels),
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=(FULL, HALF),
        kernels=(CUBE, CUBE),
    )
    return DomainSpec(name="a", channels=channels, labels=labels, plan=plan)


def test_heads_of_labels_of_one_name_are_taken_and_the_others_stay():
    new, other = bank(classes=4), bank(classes=3)
    before = new.heads[0].weight.clone()
    copy_ends(
        new,
        spec(("background", "Kidney", "cyst", "liver")),
        other,
        spec(("clear", "liver", "kidney ")),
    )
    taken, given = new.heads[0], other.heads[0]
    assert torch.equal(taken.weight[[0, 3, 1]], given.weight)
    assert torch.equal(taken.bias[[0, 3, 1]], given.bias)
    assert torch.equal(taken.weight[2], before[2])


def test_the_stem_is_taken_where_the_channels_are_the_same():
    two = ("T1", "T2")
    labels = ("background", "organ")
    for channels, same in ((two, True), (("t1", "T2 "), True), (("T2", "T1"), False)):
        new, other = bank(channels=2), bank(channels=2)
        copy_ends(new, spec(labels, channels), other, spec(labels, two))
        assert torch.equal(new.stem.weight, other.stem.weight) is same
        assert torch.equal(new.stem.norm.weight, other.stem.norm.weight)


def test_a_flat_stem_takes_the_sum_of_the_slices_of_a_deep_one():
    flat, deep = bank(SLICE), bank(CUBE)
    labels = spec(("background", "organ"))
    copy_ends(flat, labels, deep, labels)
    assert torch.equal(flat.stem.weight, deep.stem.weight.sum(2, keepdim=True))


def test_units_and_ends_of_the_same_domain_are_the_whole_bank():
    new, other = bank(stages=3, classes=3), bank(stages=3, classes=3)
    labels = spec(("background", "one", "two"))
    taken = start_from(new, [other]) + copy_ends(new, labels, other, labels)
    assert taken == sum(weight.numel() for weight in new.parameters())
    assert all(torch.equal(new.get_parameter(n), weight) for n, weight in other.named_parameters())


def test_heads_of_levels_that_the_other_has_not_stay_fresh():
    new, other = bank(stages=3), bank(stages=2)
    before = new.heads[1].weight.clone()
    labels = spec(("background", "organ"))
    copy_ends(new, labels, other, labels)
    assert torch.equal(new.heads[0].weight, other.heads[0].weight)
    assert torch.equal(new.heads[1].weight, before)


@pytest.mark.parametrize("family", ["unet", "unetpp"])
def test_a_bank_that_is_a_whole_network_is_taken_up_whole(family):
    options = {"norm": "batch"}
    net = network(ModelSpec(family=family, base_channels=2, stages=2, options=options))
    shape = BankShape(channels=1, classes=2, strides=(FULL, HALF), kernels=(CUBE, CUBE))
    new, other = net.make_bank(shape), net.make_bank(shape)
    for tensor in other.state_dict().values():
        tensor.uniform_(1, 2)
    labels = spec(("background", "organ"))
    taken = start_from(new, [other]) + copy_ends(new, labels, other, labels)
    assert taken == sum(tensor.numel() for tensor in new.state_dict().values())
    assert all(
        torch.equal(tensor, other.state_dict()[name]) for name, tensor in new.state_dict().items()
    )
