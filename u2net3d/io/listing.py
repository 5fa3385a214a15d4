"""Which cases a data set has: the files that dataset.json lists, or that lie in its folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from u2net3d.errors import DataError
from u2net3d.io import IMAGE_SUFFIXES, stem
from u2net3d.io.description import FILE_NAME


@dataclass(frozen=True)
class Case:
    """One volume: a 4-D or 3-D file, or one file per channel, and its label where there is one.

    patient: cases of one patient share it; a case without a partner is a patient of its own.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str


@dataclass(frozen=True)
class Listing:
    """The cases whose files are all there, sorted by name, and what is wrong with the others.

    listed: how many cases with a label were listed, whole or not; files: all that belong to a case
    or to a fault.
    """

    labelled: tuple[Case, ...]
    unlabelled: tuple[Case, ...]
    faults: tuple[DataError, ...]
    listed: int
    files: frozenset[Path]


_Files = tuple[tuple[Path, ...], Path | None, str]  # images, label, name of the case


def cases_of(
    folder: Path, content: dict[str, Any], channels: int
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The cases with a label, and those without; sorted by name.

    Raises DataError, the first fault of `list_cases`, where there is any.
    """
    listing = list_cases(folder, content, channels)
    if listing.faults:
        first, *others = listing.faults
        more = f" (and {len(others)} more)" if others else ""
        raise DataError(first.where, first.what + more, first.mend)
    return listing.labelled, listing.unlabelled


def list_cases(folder: Path, content: dict[str, Any], channels: int) -> Listing:
    """The cases of a data set with every fault of the list: files that are missing, cases twice.

    Cases without a label that dataset.json lists but the folder lacks are left out. Nothing is
    opened here.
    """
    faults: list[DataError] = []
    if "file_ending" in content:
        found = _nnunet_cases(folder, content["file_ending"], channels, faults)
    else:
        found = _msd_cases(folder, content, faults)
    labelled, unlabelled = (
        [one for one in group if not one[0][0].name.startswith("._")] for group in found
    )
    path = folder / FILE_NAME
    if not labelled and not faults:
        what = "lists no case to learn from"
        faults.append(DataError(path, what, "put labelled cases in the folder"))
    for group in (labelled, unlabelled):
        faults.extend(_twice(path, group))
    faults.extend(_missing(labelled))
    files = {path for images, label, _ in labelled for path in (*images, label) if path}
    files |= {Path(fault.where) for fault in faults}
    return Listing(
        _named(labelled), _named(unlabelled), tuple(faults), len(labelled), frozenset(files)
    )


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


def _msd_cases(
    folder: Path, content: dict[str, Any], faults: list[DataError]
) -> tuple[list[_Files], list[_Files]]:
    path = folder / FILE_NAME
    if not isinstance(content.get("training"), list):
        what = "lists no cases (neither training, as in MSD, nor file_ending, as in nnU-Net)"
        faults.append(DataError(path, what, 'add "training": [{"image": ..., "label": ...}]'))
        return [], []
    labelled: list[_Files] = []
    for entry in content["training"]:
        if not isinstance(entry, dict) or {"image", "label"} - entry.keys():
            what = f"a training entry lacks image or label ({str(entry)[:80]})"
            mend = 'write {"image": "./imagesTr/...", "label": "./labelsTr/..."}'
            faults.append(DataError(path, what, mend))
            continue
        image = folder / str(entry["image"])
        labelled.append(((image,), folder / str(entry["label"]), stem(image)))
    unlabelled: list[_Files] = []
    tests = content.get("test")
    for entry in tests if isinstance(tests, list) else []:
        image = folder / str(entry.get("image") if isinstance(entry, dict) else entry)
        unlabelled.append(((image,), None, stem(image)))
    return labelled, unlabelled


def _nnunet_cases(
    folder: Path, ending: Any, channels: int, faults: list[DataError]
) -> tuple[list[_Files], list[_Files]]:
    if ending not in IMAGE_SUFFIXES:
        mend = f"convert the files to one of {', '.join(IMAGE_SUFFIXES)}"
        faults.append(DataError(folder / FILE_NAME, f"file_ending {ending} is not read here", mend))
        return [], []
    images, broken = _channel_files(folder / "imagesTr", ending, channels, faults)
    labels = folder / "labelsTr"
    names = {stem(label) for label in visible(labels, ending)} | images.keys()
    labelled: list[_Files] = []
    for name in sorted(names - broken):  # the files that must be there, so that one can be missed
        wanted = (folder / "imagesTr" / f"{name}_{i:04d}{ending}" for i in range(channels))
        labelled.append((tuple(wanted), labels / f"{name}{ending}", name))
    tests, _ = _channel_files(folder / "imagesTs", ending, channels, faults)
    return labelled, [(files, None, name) for name, files in sorted(tests.items())]


def _channel_files(
    folder: Path, ending: str, channels: int, faults: list[DataError]
) -> tuple[dict[str, tuple[Path, ...]], set[str]]:
    """case -> its files in order of the channel; and the cases whose numbers are not all there."""
    found: dict[str, list[Path]] = {}
    for path in visible(folder, ending):
        match = re.fullmatch(r"(.+)_(\d{4})", stem(path))
        if match:
            found.setdefault(match[1], []).append(path)
        else:
            mend = f"name it <case>_0000{ending}, the next channel _0001"
            faults.append(DataError(path, "has no channel number in its name", mend))
    whole, broken = {}, set()
    for case, paths in found.items():
        numbers = [stem(path)[-4:] for path in paths]
        if numbers == [f"{i:04d}" for i in range(channels)]:
            whole[case] = tuple(paths)
            continue
        broken.add(case)
        what = f"case {case} has the channels {', '.join(numbers)}"
        mend = f"{FILE_NAME} names {channels}, numbered from 0000: bring them into agreement"
        faults.append(DataError(folder, what, mend))
    return whole, broken


def visible(folder: Path, ending: str = "") -> list[Path]:
    """The files of that ending, sorted, without the `._` files that macOS leaves behind."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob(f"*{ending}") if not p.name.startswith("."))


def _missing(labelled: Iterable[_Files]) -> list[DataError]:
    wanted = [path for images, label, _ in labelled for path in (*images, label) if path]
    mend = "put it there, or take its case out of the data set"
    return [DataError(path, _absence(path), mend) for path in wanted if not path.is_file()]


def _absence(path: Path) -> str:
    if path.is_symlink():
        return "is a link that leads to no file"
    return "is no file" if path.exists() else "is missing"


def _twice(path: Path, group: Iterable[_Files]) -> list[DataError]:
    counts = Counter(name for _, _, name in group)
    return [
        DataError(path, f"lists case {name} twice", "list every case once")
        for name, count in counts.items()
        if count > 1
    ]


def _named(group: list[_Files]) -> tuple[Case, ...]:
    """The cases that are there and listed once, sorted."""
    counts = Counter(name for _, _, name in group)
    patient = patients([name for _, _, name in group])
    cases = (
        Case(name, images, label, patient[name])
        for images, label, name in group
        if counts[name] == 1 and all(path.is_file() for path in (*images, label) if path)
    )
    return tuple(sorted(cases, key=lambda case: case.name))
