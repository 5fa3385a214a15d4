"""Levels as options of a prediction: which is meant, what is refused, and what a record says."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from u2net3d import store
from u2net3d.errors import UsageError
from u2net3d.infer.predict import Options, Origin, load
from u2net3d.infer.sidecar import expected_record
from u2net3d.models import network
from u2net3d.models.network import BankShape
from u2net3d.spec import ModelSpec
from u2net3d.store import Levels

FOUR = Origin("t", "d", levels=Levels(count=4, auto=2, validation_dice=(0.8, 0.9, 0.9, 0.9)))


@pytest.mark.parametrize(
    ("asked", "level"), [(None, None), (1, 1), (4, 4), ("auto", 2), ("mean", "mean")]
)
def test_auto_is_the_level_of_the_card(asked, level):
    assert FOUR.level("liver", asked, 4) == level


@pytest.mark.parametrize(
    ("origin", "asked", "count", "what"),
    [
        (FOUR, 5, 4, "liver has no level 5 — give 1 to 4, auto or mean"),
        (FOUR, 0, 4, "liver has no level 0"),
        (Origin("t", "d"), "mean", 0, "answers at its full depth alone"),
        (Origin("t", "d"), 3, 2, "liver has no level 3 — give 1 to 2 or mean"),
        (Origin("t", "d"), "auto", 2, "never judged.* — give 1 to 2 or mean"),
        (Origin("t", "d", levels=Levels(count=4)), "auto", 4, "never judged"),
    ],
)
def test_a_level_that_there_is_not_is_refused_in_a_line(origin, asked, count, what):
    with pytest.raises(UsageError, match=what) as refused:
        origin.level("liver", asked, count)
    assert "\n" not in str(refused.value)


def test_a_unetpp_whose_training_never_ended_answers_at_its_levels(model, tmp_path, picture):
    spec = model.spec("liver")
    asked = ModelSpec(preset="unetpp", family="unetpp", base_channels=2, stages=2)
    torch.manual_seed(0)
    net = network(asked)
    net.add_bank("liver", BankShape.of(spec))
    store.save_model(
        tmp_path / "model", net, asked, {"liver": spec}, {}
    )  # a card that says nothing
    image = nib.Nifti1Image(picture(), np.eye(4))
    nested = load(tmp_path / "model", device="cpu")
    whole, first = (nested.predict(image, domain="liver", level=n) for n in (None, 1))
    assert np.array_equal(whole.get_fdata(), first.get_fdata())  # two stages have one level
    with pytest.raises(UsageError, match="no level 2 — give 1 or mean"):
        nested.predict(image, domain="liver", level=2)
    with pytest.raises(UsageError, match="answers at its full depth alone"):
        model.predict(image, domain="liver", level=1)


def test_another_level_makes_another_label_and_none_is_not_said(model):
    spec = model.spec("liver")
    plain, two = (expected_record("i", spec, FOUR, Options(level=n)) for n in (None, 2))
    assert plain.options == {"overlap": 0.5, "tta": False, "cleanup": True}
    assert two.options == plain.options | {"level": "2"}
    assert plain.difference(two) == "with other options"


@pytest.mark.parametrize(
    "said", [{"count": 0}, {"count": 2, "auto": 3}, {"count": 2, "validation_dice": (0.5,)}]
)
def test_levels_that_cannot_be_are_refused(said):
    with pytest.raises(ValueError, match=r"level|greater"):
        Levels.model_validate(said)
