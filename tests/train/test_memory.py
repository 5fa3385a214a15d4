"""The memory that a training is expected to need: of every preset, not of our own network alone."""

from __future__ import annotations

import pytest
import torch

from u2net3d.models import FAMILIES, network
from u2net3d.models.network import BankShape
from u2net3d.prep.plan import RUNTIME_BYTES
from u2net3d.spec import PRESETS, DomainSpec, Plan, ZScoreNormalisation
from u2net3d.train.memory import expected_gib, kept_bytes
from u2net3d.train.roles import Learner

FULL, HALF, CUBE = (1, 1, 1), (2, 2, 2), (3, 3, 3)


def spec_for(model, edge=8, batch=1):
    plan = Plan(
        spacing_mm=(1, 1, 1),
        normalisation=(ZScoreNormalisation(),),
        patch_size=(edge,) * 3,
        batch_size=batch,
        strides=(FULL, HALF),
        kernels=(CUBE, CUBE),
    )
    margin = FAMILIES[model.family].margin(model, plan)
    plan = plan.model_copy(update={"margin": margin})
    return DomainSpec(name="a", channels=("MR",), labels=("background", "ball"), plan=plan)


def expected_bytes(model, **plan):
    spec = spec_for(model, **plan)
    return expected_gib([Learner(spec, None, None, ())], model) * 2**30


@pytest.fixture(params=[name for name, model in PRESETS.items() if model.family != "universal"])
def preset(request):
    """A preset of another family, narrow and of two stages."""
    return PRESETS[request.param].model_copy(update={"base_channels": 4, "stages": 2})


def test_what_is_counted_on_shapes_alone_is_what_a_step_keeps(preset):
    spec = spec_for(preset)
    found = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            net = network(preset)
            net.add_bank("a", BankShape.of(spec))
            found.append(sum(kept_bytes(net, "a", torch.zeros(1, 1, *spec.plan.seen))))
    counted, kept = found
    assert counted == pytest.approx(kept, rel=0.05)
    assert kept > 4 * 4 * 8**3  # the features of the finest stage, and more


def test_a_larger_step_is_expected_to_need_more(preset):
    usual = expected_bytes(preset)
    assert usual > RUNTIME_BYTES
    assert expected_bytes(preset, batch=2) > usual
    assert expected_bytes(preset, edge=16) > usual
    assert expected_bytes(preset.model_copy(update={"base_channels": 8})) > usual
