"""Nothing leaves the machine, and nothing that is written says whose images were read or where.

One data set whose headers, folders and case names hold marked words goes through every verb, with
every network call forbidden; then each byte that was written is searched for the marks. The rule
stands in docs/privacy.md.
"""

from __future__ import annotations

import gzip
import io
import json
import socket
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

TORN = b"\x1f\x8b torn"
HEADER, FOLDER, CASE = "Doe^Jane", "Xstation7", "Ysmith"  # where each word stands


@dataclass(frozen=True)
class Lived:
    """What a life of commands left: the model, its cache, outputs, and what was said."""

    model: Path
    cache: Path
    outputs: Path
    codes: dict[str, int]


@pytest.fixture(scope="module")
def lived(tmp_path_factory, make_dataset) -> Lived:
    """Trains, adds, predicts, evaluates, checks and lists, without a network."""
    root = tmp_path_factory.mktemp(FOLDER)
    data, out = root / "data", root / "out"
    for number, (name, case) in enumerate([("Liver", "a"), ("Pancreas", "b")]):
        names = [f"{CASE}{case}_{i}" for i in range(3)]
        folder = make_dataset(data, f"Task0{number}_{name}", names, shape=(12, 12, 10), seed=number)
        for path in folder.rglob("*.nii.gz"):
            _sign(path)
    images = data / "Task00_Liver" / "imagesTr"
    (images / "torn.nii.gz").write_bytes(TORN)
    (data / "Task00_Liver" / "labelsTr" / "torn.nii.gz").write_bytes(TORN)
    model = ("--model", root / "model")
    train = ("--data", data, *model, "--cache", root / "cache", "--steps", 2)
    liver = data / "Task00_Liver"
    predict = ("predict", "-i", images, "-o", out / "pred", "--domain", "liver", *model)
    (out / "pred").mkdir(parents=True)
    (out / "pred" / "torn.nii.gz").write_bytes(TORN)
    commands = {
        "train": ("train", "--domains", f"liver={liver}", *train),
        "add": ("add-domain", "pancreas", *train),
        "predict": (*predict, "--statistics", out / "volumes.json", "--preview", "--probabilities"),
        "evaluate": (
            *("evaluate", "--pred", out / "pred", "--ref", liver / "labelsTr"),
            *("--domain", "liver", *model, "--json", out / "s.json", "--csv", out / "s.csv"),
        ),
        "check": ("check", "--data", data, "--cache", root / "cache"),
        "domains": ("domains", *model, "--json"),
        "verify": ("verify", *model),
        "card": ("card", *model, "-o", out / "cards"),
    }
    with pytest.MonkeyPatch.context() as patch:
        _forbid_the_network(patch)
        codes = {verb: _run(patch, *words) for verb, words in commands.items()}
    (out / "pred" / "torn.nii.gz").unlink()
    return Lived(root / "model", root / "cache", out, codes)


def _sign(path: Path) -> None:
    """Writes the marked word into every free text of a NIfTI header, and into an extension."""
    image = nib.load(path)
    header = image.header
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        header[field] = HEADER
    extension = nib.nifti1.Nifti1Extension("comment", f"{HEADER} born 1 April".encode())
    header.extensions.append(extension)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, header), path)


def _forbid_the_network(patch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **_: object) -> None:
        raise AssertionError(f"a network call: {words}")

    for method in ("connect", "connect_ex", "bind", "sendto"):
        patch.setattr(socket.socket, method, refuse)
    for function in ("create_connection", "getaddrinfo", "gethostbyname"):
        patch.setattr(socket, function, refuse)


def _run(patch: pytest.MonkeyPatch, *words: object) -> int:
    from u2net3d.cli.app import run

    arguments = [str(word) for word in words]
    patch.setattr(sys, "argv", ["u2net3d", *arguments])
    return run(arguments)


def contents(path: Path) -> list[bytes]:
    """The bytes of a file, and what they unpack to."""
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b") and raw != TORN:
        return [raw, gzip.decompress(raw)]
    if zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return [raw, *(archive.read(name) for name in archive.namelist())]
    return [raw]


def found(word: str, *places: Path) -> list[str]:
    """The files below the places that hold a word, in any of the usual codes."""
    codes = [word.encode(), word.encode("utf-16-le"), word.encode().hex().encode()]
    files = [path for place in places for path in [place, *place.rglob("*")] if path.is_file()]
    assert files
    return [
        path.name
        for path in files
        if any(code in content for content in contents(path) for code in codes)
    ]


def shared(model: Path) -> list[Path]:
    """The files of a model that are given away: all but its runs."""
    runs = model / "runs"
    return [path for path in model.rglob("*") if path.is_file() and runs not in path.parents]


def test_every_verb_works_without_a_network(lived):
    assert lived.codes == {
        "train": 0,
        "add": 0,
        "predict": 3,  # the torn case
        "evaluate": 3,
        "check": 1,
        "domains": 0,
        "verify": 0,
        "card": 0,
    }


def test_the_search_finds_what_is_there(lived, tmp_path):
    """So that the tests below cannot pass by searching wrongly."""
    data = lived.model.parent / "data"
    assert len(found(HEADER, data)) == 12
    assert "run.json" in found(CASE, lived.model)
    (tmp_path / "a.txt").write_text(FOLDER)
    np.savez(tmp_path / "b.npz", a=np.frombuffer(HEADER.encode(), np.uint8))
    assert found(FOLDER, tmp_path) == ["a.txt"]
    assert found(HEADER, tmp_path) == ["b.npz"]


def test_no_text_of_a_header_is_written_anywhere(lived):
    assert found(HEADER, lived.model, lived.cache, lived.outputs) == []


def test_no_folder_of_this_machine_is_written_anywhere(lived):
    assert found(FOLDER, lived.model, lived.cache, lived.outputs) == []


def test_what_is_shared_of_a_model_names_no_case(lived):
    files = shared(lived.model)
    names = {str(path.relative_to(lived.model)) for path in files}
    assert {"manifest.json", "trunk.safetensors", "domains/liver.safetensors"} <= names
    assert found(CASE, *files) == []
    assert not [path for path in files if CASE in path.name]


def test_cards_name_no_case(lived):
    cards = [*(lived.outputs / "cards").iterdir()]
    assert len(cards) == 2 * 3 + 2
    assert found(CASE, *cards) == []


def test_the_cache_names_no_case(lived):
    assert found(CASE, lived.cache) == []
    assert not [path for path in lived.cache.rglob("*") if CASE in path.name]


def test_written_labels_hold_a_header_of_their_own(lived):
    labels = [*(lived.outputs / "pred").glob("*.nii.gz")]
    assert len(labels) >= 3
    for path in labels:
        header = nib.load(path).header
        assert [
            bytes(header[field].tobytes()).strip(b"\0") for field in ("descrip", "aux_file")
        ] == [
            b"",
            b"",
        ]
        assert list(header.extensions) == []


def test_a_run_keeps_its_command_without_its_paths(lived):
    told = json.loads((lived.model / "runs" / "train" / "run.json").read_text())
    assert told["command"] == (
        "u2net3d train --domains liver=PATH --data PATH --model PATH --cache PATH --steps 2"
    )
