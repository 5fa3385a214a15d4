"""Muon: which weights it moves, how far, and that it can be taken up again."""

from __future__ import annotations

import copy

import pytest
import torch

from u2net3d.models.network import BankShape
from u2net3d.models.units import UnitBank
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import TrainSpec
from u2net3d.train.optimiser import WIDEST, Muon, optimiser_for, orthogonalised

SHAPE = BankShape(channels=1, classes=2, strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3),) * 2)


def net(base_channels=4):
    torch.manual_seed(0)
    made = UniversalNet(base_channels, 2)
    made.add_bank("a", SHAPE)
    made.add_bank("b", SHAPE)
    return made


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 9), (1, 12, 5)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
    assert 0.6 < values.min() <= values.max() < 1.3


def test_a_matrix_is_turned_the_same_way_alone_and_in_a_batch():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 6)
    torch.testing.assert_close(orthogonalised(x)[1:2], orthogonalised(x[1:2]))


def test_the_first_step_of_a_diagonal_matrix_by_hand():
    # Momentum and Nesterov leave the direction of the first gradient as it is: 1 on the diagonal.
    matrix = torch.nn.Parameter(torch.zeros(2, 2))
    matrix.grad = torch.diag(torch.tensor([5.0, 5.0]))
    Muon([matrix], [(2.0, [matrix])], rate=0.1, decay=0.0).step()
    diagonal = matrix.detach().diagonal()
    assert torch.equal(matrix.detach(), torch.diag(diagonal))
    assert ((diagonal < -0.12) & (diagonal > -0.26)).all()  # 2 x rate, times about 0.7 to 1.2


def test_the_first_step_of_depthwise_kernels_by_hand():
    # Two kernels that see one voxel each: the matrix (2, 27) of the gradient has two rows at right
    # angles, so each row moves by its rate along itself, however small its gradient.
    kernels = torch.nn.Parameter(torch.zeros(2, 1, 3, 3, 3))
    kernels.grad = torch.zeros(2, 1, 3, 3, 3)
    kernels.grad[0, 0, 0, 0, 0], kernels.grad[1, 0, 2, 2, 2] = 5.0, 4.0
    Muon([kernels], [(6.0, [kernels])], rate=0.1, decay=0.0).step()
    moved = kernels.detach().nonzero().tolist()
    assert moved == [[0, 0, 0, 0, 0], [1, 0, 2, 2, 2]]
    values = kernels.detach()[kernels.detach() != 0]
    assert ((values < -0.36) & (values > -0.78)).all()  # 6 x rate, times about 0.7 to 1.2


def test_with_a_kernel_rate_all_but_matrices_and_depthwise_kernels_moves_as_adamw_would():
    ours, theirs = net(), net()
    muon = optimiser_for(ours, TrainSpec(kernel_rate=6))
    adamw = optimiser_for(theirs, TrainSpec(optimiser="adamw"))
    kernels = {id(part.weight) for part in ours.modules() if isinstance(part, UnitBank)}
    for made, optimiser in ((ours, muon), (theirs, adamw)):
        torch.manual_seed(1)
        for weight in made.parameters():
            weight.grad = torch.randn_like(weight)
        optimiser.step()
    assert kernels
    pairs = zip(ours.named_parameters(), theirs.named_parameters(), strict=True)
    for (name, one), (_, other) in pairs:
        turned = name.startswith("trunk.") or id(one) in kernels
        assert torch.equal(one, other) != turned, name


def test_all_but_the_matrices_moves_as_adamw_would_bit_for_bit():
    ours, theirs = net(), net()
    spec = TrainSpec(weight_decay=0.1)
    muon = optimiser_for(ours, spec)
    adamw = optimiser_for(theirs, spec.model_copy(update={"optimiser": "adamw"}))
    for made, optimiser in ((ours, muon), (theirs, adamw)):
        torch.manual_seed(1)
        for weight in made.parameters():
            weight.grad = torch.randn_like(weight)
        optimiser.step()
    pairs = zip(ours.named_parameters(), theirs.named_parameters(), strict=True)
    for (name, one), (_, other) in pairs:
        assert torch.equal(one, other) != name.startswith("trunk."), name


def test_in_adam_the_decay_is_part_of_the_gradient_and_in_adamw_it_is_not():
    # the first step of Adam is its rate along the sign: of 0 + 0.1 * weight, all weights move 0.01
    spec = TrainSpec(learning_rate=0.01, weight_decay=0.1, optimiser="adam")
    moves = {}
    for name in ("adam", "adamw"):
        made = net()
        optimiser = optimiser_for(made, spec.model_copy(update={"optimiser": name}))
        before = [weight.clone() for weight in made.trunk.parameters()]
        for weight in made.parameters():
            weight.grad = torch.zeros_like(weight)
        optimiser.step()
        pairs = zip(made.trunk.parameters(), before, strict=True)
        moves[name] = [(old - new, old) for new, old in pairs]
    for moved, weight in moves["adam"]:
        torch.testing.assert_close(moved, 0.01 * weight.sign(), atol=1e-6, rtol=1e-3)
    for moved, weight in moves["adamw"]:
        torch.testing.assert_close(moved, 0.01 * 0.1 * weight, atol=1e-6, rtol=1e-3)


def test_what_has_no_gradient_stays_as_it_is():
    made = net()
    before = {name: weight.clone() for name, weight in made.named_parameters()}
    optimiser = optimiser_for(made, TrainSpec())
    for _ in range(2):
        optimiser.zero_grad(set_to_none=True)
        sum(y.square().mean() for y in made.train()(torch.randn(1, 1, 8, 8, 8), "a")).backward()
        optimiser.step()
    moved = {
        name for name, weight in made.named_parameters() if not torch.equal(weight, before[name])
    }
    assert not any(name.startswith("banks.b.") for name in moved)
    assert any(name.startswith("trunk.") for name in moved)


def test_a_frozen_trunk_leaves_adamw_and_the_kernels():
    made = net()
    made.freeze_trunk()
    assert len(optimiser_for(made, TrainSpec()).param_groups) == 1
    assert len(optimiser_for(made, TrainSpec(kernel_rate=6)).param_groups) == 2


def test_wide_matrices_are_left_to_adamw():
    made = net(base_channels=WIDEST // 2 + 1)
    wide = max(made.trunk.parameters(), key=lambda weight: max(weight.shape))
    groups = optimiser_for(made, TrainSpec()).param_groups
    assert [any(wide is weight for weight in group["params"]) for group in groups] == [True, False]


@pytest.mark.parametrize("kernel_rate", [0, 6])
def test_a_state_that_was_saved_goes_on_bit_for_bit(kernel_rate):
    one, other = net(), net()
    spec = TrainSpec(kernel_rate=kernel_rate)
    first, second = (optimiser_for(made, spec) for made in (one, other))

    def step(made, optimiser, seed):
        torch.manual_seed(seed)
        for weight in made.parameters():
            weight.grad = torch.randn_like(weight)
        optimiser.step()

    step(one, first, 1)
    other.load_state_dict(one.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for made, optimiser in ((one, first), (other, second)):
        step(made, optimiser, 2)
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
