"""Weights and multiply-adds of networks, by hand and against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from u2net3d.models import FAMILIES, network
from u2net3d.models.count import convolutions, cost, separable_share
from u2net3d.models.network import BankShape
from u2net3d.spec import PRESETS, ModelSpec, Plan, ZScoreNormalisation

FULL, HALF, FLAT = (1, 1, 1), (2, 2, 2), (1, 2, 2)
CUBE, SLICE = (3, 3, 3), (1, 3, 3)
SHAPE = BankShape(
    channels=2, classes=3, strides=(FULL, FLAT, HALF, HALF), kernels=(SLICE, CUBE, CUBE, CUBE)
)


def test_a_small_net_by_hand():
    net = nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1),  # 8 voxels x 27 x 2 x 4
        nn.Conv3d(4, 4, 3, padding=1, groups=4),  # 8 x 27 x 4
        nn.Conv3d(4, 6, 1),  # 8 x 4 x 6
        nn.ConvTranspose3d(6, 5, 2, 2),  # 8 x 8 x 6 x 5
    )
    found = convolutions(net, torch.zeros(1, 2, 2, 2, 2))
    expected = [
        ("dense", 1728),
        ("depthwise", 864),
        ("pointwise", 192),
        ("dense", 1920),
    ]
    assert [(one.kind, one.multiply_adds) for one in found] == expected
    share = separable_share(found)
    assert share.multiply_adds == 864 + 192
    assert share.dense_multiply_adds == 8 * 27 * 4 * 6
    assert share.ratio == pytest.approx(share.analytic) == pytest.approx(1 / 6 + 1 / 27)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_counted_as_torch_counts_it(preset):
    model = PRESETS[preset].model_copy(update={"stages": 4, "base_channels": 4})
    plan = Plan(
        spacing_mm=(1, 1, 1), normalisation=(ZScoreNormalisation(),) * 2, patch_size=(8, 16, 16),
        batch_size=1, strides=SHAPE.strides, kernels=SHAPE.kernels,
    )  # fmt: skip
    plan = plan.model_copy(update={"margin": FAMILIES[model.family].margin(model, plan)})
    found = cost(model, SHAPE, plan.seen)
    net = network(model)
    bank = net.add_bank("domain", SHAPE)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        net.double().eval()(torch.zeros(1, 2, *plan.seen, dtype=torch.float64), "domain")
    assert counted.get_total_flops() == 2 * found.multiply_adds
    assert found.bank_weights == sum(weight.numel() for weight in bank.parameters())
    assert found.trunk_weights == sum(weight.numel() for weight in net.trunk.parameters())
    assert 0 <= found.pointwise_share < 1


def test_the_published_preset_has_the_weights_of_the_reference():
    shape = BankShape(channels=1, classes=2, strides=(FULL, *(HALF,) * 5), kernels=(CUBE,) * 6)
    found = cost(ModelSpec(), shape, (64, 64, 64))
    assert (found.trunk_weights, found.adapters) == (1_309_952, 153_760)
    assert found.separable is not None
    assert found.separable.ratio == pytest.approx(found.separable.analytic, rel=1e-12)


def test_one_slice_of_the_finest_stage_by_hand():
    # base 4, two stages, 8^3 voxels: stem, two units and a strided one; see DESIGN of `paper`
    shape = BankShape(channels=1, classes=2, strides=(FULL, HALF), kernels=(CUBE, CUBE))
    found = cost(ModelSpec(base_channels=4, stages=2), shape, (8, 8, 8))
    fine, coarse = 512, 64
    depthwise = 27 * (fine * (4 + 4 + 8 + 8 + 4) + coarse * (4 + 8 + 8))
    pointwise = fine * (16 + 16 + 32 + 32 + 16) + coarse * (32 + 64 + 64) + fine * 4 * 2
    assert found.by_kind == {
        "pointwise": pointwise,
        "depthwise": depthwise,
        "dense": fine * 27 * 4,
    }


def test_a_dense_net_has_no_separable_share():
    assert separable_share(convolutions(nn.Conv3d(2, 4, 3), torch.zeros(1, 2, 4, 4, 4))) is None
