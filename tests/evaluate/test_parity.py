"""What half precision does to an answer is measured, not assumed."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from u2net3d import store
from u2net3d.errors import DataError
from u2net3d.evaluate.parity import parity
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import DomainSpec, ModelSpec, Plan, ZScoreNormalisation

LABELS = ("background", "one", "two")


@pytest.fixture
def folder(tmp_path):
    plan = Plan(
        spacing_mm=(1, 1, 1),
        normalisation=(ZScoreNormalisation(),),
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
    )
    spec = DomainSpec(name="liver", channels=("CT",), labels=LABELS, plan=plan)
    torch.manual_seed(0)
    net = UniversalNet(base_channels=2, stages=2)
    net.add_bank("liver", BankShape.of(spec))
    model = ModelSpec(base_channels=2, stages=2)
    store.save_model(tmp_path / "model", net, model, {"liver": spec}, {})
    return tmp_path / "model"


@pytest.fixture
def image(tmp_path):
    array = np.random.default_rng(0).normal(size=(10, 11, 12)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_the_difference_on_an_image_is_small_and_not_nothing(folder, image):
    measured = parity(folder, "liver", [image])
    assert 0 < measured["largest_logit_difference"] < 0.1
    assert 0.95 < measured["equal_labels"] <= 1
    assert set(measured["dice"]) == {"one", "two"}


def test_weights_that_half_precision_holds_give_the_same_answer(folder, image):
    net, model, specs = store.load(folder)
    with torch.no_grad():
        for weight in net.bank("liver").parameters():
            weight.copy_(weight.half())
    store.save_model(folder, net, model, specs, {})
    measured = parity(folder, "liver", [image])
    assert measured["largest_logit_difference"] == 0
    assert measured["equal_labels"] == 1
    assert set(measured["dice"].values()) <= {1.0, None}


def test_an_image_of_other_channels_is_refused(folder, image):
    with pytest.raises(DataError, match="channels"):
        parity(folder, "liver", [image, image])
