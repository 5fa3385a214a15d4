"""A data set with test cases: a folder of links in which no training list knows them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from u2net3d import files
from u2net3d.io import stem
from u2net3d.io.dataset import Case, find_dataset

SHARE = 5  # one patient in five becomes a test patient, at least two


def hold_out(data: Path, name: str, root: Path) -> Path:
    """Makes <root>/<data set's folder> with imagesTr, labelsTr, imagesTs, labelsTs as links.

    Where the data set has labels for its imagesTs (labelsTs), those are the test cases; else a
    fifth of the patients, chosen by a hash of their names, leaves the training set.
    """
    found = find_dataset(data, name)
    folder = root / found.root.name
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / part).mkdir(parents=True)
    labelled = found.root / "labelsTs"
    if labelled.is_dir():
        kept = found.cases
        for part in ("imagesTs", "labelsTs"):
            for path in (found.root / part).iterdir():
                _link(path, folder / part)
    else:
        patients = sorted({case.patient for case in found.cases}, key=_hash)
        tests = set(patients[: max(2, len(patients) // SHARE)])
        kept = tuple(case for case in found.cases if case.patient not in tests)
        for case in found.cases:
            if case.patient in tests:
                _link_case(case, folder, "Ts")
    for case in kept:
        _link_case(case, folder, "Tr")
    _describe(found.root / "dataset.json", folder / "dataset.json", {case.name for case in kept})
    return folder


def _describe(source: Path, target: Path, kept: set[str]) -> None:
    content = json.loads(source.read_text())
    if isinstance(content.get("training"), list):  # MSD names every case
        content["training"] = [
            entry for entry in content["training"] if stem(Path(entry["image"])) in kept
        ]
        content["numTraining"] = len(content["training"])
    files.write_json(target, content)


def _link_case(case: Case, folder: Path, which: str) -> None:
    assert case.label is not None
    for path in case.images:
        _link(path, folder / f"images{which}")
    _link(case.label, folder / f"labels{which}")


def _link(path: Path, folder: Path) -> None:
    (folder / path.name).symlink_to(path.resolve())


def _hash(patient: str) -> str:
    return hashlib.sha256(f"test {patient}".encode()).hexdigest()
