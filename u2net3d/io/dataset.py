"""Data sets: found by domain name, split into training and validation, read case by case."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from u2net3d.errors import DataError, UsageError
from u2net3d.files import sha256_file
from u2net3d.io import parts, read_image, read_label, require_same_grid
from u2net3d.io.description import (
    FILE_NAME,
    channels_of,
    facts_of,
    labels_of,
    read_description,
)
from u2net3d.io.listing import Case, cases_of
from u2net3d.io.nifti import Source
from u2net3d.spec import domain_name
from u2net3d.volume import Volume

__all__ = [
    "Case",
    "Dataset",
    "LoadedCase",
    "Split",
    "find_dataset",
    "find_datasets",
    "fold_faults",
    "list_domains",
    "locate",
    "read_case",
    "read_folds",
    "require_channels",
    "require_known_values",
    "source_hashes",
    "split",
]

FOLDS = 5
SPLITS_FILE = "splits_final.json"


@dataclass(frozen=True)
class Dataset:
    """A domain's volumes on the disk.

    channels and labels: names in order of their number; ignore_label: the value of voxels that
    nobody labelled; cases: with a label; unlabelled: without; facts: see `facts_of`.
    """

    root: Path
    domain: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    ignore_label: int | None
    cases: tuple[Case, ...]
    unlabelled: tuple[Case, ...]
    facts: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Split:
    """The cases to learn from and the cases to judge by; no patient is on both sides."""

    training: tuple[Case, ...]
    validation: tuple[Case, ...]


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """image (C, D, H, W) float32 and label (1, D, H, W) int16 on one grid, canonical order."""

    image: Volume
    label: Volume
    source: Source


def find_dataset(data: Path, text: str) -> Dataset:
    """The data set of a domain: `liver` is looked for in `data`, `liver=PATH` names its folder.

    `liver` finds the folder TaskNN_Liver or DatasetNNN_Liver; without one, the folder whose
    dataset.json is named so. Raises UsageError for a name that fits no folder or two, DataError
    for a folder that is no complete data set.
    """
    domain, folder = locate(data, text)
    content = read_description(folder)
    channels = channels_of(folder, content)
    labels, ignore_label = labels_of(folder, content)
    cases, unlabelled = cases_of(folder, content, len(channels))
    facts = facts_of(content)
    return Dataset(folder, domain, channels, labels, ignore_label, cases, unlabelled, facts)


def locate(data: Path, text: str) -> tuple[str, Path]:
    """The domain's name and its folder, as `find_dataset` finds it; nothing in it is read."""
    name, named, path = text.partition("=")
    domain = domain_name(name)
    if named and not path.strip():
        raise UsageError("domain", f"'{text}' names no folder", f"write {domain}=PATH")
    folder = Path(path).expanduser() if named else _folder_of(data, domain)
    if not folder.is_dir():
        raise UsageError("domain", f"'{text}': {folder} is no folder", "check the path")
    return domain, folder


def find_datasets(data: Path, texts: Sequence[str]) -> tuple[Dataset, ...]:
    """`find_dataset` for each text, in order; UsageError where a domain is named twice."""
    names = [domain_name(text.partition("=")[0]) for text in texts]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError("domain", f"'{twice[0]}' is named twice", "name every domain once")
    return tuple(find_dataset(data, text) for text in texts)


def list_domains(data: Path) -> tuple[str, ...]:
    """The domain names of the data sets in `data`, sorted; UsageError where there is no `data`."""
    folders = _folders(data)
    return tuple(sorted({name for folder, name in folders.items() if _is_dataset(folder)}))


def split(dataset: Dataset, fold: int | Literal["all"]) -> Split:
    """Training and validation cases of one fold; "all" trains on everything and judges by nothing.

    By the data set's own splits_final.json where there is one; else patients, in the order of the
    SHA-256 of their names, are dealt out to 5 folds in turn. Raises UsageError for a fold there
    is not.
    """
    if fold == "all":
        return Split(dataset.cases, ())
    path = dataset.root / SPLITS_FILE
    if path.is_file():
        return _split_of_file(dataset, path, fold)
    if not 0 <= fold < FOLDS:
        raise _no_fold(fold, FOLDS)
    patients = sorted({case.patient for case in dataset.cases}, key=_hash)
    held = set(patients[fold::FOLDS])
    training = tuple(case for case in dataset.cases if case.patient not in held)
    validation = tuple(case for case in dataset.cases if case.patient in held)
    if not training or not validation:
        what = f"fold {fold} of {dataset.domain} is empty ({len(patients)} patients in all)"
        mend = "use --fold all" if len(patients) < 2 else f"use a fold below {len(patients)}"
        raise UsageError("--fold", what, mend)
    return Split(training, validation)


def read_case(dataset: Dataset, case: Case) -> LoadedCase:
    """Image and label of a labelled case, checked against each other and against dataset.json.

    Raises DataError for files that cannot be read, another number of channels, an image and a
    label that differ in shape or affine, and label values that dataset.json does not know.
    """
    if case.label is None:
        raise DataError(case.images[0], "has no label", "choose a labelled case")
    image, source = read_image(case.images)
    require_channels(image, source.path, dataset.channels)
    label, label_source = read_label(case.label)
    require_same_grid(label, label_source, image, source)
    require_known_values(dataset, case.label, label)
    return LoadedCase(image, label, source)


def source_hashes(case: Case) -> list[str]:
    """SHA-256 of every file that a case is made from, those of the voxels behind a header too."""
    sources = [*case.images, *([case.label] if case.label else [])]
    return [sha256_file(part) for path in sources for part in parts(path)]


def require_channels(image: Volume, path: Path, channels: tuple[str, ...]) -> None:
    """Raises DataError, naming `path`, unless the image has one channel per name."""
    count = image.array.shape[0]
    if count != len(channels):
        channel = "1 channel" if count == 1 else f"{count} channels"
        what = f"has {channel}, expected {len(channels)} ({', '.join(channels)})"
        raise DataError(path, what, "give the channels that the data set names, in that order")


def require_known_values(dataset: Dataset, path: Path, label: Volume) -> None:
    """Raises DataError, naming `path`, for label values that dataset.json does not know."""
    known = [*range(len(dataset.labels))]
    if dataset.ignore_label is not None:
        known.append(dataset.ignore_label)
    values, counts = np.unique(label.array, return_counts=True)
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    unknown = [
        f"{value} ({count} voxel{'s' if count > 1 else ''})"
        for value, count in pairs
        if value not in known
    ]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        noun = "label value" if len(unknown) == 1 else "label values"
        mend = f"{FILE_NAME} knows {', '.join(map(str, known))}: correct one of the two"
        raise DataError(path, f"holds the {noun} {', '.join(unknown[:5])}{more}", mend)


def _folder_of(data: Path, domain: str) -> Path:
    folders = _folders(data)
    found = [folder for folder, name in folders.items() if name == domain]
    # A folder's own name comes first: copied data sets often keep the name in dataset.json.
    found = [f for f in found if _is_dataset(f)] or found
    found = found or [f for f in folders if _is_dataset(f) and _inner_name(f) == domain]
    if len(found) > 1:
        both = " and ".join(folder.name for folder in found[:2])
        mend = f"say which: {domain}={found[0]}"
        raise UsageError("domain", f"'{domain}' could be {both} in {data}", mend)
    if not found:
        raise _unknown(data, domain)
    return found[0]


def _folders(data: Path) -> dict[Path, str]:
    """The folders in `data` and their domain names; those that can have none are left out."""
    if not data.is_dir():
        what = f"{data} is no folder" if data.exists() else f"{data} does not exist"
        raise UsageError("--data", what, "name the folder that holds the TaskNN_Name data sets")
    names = {}
    for folder in sorted(data.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            try:
                names[folder] = domain_name(folder.name)
            except UsageError:  # a reserved word, or no letter in it
                continue
    return names


def _is_dataset(folder: Path) -> bool:
    return (folder / FILE_NAME).is_file()


def _inner_name(folder: Path) -> str | None:
    """The domain name that dataset.json gives; None where it cannot be had: not asked for here."""
    try:
        return domain_name(str(read_description(folder).get("name", "")))
    except (DataError, UsageError):
        return None


def _unknown(data: Path, domain: str) -> UsageError:
    there = list_domains(data)
    if not there and _is_dataset(data):
        return UsageError("--data", f"{data} is itself a data set", f"write {domain}={data}")
    if not there:
        return UsageError("--data", f"{data} holds no data set", "put TaskNN_Name folders in it")
    nearest = difflib.get_close_matches(domain, there, n=1, cutoff=0)[0]
    what = f"'{domain}' is not in {data} (there: {', '.join(there)})"
    return UsageError("domain", what, f"did you mean '{nearest}'?")


def read_folds(path: Path) -> list[tuple[list[str], list[str]]]:
    """The names of a splits_final.json: per fold those to learn from and those to judge by.

    Raises DataError for a file that is no such list.
    """
    try:
        folds = json.loads(path.read_text(encoding="utf-8-sig"))
        sides = [([*map(str, fold["train"])], [*map(str, fold["val"])]) for fold in folds]
        if not sides:
            raise ValueError("no fold")
        return sides
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        mend = 'write [{"train": [cases], "val": [cases]}, ...] or remove it'
        raise DataError(path, "is no list of folds with train and val", mend) from error


def fold_faults(
    names: Collection[str], path: Path, fold: int, sides: tuple[list[str], list[str]]
) -> list[DataError]:
    """What is wrong with a fold of the file at `path`, `names` being the labelled cases."""
    training, validation = sides
    unknown = sorted({name for name in (*training, *validation) if name not in names})
    both = sorted(set(training) & set(validation))
    found = [f"names case {name}, which has no labelled image" for name in unknown]
    found += [f"has {name} on both sides" for name in both]
    found += ["trains on no case"] if not training else []
    return [DataError(path, f"fold {fold} {what}", "correct or remove it") for what in found]


def _split_of_file(dataset: Dataset, path: Path, fold: int) -> Split:
    folds = read_folds(path)
    if not 0 <= fold < len(folds):
        raise _no_fold(fold, len(folds))
    by_name = {case.name: case for case in dataset.cases}
    for fault in fold_faults(by_name, path, fold, folds[fold]):
        raise fault
    training, validation = folds[fold]
    return Split(tuple(by_name[n] for n in training), tuple(by_name[n] for n in validation))


def _no_fold(fold: int, count: int) -> UsageError:
    return UsageError("--fold", f"there is no fold {fold}", f"use 0 to {count - 1}, or all")


def _hash(patient: str) -> str:
    return hashlib.sha256(patient.encode(errors="surrogateescape")).hexdigest()
