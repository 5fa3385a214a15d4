"""The main job on the committed phantoms, by the commands that people type.

The net is narrow and the runs are short: what is held here is that everything fits together and
that older domains do not change, not how well phantoms are segmented.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import u2net3d
from u2net3d.cli import training
from u2net3d.cli.app import run
from u2net3d.spec import DEFAULT_PRESET, PRESETS, TrainSpec

DATA = Path(__file__).parents[2] / "data"
HEART, PANCREAS = DATA / "Task02_Heart", DATA / "Task07_Pancreas"


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A folder after: train two domains, predict, add a third, predict again, evaluate."""
    root = tmp_path_factory.mktemp("story")
    where = ["--model", str(root / "model"), "--device", "cpu"]
    learn = ["--data", str(DATA), "--cache", str(root / "cache"), *where]
    codes = {}
    with pytest.MonkeyPatch.context() as patch:
        small = PRESETS[DEFAULT_PRESET].model_copy(update={"base_channels": 4})
        patch.setitem(PRESETS, DEFAULT_PRESET, small)
        patch.setattr(training, "TrainSpec", partial(TrainSpec, validations=1, warmup_steps=4))
        codes["train"] = run(["train", "--domains", "heart,prostate", "--steps", "20", *learn])
        before = {path: path.read_bytes() for path in root.glob("model/**/*.safetensors")}
        image = next(iter(sorted(HEART.glob("imagesTs/*"))))
        for when in ("before", "after"):
            if when == "after":
                codes["add-domain"] = run(["add-domain", "pancreas", "--steps", "10", *learn])
            output = ["-o", str(root / f"{when}.nii.gz"), "--domain", "heart", *where]
            codes[f"predict {when}"] = run(["predict", "-i", str(image), *output])
        folders = ["-i", str(PANCREAS / "imagesTs"), "-o", str(root / "pancreas")]
        codes["predict"] = run(["predict", *folders, "--domain", "pancreas", *where])
    scored = ["--pred", str(root / "pancreas"), "--ref", str(PANCREAS / "labelsTs")]
    named = ["--domain", "pancreas", *where[:2], "--json", str(root / "scores.json")]
    codes["evaluate"] = run(["evaluate", *scored, *named])
    codes["verify"] = run(["verify", *where[:2]])
    return root, codes, before


def test_every_command_ends_well(story):
    _, codes, _ = story
    assert set(codes.values()) == {0}, codes


def test_the_older_domains_answer_voxel_for_voxel_as_before(story):
    root, _, _ = story
    assert (root / "before.nii.gz").read_bytes() == (root / "after.nii.gz").read_bytes()


def test_trunk_and_older_banks_keep_every_byte(story):
    root, _, before = story
    assert {path.name for path in before} == {
        "trunk.safetensors",
        "heart.safetensors",
        "prostate.safetensors",
    }
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (root / "model/domains/pancreas.safetensors").is_file()


def test_predictions_lie_where_their_images_do(story):
    root, _, _ = story
    for path in PANCREAS.glob("imagesTs/*"):
        image, label = nib.load(path), nib.load(root / "pancreas" / path.name)
        assert label.shape == image.shape
        np.testing.assert_array_equal(label.affine, image.affine)
        assert set(np.unique(label.dataobj)) <= {0, 1, 2}


def test_every_unseen_case_is_scored(story):
    root, _, _ = story
    report = json.loads((root / "scores.json").read_text())
    assert report["n"] == 3
    assert set(report["labels"]) == {"pancreas", "tumour"}
    assert 0 <= report["labels"]["pancreas"]["dice"] <= 1
    assert not report["failed"]


def test_what_a_person_looks_at_is_there(story):
    root, _, _ = story
    for name in ("train", "add-pancreas"):
        folder = root / "model/runs" / name
        for part in ("run.json", "history.jsonl", "progress.png"):
            assert (folder / part).stat().st_size > 0
        assert len(list(folder.glob("cases/*.png"))) >= 3


def test_domains_of_other_channels_and_spacings_share_the_trunk(story):
    root, _, _ = story
    model = u2net3d.load(root / "model", device="cpu")
    assert set(model.domains) == {"heart", "prostate", "pancreas"}
    prostate = next(iter(sorted(DATA.glob("Task05_Prostate/imagesTs/*"))))
    label = model.predict(prostate, domain="prostate")
    assert label.shape == nib.load(prostate).shape[:3]
