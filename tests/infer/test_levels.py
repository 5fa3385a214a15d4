"""Levels as options of a prediction: which is meant, what is refused, and what a record says."""

from __future__ import annotations

import pytest

from u2net3d.errors import UsageError
from u2net3d.infer.predict import Options, Origin
from u2net3d.infer.sidecar import expected_record
from u2net3d.store import Levels

FOUR = Origin("t", "d", levels=Levels(count=4, auto=2, validation_dice=(0.8, 0.9, 0.9, 0.9)))


@pytest.mark.parametrize(
    ("asked", "level"), [(None, None), (1, 1), (4, 4), ("auto", 2), ("mean", "mean")]
)
def test_auto_is_the_level_of_the_card(asked, level):
    assert FOUR.level("liver", asked) == level


@pytest.mark.parametrize(
    ("origin", "asked", "what"),
    [
        (FOUR, 5, "liver has no level 5"),
        (FOUR, 0, "liver has no level 0"),
        (Origin("t", "d"), "mean", "answers at its full depth alone"),
        (Origin("t", "d", levels=Levels(count=4)), "auto", "none was chosen"),
    ],
)
def test_a_level_that_there_is_not_is_refused_in_a_line(origin, asked, what):
    with pytest.raises(UsageError, match=what) as refused:
        origin.level("liver", asked)
    assert "\n" not in str(refused.value)


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
