"""docs/families.md names every preset and every field that may be changed, with its values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from u2net3d.losses import LOSSES
from u2net3d.models import FAMILIES
from u2net3d.models.fcn import FcnOptions
from u2net3d.models.reference import ReferenceOptions
from u2net3d.models.unet import UNetOptions
from u2net3d.models.unetpp import UNetPPOptions
from u2net3d.models.universal import UniversalOptions
from u2net3d.spec import PRESETS, Budget, Design

PAGE = (Path(__file__).parents[2] / "docs" / "families.md").read_text()
OPTIONS = {
    "universal": UniversalOptions,
    "reference": ReferenceOptions,
    "unet": UNetOptions,
    "unetpp": UNetPPOptions,
    "fcn": FcnOptions,
}
BOTH = {"true", "false"}


def values_of(annotation):
    if get_origin(annotation) is Literal:
        return {str(value) for value in get_args(annotation)}
    return BOTH if annotation is bool else {"number"}


def fields_of(family):
    """field -> values, as the page is to have them."""
    models = [OPTIONS[family], Budget, *([Design] if family == "universal" else [])]
    found = {"base_channels": {"number"}, "stages": {"number"}}
    for model in models:
        for name, field in model.model_fields.items():
            found[name] = values_of(field.annotation)
    return found


def rows(section):
    """The cells of the rows of a section's table, without its head."""
    text = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (found,) = (part for part in text if part.startswith(section))
    lines = [line for line in found.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def test_every_preset_is_a_row_with_its_size():
    said = {row[0]: row[1:4] for row in rows("Presets")}
    assert said == {
        name: [model.family, str(model.stages), str(model.base_channels)]
        for name, model in PRESETS.items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_of_a_family_is_a_row_with_its_values(family):
    said = {
        name: set(values.split(", "))
        for name, values, families, _ in rows("Changing a preset")
        if family in families.split(", ")
    }
    assert said == fields_of(family)


def test_every_loss_is_a_row():
    assert {row[0] for row in rows("Losses")} == {*LOSSES}
