"""dataset.json, both kinds as they are: channels, labels and cases of a data set.

MSD: `modality` and `labels` by number, a list of `training` files. nnU-Net v2 raw: `channel_names`,
labels by name, `file_ending`, one file per channel (`imagesTr/<case>_0000.nii.gz`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from u2net3d.errors import DataError
from u2net3d.io import IMAGE_SUFFIXES, stem

FILE_NAME = "dataset.json"


@dataclass(frozen=True)
class Case:
    """One volume: a 4-D or 3-D file, or one file per channel, and its label where there is one.

    patient: cases of one patient share it; a case without a partner is a patient of its own.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str


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
    except ValueError as error:  # bytes that are no UTF-8, text that is no JSON
        raise DataError(path, f"is not JSON ({error})", "correct it") from error
    if not isinstance(content, dict):
        raise DataError(path, "is no JSON object", "correct it")
    return content


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


def cases_of(
    folder: Path, content: dict[str, Any], channels: int
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The cases with a label, and those without; sorted by name.

    Raises DataError where there is no labelled case, or an image or label of one is missing.
    Cases without a label that dataset.json lists but the folder lacks are left out.
    """
    path = folder / FILE_NAME
    if "file_ending" in content:
        found = _nnunet_cases(folder, content["file_ending"], channels)
    elif isinstance(content.get("training"), list):
        found = _msd_cases(folder, content)
    else:
        what = "lists no cases (neither training, as in MSD, nor file_ending, as in nnU-Net)"
        raise DataError(path, what, 'add "training": [{"image": ..., "label": ...}]')
    labelled, unlabelled = (
        [one for one in group if not one[0][0].name.startswith("._")] for group in found
    )
    if not labelled:
        raise DataError(path, "lists no case to learn from", "put labelled cases in the folder")
    _require_files(labelled)
    there = [case for case in unlabelled if all(image.is_file() for image in case[0])]
    return _named(path, labelled), _named(path, there)


def patients(names: list[str]) -> dict[str, str]:
    """The patient of each case name.

    Names that share the part before their last `_` are one patient, where that part holds a digit
    and 2 to 10 names share it (`patient001_frame01`, `patient001_frame02`).
    """
    heads = [name.rpartition("_")[0] for name in names]
    sharing = Counter(heads)
    return {
        name: head if re.search(r"\d", head) and 2 <= sharing[head] <= 10 else name
        for name, head in zip(names, heads, strict=True)
    }


_Files = tuple[tuple[Path, ...], Path | None, str]  # images, label, name of the case


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


def _msd_cases(folder: Path, content: dict[str, Any]) -> tuple[list[_Files], list[_Files]]:
    path = folder / FILE_NAME
    labelled: list[_Files] = []
    for entry in content["training"]:
        if not isinstance(entry, dict) or {"image", "label"} - entry.keys():
            what = f"a training entry lacks image or label ({str(entry)[:80]})"
            raise DataError(
                path, what, 'write {"image": "./imagesTr/...", "label": "./labelsTr/..."}'
            )
        image = folder / str(entry["image"])
        labelled.append(((image,), folder / str(entry["label"]), stem(image)))
    unlabelled: list[_Files] = []
    tests = content.get("test")
    for entry in tests if isinstance(tests, list) else []:
        image = folder / str(entry.get("image") if isinstance(entry, dict) else entry)
        unlabelled.append(((image,), None, stem(image)))
    return labelled, unlabelled


def _nnunet_cases(folder: Path, ending: Any, channels: int) -> tuple[list[_Files], list[_Files]]:
    if ending not in IMAGE_SUFFIXES:
        mend = f"convert the files to one of {', '.join(IMAGE_SUFFIXES)}"
        raise DataError(folder / FILE_NAME, f"file_ending {ending} is not read here", mend)
    images = _channel_files(folder / "imagesTr", ending, channels)
    labels = folder / "labelsTr"
    names = {stem(label) for label in _visible(labels, ending)} | images.keys()
    labelled: list[_Files] = []
    for name in sorted(names):  # the files that must be there, so that a missing one is named
        wanted = (folder / "imagesTr" / f"{name}_{i:04d}{ending}" for i in range(channels))
        labelled.append((tuple(wanted), labels / f"{name}{ending}", name))
    tests = _channel_files(folder / "imagesTs", ending, channels)
    return labelled, [(files, None, name) for name, files in sorted(tests.items())]


def _channel_files(folder: Path, ending: str, channels: int) -> dict[str, tuple[Path, ...]]:
    """case -> its files in order of the channel; DataError where the numbers are not all there."""
    found: dict[str, list[Path]] = {}
    for path in _visible(folder, ending):
        match = re.fullmatch(r"(.+)_(\d{4})", stem(path))
        if not match:
            mend = f"name it <case>_0000{ending}, the next channel _0001"
            raise DataError(path, "has no channel number in its name", mend)
        found.setdefault(match[1], []).append(path)
    for case, paths in found.items():
        numbers = [stem(path)[-4:] for path in paths]
        if numbers != [f"{i:04d}" for i in range(channels)]:
            what = f"case {case} has the channels {_listed(numbers)}"
            mend = f"dataset.json names {channels}, numbered from 0000: bring them into agreement"
            raise DataError(folder, what, mend)
    return {case: tuple(paths) for case, paths in found.items()}


def _visible(folder: Path, ending: str) -> list[Path]:
    """The files of that ending, sorted, without the `._` files that macOS leaves behind."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob(f"*{ending}") if not p.name.startswith("."))


def _require_files(labelled: list[_Files]) -> None:
    wanted = [path for images, label, _ in labelled for path in (*images, label) if path]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        mend = "put it there, or take its case out of the data set"
        raise DataError(missing[0], f"is missing{more}", mend)


def _named(path: Path, group: list[_Files]) -> tuple[Case, ...]:
    names = [name for _, _, name in group]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(path, f"lists case {twice[0]} twice", "list every case once")
    patient = patients(names)
    cases = (Case(name, images, label, patient[name]) for images, label, name in group)
    return tuple(sorted(cases, key=lambda case: case.name))


def _listed(values: list[Any]) -> str:
    return ", ".join(map(str, values))
