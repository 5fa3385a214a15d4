"""What is decided once: names of domains, and specifications that survive JSON."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from u2net3d.errors import UsageError
from u2net3d.spec import (
    PRESETS,
    RECIPES,
    RESERVED_NAMES,
    CtNormalisation,
    DomainSpec,
    Mirroring,
    ModelSpec,
    Plan,
    TrainSpec,
    ZScoreNormalisation,
    domain_name,
)

CT = CtNormalisation(lower=-17.0, upper=201.0, mean=99.4, std=39.36)
PLAN = Plan(
    spacing_mm=(3.6, 0.6125, 0.61),
    normalisation=(CT, ZScoreNormalisation(nonzero_only=True)),
    patch_size=(8, 96, 80),
    batch_size=2,
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (1, 3, 3), (3, 3, 3)),
)
DOMAIN = DomainSpec(
    name="prostate",
    channels=("T2", "ADC"),
    labels=("background", "PZ left", "PZ right"),
    mirroring=Mirroring(axes=(1, 2), swap_axis=2, swap=((1, 2),)),
    plan=PLAN,
)
EVERY = [CT, ZScoreNormalisation(), PLAN, Mirroring(), DOMAIN, ModelSpec(), TrainSpec(fold="all")]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Task21_LeftAtrium", "leftatrium"),
        ("Dataset021_LeftAtrium", "leftatrium"),
        ("Left Atrium", "leftatrium"),
        ("  liver ", "liver"),
        ("task03_Liver", "liver"),
        ("Hepatic-Vessel_2", "hepaticvessel2"),
        ("Task_Liver", "taskliver"),  # no number: part of the name
        ("10_Colon", "10colon"),
    ],
)
def test_a_domain_is_named_after_its_folder(text, name):
    assert domain_name(text) == name
    assert domain_name(name) == name


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_reserved_words_are_refused_however_they_are_written(name):
    for text in (name, name.upper(), f"Task01_{name.title()}", f" {name[0]}-{name[1:]} "):
        with pytest.raises(UsageError, match=f"'{name}' is a reserved word"):
            domain_name(text)


def test_the_reserved_words_of_the_command_line_are_all_there():
    assert {"auto", "all", "mean", "nearest", "fresh", "type", "train", "pop"} <= RESERVED_NAMES


@pytest.mark.parametrize("text", ["", "  ", "Task03_", "---", "肝"])
def test_a_name_without_letter_or_digit_is_refused(text):
    with pytest.raises(UsageError, match="no letter or digit"):
        domain_name(text)


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: type(spec).__name__)
def test_a_specification_comes_back_from_json_as_it_went(spec):
    again = type(spec).model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.model_dump_json() == spec.model_dump_json()


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: type(spec).__name__)
def test_an_unknown_field_is_refused(spec):
    content = spec.model_dump(mode="json") | {"colour": "red"}
    with pytest.raises(ValidationError, match="colour"):
        type(spec).model_validate(content)


def test_an_unknown_field_deep_inside_is_refused():
    content = DOMAIN.model_dump(mode="json")
    content["plan"]["normalisation"][0]["colour"] = "red"
    with pytest.raises(ValidationError, match="colour"):
        DomainSpec.model_validate(content)


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: type(spec).__name__)
def test_a_specification_never_changes(spec):
    field = next(iter(type(spec).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(spec, field, getattr(spec, field))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": ((1, 1, 1), (2, 2, 2))}, "one entry per stage"),
        ({"strides": ((2, 1, 1), (1, 2, 2), (2, 2, 2))}, "first stride must be"),
        ({"strides": ((1, 1, 1), (1, 2, 2), (4, 2, 2))}, "strides are 1 or 2"),
        ({"kernels": ((1, 3, 3), (1, 3, 3), (3, 5, 3))}, "kernels are 1 or 3"),
        ({"strides": ((1, 1, 1),), "kernels": ((3, 3, 3),)}, "at least 2"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"normalisation": ({"scheme": "minmax"},)}, "minmax"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        Plan.model_validate(PLAN.model_dump() | change)


def test_a_plan_knows_its_stages():
    assert PLAN.stages == 3


@pytest.mark.parametrize("change", [{"labels": ("background",)}, {"channels": ()}])
def test_a_domain_needs_an_image_and_something_to_find(change):
    with pytest.raises(ValidationError, match="at least"):
        DomainSpec.model_validate(DOMAIN.model_dump() | change)


def test_no_margin_is_not_said_so_that_older_hashes_hold():
    plan = Plan(
        spacing_mm=(1, 1, 1), normalisation=(), patch_size=(8, 8, 8), batch_size=1,
        strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3),) * 2,
    )  # fmt: skip
    assert "margin" not in plan.model_dump()
    wide = plan.model_copy(update={"margin": (1, 0, 2)})
    assert Plan.model_validate_json(wide.model_dump_json()) == wide
    assert Plan.model_validate(plan.model_dump()) == plan
    assert (plan.seen, wide.seen) == ((8, 8, 8), (10, 8, 12))


def test_every_recipe_is_of_a_preset():
    assert set(RECIPES) <= set(PRESETS)
    for name, recipe in RECIPES.items():
        assert TrainSpec.model_validate_json(recipe.model_dump_json()) == recipe
        assert PRESETS[name].preset == name


def test_the_paper_recipe_is_the_published_one():
    recipe = RECIPES["reference-separable"]
    assert (recipe.optimiser, recipe.learning_rate, recipe.weight_decay) == ("adam", 3e-4, 5e-4)
    assert (recipe.loss, recipe.schedule, recipe.cube) == ("lovasz_focal", "plateau", 128)
    assert RECIPES["reference-independent"].cube is None


@pytest.mark.parametrize("edge", [6, 9])
def test_a_cube_that_cannot_be_halved_is_refused(edge):
    with pytest.raises(ValidationError):
        TrainSpec(cube=edge)
