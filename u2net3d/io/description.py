"""dataset.json, both kinds as they are: channels and labels of a data set (cases: `listing`).

MSD: `modality` and `labels` by number, a list of `training` files. nnU-Net v2 raw: `channel_names`,
labels by name, `file_ending`, one file per channel (`imagesTr/<case>_0000.nii.gz`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from u2net3d.errors import DataError

FILE_NAME = "dataset.json"
FACTS = ("name", "reference", "licence", "release")  # what a domain's card says of its data
_LONGEST = 300  # characters of a fact


def read_description(folder: Path) -> dict[str, Any]:
    """The content of `folder`/dataset.json; DataError where it is missing or no JSON object."""
    path = folder / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        mend = "name a folder in MSD or nnU-Net v2 raw layout"
        raise DataError(folder, f"holds no {FILE_NAME}", mend) from error
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "check the file") from error
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8, text that is no JSON
        raise DataError(path, f"is not JSON ({error})", "correct it") from error
    if not isinstance(content, dict):
        raise DataError(path, "is no JSON object", "correct it")
    return content


def facts_of(content: dict[str, Any]) -> dict[str, str]:
    """What dataset.json says of name, reference, licence and release, each on one line of text.

    `license` is understood. What is missing, empty or no text is left out; so is the description,
    in which names of cases stand now and then.
    """
    said = {**content, "licence": content.get("licence") or content.get("license")}
    texts = {
        key: " ".join(str(said[key]).split())[:_LONGEST]
        for key in FACTS
        if isinstance(said.get(key), str | int | float) and not isinstance(said[key], bool)
    }
    return {key: text for key, text in texts.items() if text}


def channels_of(folder: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """Channel names in order of their number, from `channel_names` or `modality`."""
    path = folder / FILE_NAME
    key = "channel_names" if "channel_names" in content else "modality"
    raw = content.get(key)
    if not isinstance(raw, dict) or not raw:
        what = "names no channels (channel_names or modality)"
        raise DataError(path, what, 'write "modality": {"0": "CT"} or what the images are')
    try:
        names = {int(number): str(name) for number, name in raw.items()}
    except ValueError as error:
        what = f"{key} has keys that are no numbers ({', '.join(raw)})"
        raise DataError(path, what, "number the channels from 0") from error
    if sorted(names) != list(range(len(raw))):
        what = f"{key} counts {_listed(sorted(names))}"
        raise DataError(path, what, "number the channels from 0 without a gap")
    return tuple(names[number] for number in sorted(names))


def labels_of(folder: Path, content: dict[str, Any]) -> tuple[tuple[str, ...], int | None]:
    """Label names in order of their value, and the value that is to be ignored, if there is one.

    Raises DataError for overlapping regions and values that are not 0, 1, 2 ... (ignore aside,
    which has the highest value).
    """
    path = folder / FILE_NAME
    names = _label_names(path, content.get("labels"))
    ignored = [value for value, name in names.items() if name.strip().lower() == "ignore"]
    values = sorted(value for value in names if value not in ignored)
    if values != list(range(len(values))):
        what = f"label values are {_listed(values)}, not consecutive from 0"
        raise DataError(path, what, "renumber the labels from 0, in the label files too")
    if len(values) < 2:
        raise DataError(path, "names no label beside the background", "name at least one")
    if len(ignored) > 1 or any(value < len(values) for value in ignored):
        mend = "give one label 'ignore' the highest value"
        raise DataError(path, "'ignore' is not the highest label value", mend)
    labels = tuple(names[value] for value in values)
    if len(set(labels)) < len(labels):
        raise DataError(path, f"names a label twice ({', '.join(labels)})", "give each its name")
    return labels, ignored[0] if ignored else None


def _label_names(path: Path, raw: Any) -> dict[int, str]:
    """value -> name, from MSD's {"1": "liver"} or nnU-Net's {"liver": 1}."""
    if not isinstance(raw, dict) or not raw:
        raise DataError(path, "names no labels", 'write "labels": {"0": "background", ...}')
    regions = [name for name, value in raw.items() if isinstance(value, list)]
    if regions:
        what = f"label '{regions[0]}' is an overlapping region, which is not supported yet"
        raise DataError(path, what, "give every label one value of its own")
    msd = all(re.fullmatch(r"\d+", key) and isinstance(name, str) for key, name in raw.items())
    pairs = raw.items() if msd else [(value, name) for name, value in raw.items()]
    try:
        names = {int(value): str(name) for value, name in pairs}
    except (TypeError, ValueError) as error:
        raise DataError(
            path, "has a label whose value is no number", "number the labels"
        ) from error
    if len(names) < len(raw):
        raise DataError(path, "gives two labels one value", "give each a value of its own")
    return names


def _listed(values: list[Any]) -> str:
    return ", ".join(map(str, values))
