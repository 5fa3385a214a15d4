"""A preset and what is changed of it, as typed."""

from __future__ import annotations

import pytest

from u2net3d.errors import UsageError
from u2net3d.models.named import model_of
from u2net3d.spec import PRESETS, ModelSpec


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_without_a_change_is_itself(preset):
    assert model_of(preset) == PRESETS[preset]


def test_a_field_is_looked_for_in_sizes_budget_design_and_options():
    found = model_of("base:stages=3:voxels=4096:residual=false:block=plain")
    own = PRESETS["base"]
    assert found.preset == "base"
    assert found.stages == 3
    assert found.budget == own.budget.model_copy(update={"voxels": 4096})
    assert found.design == own.design.model_copy(update={"residual": False})
    assert found.options == {"block": "plain"}


def test_what_was_changed_outlives_the_manifest():
    found = model_of("unet:slope=0.1:bias=true:norm=batch:base_channels=4")
    assert ModelSpec.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("best", "there is no preset 'best' — use one of base, tiny, large, paper"),
        ("base:stages", "'stages' in base:stages changes nothing"),
        ("base:=3", "'=3' in base:=3 changes nothing"),
        ("base:stages=", "changes nothing"),
        ("base:wings=2", "wings: there is no such field"),
        ("base:preset=paper", "preset: there is no such field"),
        ("unet:residual=true", "residual: there is no such field"),
        ("base:stages=1", "stages: Input should be greater than or equal to 2"),
        ("unetpp:block=round", "block: Input should be 'plain', 'residual' or 'separable'"),
        ("unet:block=separable:padded=false", "separable blocks"),
        ("base:stages=99", "base:stages=99: "),
    ],
)
def test_what_there_is_not_is_refused_in_a_line(text, said):
    with pytest.raises(UsageError) as refused:
        model_of(text)
    line = str(refused.value)
    assert said in line
    assert "\n" not in line
    assert "--preset" in line
