"""What is expected of a domain: counted by hand where it can be, measured without a trace."""

from __future__ import annotations

from math import prod

import pytest
import torch

from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.prep.fingerprint import CaseFacts, Fingerprint, Intensities
from u2net3d.prep.plan import RUNTIME_BYTES
from u2net3d.spec import DomainSpec, Plan, ZScoreNormalisation
from u2net3d.train.estimate import estimate, patch_seconds, step_seconds, tiles_of

CPU = torch.device("cpu")
SPEC = DomainSpec(
    name="liver",
    channels=("MR",),
    labels=("background", "ball"),
    plan=Plan(
        spacing_mm=(1, 1, 1),
        normalisation=(ZScoreNormalisation(),),
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3),) * 2,
    ),
)


def facts(*shapes, kept=1.0):
    cases = [CaseFacts(name="a", shape=s, spacing_mm=(1, 1, 1), kept=kept) for s in shapes]
    values = dict.fromkeys(Intensities.model_fields, 1.0)
    numbers = (Intensities(**values),)
    return Fingerprint(
        domain="liver", channels=("MR",), cases=tuple(cases), intensities=numbers, labels=()
    )


@pytest.mark.parametrize(
    ("shape", "tiles"),
    [((8, 8, 8), 1), ((4, 8, 8), 1), ((12, 8, 8), 2), ((16, 16, 8), 9), ((17, 8, 8), 4)],
)
def test_tiles_are_counted_as_predict_lays_them(shape, tiles):
    assert tiles_of(shape, SPEC) == tiles  # half of a patch further each time


def test_trying_out_leaves_no_trace_in_the_network():
    net = UniversalNet(4, 2)
    net.add_bank("liver", BankShape.of(SPEC))
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    assert step_seconds(net, SPEC, "dice_ce", CPU) > 0
    assert patch_seconds(net, SPEC, CPU) > 0
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())


def test_the_figures_go_together():
    every = facts((8, 8, 8), (16, 8, 8), (16, 16, 8))  # 1, 3 and 9 tiles
    expected = estimate(SPEC, facts((8, 8, 8)), every, validation_cases=2, device=CPU)
    assert expected.training_seconds == expected.steps * expected.step_seconds
    assert expected.validation_seconds == pytest.approx(2 * expected.prediction_seconds)
    assert expected.cache_bytes == 8**3 * (4 + 2) + 10_000 * 3 * 4
    assert expected.device == "cpu"


def test_the_largest_case_decides_about_the_memory_of_prediction():
    def needed(every):
        return estimate(SPEC, every, every, 0, CPU).prediction_memory_bytes

    small, large = facts((8, 8, 8)), facts((8, 8, 8), (40, 40, 40))
    patch = 4**3 * 32 * 12  # the network begins at half the resolution, with 32 channels
    assert needed(small) == RUNTIME_BYTES + 4 * (8**3 * (2 + 3 + 2 + 3) + patch)
    more = prod((40, 40, 40)) - 8**3
    assert needed(large) - needed(small) == 4 * more * 10
    half_empty = facts((8, 8, 8), kept=0.5)  # the image as it lies in its file is twice as large
    assert needed(half_empty) - needed(small) == 4 * 8**3 * 2
