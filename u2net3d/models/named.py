"""A network named in a word, `unetpp:stages=3`: a preset, and what is changed of it."""

from __future__ import annotations

import json
from typing import Any

import torch
from pydantic import ValidationError

from u2net3d.errors import UsageError
from u2net3d.models import network
from u2net3d.spec import PRESETS, Budget, Design, ModelSpec

_SIZES = ("base_channels", "stages")
_MEND = "docs/families.md lists the fields and their values"


def model_of(text: str, option: str = "--preset") -> ModelSpec:
    """The network that `preset:field=value:...` names.

    A field is base_channels, stages, one of `Budget` or, in the family universal, of `Design`; else
    an option of the family. The network is built once, as shapes alone. Raises UsageError, with
    `option` as its place, for what there is not.
    """
    name, *changes = text.split(":")
    if name not in PRESETS:
        mend = f"use one of {', '.join(PRESETS)}"
        raise UsageError(option, f"there is no preset '{name}'", mend)
    said = PRESETS[name].model_dump()
    for change in changes:
        field, equals, value = change.partition("=")
        if not (field and equals and value):
            mend = "write preset:field=value:field=value"
            raise UsageError(option, f"'{change}' in {text} changes nothing", mend)
        _part(said, field)[field] = plain(value)
    try:
        model = ModelSpec.model_validate(said)
        with torch.device("meta"):
            network(model)
    except (ValueError, RuntimeError) as error:
        raise UsageError(option, f"{text}: {_fault(error)}", _MEND) from error
    return model


def plain(value: str) -> Any:
    """`3`, `0.5`, `true` as JSON has them; anything else is a word."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _part(said: dict[str, Any], field: str) -> dict[str, Any]:
    """Where a field lies in the fields of a model."""
    if field in _SIZES:
        return said
    if field in Budget.model_fields:
        found: dict[str, Any] = said["budget"]
    elif said["family"] == "universal" and field in Design.model_fields:
        found = said["design"]
    else:
        found = said["options"]
    return found


def _fault(error: ValueError | RuntimeError) -> str:
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0]
    faults = []
    for each in error.errors():
        what = "there is no such field" if each["type"] == "extra_forbidden" else each["msg"]
        places = [str(place) for place in each["loc"]]
        faults.append(": ".join([*places[-1:], what]))
    return "; ".join(dict.fromkeys(faults))
