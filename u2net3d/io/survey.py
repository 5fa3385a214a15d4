"""Every fault of a data set that shows without opening a volume: its lists, pairs and splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from u2net3d.io import IMAGE_SUFFIXES, stem
from u2net3d.io.dataset import SPLITS_FILE, Case, Dataset, fold_faults, read_folds
from u2net3d.io.description import FILE_NAME, channels_of, labels_of, read_description
from u2net3d.io.findings import Finding, fault, from_error, kept, some, warning
from u2net3d.io.listing import Listing, list_cases, visible


@dataclass(frozen=True)
class Survey:
    """A data set as far as it can be had, and what is wrong with it.

    dataset: its channels or labels are empty where dataset.json does not say them rightly, and its
    cases are those whose files are all there.
    """

    dataset: Dataset
    findings: tuple[Finding, ...]


def survey(domain: str, folder: Path) -> Survey:
    """Looks at dataset.json, at the files it lists or leaves out, and at the splits; raises nothing
    for what is wrong with them."""
    findings: list[Finding] = []
    content: dict[str, Any] | None = None
    channels: tuple[str, ...] = ()
    labels: tuple[tuple[str, ...], int | None] = ((), None)
    with kept(findings):
        content = read_description(folder)
    if content is None:
        return Survey(Dataset(folder, domain, (), (), None, (), ()), tuple(findings))
    with kept(findings):
        channels = channels_of(folder, content)
    with kept(findings):
        labels = labels_of(folder, content)
    listing = list_cases(folder, content, len(channels) or _channel_count(content))
    findings.extend(map(from_error, listing.faults))
    findings.extend(_unlisted(folder, listing))
    findings.extend(_pairs(listing.labelled))
    findings.extend(_counts(folder, content, listing))
    findings.extend(_splits(folder / SPLITS_FILE, listing.labelled))
    cases, unlabelled = listing.labelled, listing.unlabelled
    dataset = Dataset(folder, domain, channels, *labels, cases, unlabelled)
    return Survey(dataset, tuple(dict.fromkeys(findings)))


def _channel_count(content: dict[str, Any]) -> int:
    """How many channels files are listed by, where their names cannot be had."""
    raw = content.get("channel_names", content.get("modality"))
    return len(raw) if isinstance(raw, dict) and raw else 1


def _unlisted(folder: Path, listing: Listing) -> Iterator[Finding]:
    """Images and labels that lie in the training folders and belong to no case."""
    known = {_plain(path) for path in listing.files}
    cases = {case.name for case in listing.labelled}
    for sub in ("imagesTr", "labelsTr") if listing.listed else ():
        for path in visible(folder / sub):
            if not path.name.lower().endswith(IMAGE_SUFFIXES) or _plain(path) in known:
                continue
            if stem(path) in cases:
                what = f"is a second file of case {stem(path)}"
                yield fault(path, what, "keep one of the two")
            else:
                mend = f"name it as the cases of {FILE_NAME}, or take it out of the folder"
                yield fault(path, f"belongs to no case that {FILE_NAME} lists", mend)


def _plain(path: Path) -> Path:
    """The path without `..` and links to folders, as far as the folder is there."""
    return path.parent.resolve() / path.name


def _pairs(cases: tuple[Case, ...]) -> Iterator[Finding]:
    """Labels that belong to two cases, or bear the name of another case."""
    owners: dict[Path, str] = {}
    names = {case.name for case in cases}
    for case in cases:
        if case.label is None:
            continue
        owner = owners.setdefault(_plain(case.label), case.name)
        if owner != case.name:
            what = f"is the label of both {owner} and {case.name}"
            yield fault(case.label, what, f"correct {FILE_NAME}")
        elif stem(case.label) != case.name and stem(case.label) in names:
            what = f"is the label of {case.name}, but is named like another case"
            yield warning(case.label, what, f"look whether {FILE_NAME} mixes up the two")


def _counts(folder: Path, content: dict[str, Any], listing: Listing) -> Iterator[Finding]:
    said = content.get("numTraining")
    if said is not None and str(said) != str(listing.listed):
        what = f"numTraining is {said}, but there are {listing.listed} training cases"
        yield fault(folder / FILE_NAME, what, "correct the number, or find the missing cases")
    tests = content.get("test")
    absent = len(tests) - len(listing.unlabelled) if isinstance(tests, list) else 0
    if absent > 0 and "file_ending" not in content:
        what = f"lists {absent} test images that are not there"
        yield warning(folder / FILE_NAME, what, "nothing to mend if you do not need them")


def _splits(path: Path, cases: tuple[Case, ...]) -> Iterator[Finding]:
    """Faults of a given split: unknown names, cases or patients on both sides."""
    found: list[Finding] = []
    folds: list[tuple[list[str], list[str]]] = []
    if path.is_file():
        with kept(found):
            folds = read_folds(path)
    yield from found
    patient = {case.name: case.patient for case in cases}
    for number, (training, validation) in enumerate(folds):
        yield from map(from_error, fold_faults(patient, path, number, (training, validation)))
        learnt = {patient[name] for name in {*training} - {*validation} if name in patient}
        judged = {patient[name] for name in {*validation} - {*training} if name in patient}
        if learnt & judged:
            who = some(sorted(learnt & judged))
            what = f"fold {number} has cases of one patient on both sides ({who})"
            yield fault(path, what, "move all cases of a patient to one side")
    left_out = sorted(set(patient) - {name for fold in folds for side in fold for name in side})
    if folds and left_out:
        what = f"leaves {len(left_out)} cases out of every fold ({some(left_out)})"
        yield warning(path, what, "add them to the folds, or remove the file")
