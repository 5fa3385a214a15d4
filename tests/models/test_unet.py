"""The U-Net has the published sizes, and without padding answers as in the middle of more."""

from __future__ import annotations

import pytest
import torch

from u2net3d.models import BankShape, network
from u2net3d.models.blocks import BLOCKS, Convolution
from u2net3d.models.unet import UpConvolution
from u2net3d.models.units import Head
from u2net3d.spec import PRESETS, RECIPES, ModelSpec, Plan, ZScoreNormalisation

FULL, HALF, FLAT = (1, 1, 1), (2, 2, 2), (1, 2, 2)
CUBE, SLICE = (3, 3, 3), (1, 3, 3)


def unet(stages, stride=HALF, kernel=CUBE, base_channels=2, **options):
    torch.manual_seed(0)
    given = {"norm": "none", "slope": 0.0, **options}
    model = ModelSpec(family="unet", base_channels=base_channels, stages=stages, options=given)
    net = network(model)
    strides = (FULL, *(stride,) * (stages - 1))
    net.add_bank("a", BankShape(channels=1, classes=2, strides=strides, kernels=(kernel,) * stages))
    return net.eval()


def test_the_sizes_are_those_of_ronneberger():
    net = unet(5, FLAT, SLICE, base_channels=1, padded=False)
    bank, seen = net.bank("a"), {}
    bank.encoder[0].register_forward_hook(lambda _m, _i, out: seen.update(skip=out.x.shape[2:]))
    bank.decoder[0].register_forward_pre_hook(
        lambda _m, given: seen.update(read=[source.x.shape[2:] for source in given[0]])
    )
    with torch.no_grad():
        (answer,) = net(torch.zeros(1, 1, 1, 572, 572), "a")
    assert answer.shape == (1, 2, 1, 388, 388)
    assert seen == {"skip": (1, 568, 568), "read": [(1, 392, 392)] * 2}
    kinds = (Convolution, UpConvolution, Head)
    assert sum(isinstance(module, kinds) for module in net.modules()) == 23


def test_the_sizes_are_those_of_cicek():
    with torch.device("meta"):
        net = unet(4, padded=False)
        (answer,) = net(torch.zeros(1, 1, 132, 132, 116), "a")
    assert answer.shape == (1, 2, 44, 44, 28)


def test_channels_double_on_the_way_down_and_halve_on_the_way_up():
    bank = unet(3, base_channels=4).bank("a")
    assert [block.second.weight.shape[0] for block in bank.encoder] == [4, 8, 16]
    assert [tuple(up.weight.shape[:2]) for up in bank.up] == [(8, 4), (16, 8)]
    assert [block.first.weight.shape[1] for block in bank.decoder] == [8, 16]


def test_without_padding_it_answers_as_the_padded_one_far_from_any_border():
    padded, valid = unet(2), unet(2, padded=False)
    valid.load_state_dict(padded.state_dict())
    x = torch.randn(1, 1, 24, 28, 26)
    with torch.no_grad():
        whole, middle = padded(x, "a")[0], valid(x, "a")[0]
    assert middle.shape == (1, 2, 8, 12, 10)
    torch.testing.assert_close(middle, whole[:, :, 8:-8, 8:-8, 8:-8])


def test_an_image_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="25 voxels along axis 2 have no answer"):
        unet(2, padded=False)(torch.zeros(1, 1, 24, 24, 25), "a")
    with pytest.raises(ValueError, match="16 voxels along axis 0 have no answer"):
        unet(2, padded=False)(torch.zeros(1, 1, 16, 24, 24), "a")


@pytest.mark.parametrize(
    ("patch", "stride", "kernel"),
    [
        ((8, 8, 8), HALF, CUBE),
        ((16, 12, 20), HALF, CUBE),
        ((1, 8, 64), FLAT, SLICE),
        ((3, 4, 8), FLAT, CUBE),
    ],
)
def test_with_its_margin_a_patch_is_answered_whole(patch, stride, kernel):
    net = unet(3, stride, kernel, padded=False)
    strides = (FULL, stride, stride)
    plan = Plan(
        spacing_mm=(1, 1, 1), normalisation=(ZScoreNormalisation(),), patch_size=patch,
        batch_size=1, strides=strides, kernels=(kernel,) * 3,
    )  # fmt: skip
    margin = net.margin(net.model, plan)
    seen = plan.model_copy(update={"margin": margin}).seen
    with torch.no_grad():
        answer = net(torch.zeros(1, 1, *seen), "a")[0].shape[2:]
    more = [found - wanted for found, wanted in zip(answer, patch, strict=True)]
    assert all(n >= 0 and n % 2 == 0 for n in more)
    assert max(more) < 8  # no more than the strides ask for
    if kernel == SLICE:
        assert margin[0] == 0


def test_padded_there_is_no_margin():
    plan = Plan(
        spacing_mm=(1, 1, 1), normalisation=(ZScoreNormalisation(),), patch_size=(8, 8, 8),
        batch_size=1, strides=(FULL, HALF), kernels=(CUBE, CUBE),
    )  # fmt: skip
    net = unet(2)
    assert net.margin(net.model, plan) == (0, 0, 0)


@pytest.mark.parametrize("options", [{"padding": True}, {"block": "separable", "padded": False}])
def test_options_that_there_are_not_are_refused(options):
    with pytest.raises(ValueError, match="padd"):
        network(ModelSpec(family="unet", options=options))


def test_separable_ones_share_their_matrices_and_nothing_else():
    models = {block: ModelSpec(family="unet", options={"block": block}) for block in BLOCKS}
    nets = {block: network(model) for block, model in models.items()}
    shared = {block: [*net.trunk.parameters()] for block, net in nets.items()}
    assert all(weight.ndim == 2 for weight in shared["separable"])
    assert not shared["plain"]
    assert not shared["residual"]


def test_the_published_preset_is_trained_as_published():
    model, recipe = PRESETS["unet-paper"], RECIPES["unet-paper"]
    assert (model.base_channels, model.budget.least_batch, model.budget.most_batch) == (64, 1, 1)
    assert (recipe.optimiser, recipe.loss, recipe.elastic) == ("sgd", "border_ce", True)
    assert recipe.learning_rate / (1 - 0.99) <= 0.1  # what a gradient moves a weight by in the end
