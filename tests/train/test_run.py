"""`train`: what a run writes down, what it may look at, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version

import nibabel as nib
import numpy as np
import pytest
import torch

from u2net3d import store
from u2net3d.errors import DataError, UsageError
from u2net3d.io.dataset import Case, split
from u2net3d.spec import DomainSpec
from u2net3d.train import checkpoint
from u2net3d.train import run as running
from u2net3d.train.run import data_sha256, fresh_net, train_model

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def fit(tiny_model, request_for, watcher):
    """fit(datasets, **request) -> (result, manifest)"""

    def run(*datasets, model=None, **options):
        request = request_for(model, **options)
        quiet = (watcher(), lambda _: None, lambda *_: None)
        return train_model(datasets, tiny_model, request, *quiet)

    return run


def run_json(model):
    return json.loads((model / "runs/train/run.json").read_text())


def poison(dataset, cases):
    """Gives the cases enormous intensities and another spacing."""
    for case in cases:
        for path, factor in ((case.images[0], 1e6), (case.label, 1)):
            image = nib.load(path)
            data = (np.asarray(image.dataobj) * factor).astype(np.float32)
            nib.save(nib.Nifti1Image(data, np.diag([0.5, 0.6, 0.7, 1])), path)


def test_run_json_says_how_the_run_was_made(tiny_dataset, fit, tmp_path, no_pictures):
    liver = tiny_dataset("Task03_Liver")
    fit(liver, seed=7, fold=1)
    said = run_json(tmp_path / "model")
    cases = split(liver, 1)
    assert said["command"] == "u2net3d train --domains liver,heart"
    assert said["versions"]["torch"] == version("torch")
    assert set(said["versions"]) >= {"u2net3d", "torch", "numpy", "nibabel", "nnunetv2", "monai"}
    assert (said["training"]["seed"], said["training"]["fold"]) == (7, 1)
    assert said["model"] == store.read_manifest(tmp_path / "model").model.model_dump()
    domain = said["domains"]["liver"]
    assert domain["training"] == [case.name for case in cases.training]
    assert domain["validation"] == [case.name for case in cases.validation]
    stored = store.read_domains(tmp_path / "model")["liver"].said
    assert DomainSpec.model_validate(domain["specification"]) == stored.domain
    assert (stored.card["seed"], stored.card["fold"], stored.card["steps"]) == (7, 1, 4)


@pytest.mark.parametrize(("axis", "told"), [(0, []), (1, ["front to back"]), (2, ["head to foot"])])
def test_left_and_right_that_speak_against_the_headers_are_told(
    tiny_dataset, tiny_model, request_for, watcher, no_pictures, axis, told
):
    dataset, lines = tiny_dataset(labels=("background", "left eye", "right eye")), []
    for case in dataset.cases:
        image = nib.load(case.label)
        label = np.zeros(image.shape, np.int16)
        along = np.moveaxis(label, axis, 0)
        along[1:4, 3:6, 3:6], along[-4:-1, 3:6, 3:6] = 1, 2
        nib.save(nib.Nifti1Image(label, image.affine), case.label)
    train_model((dataset,), tiny_model, request_for(), watcher(), lines.append, lambda *_: None)
    assert [line.split(";")[0] for line in lines if "warning" in line] == [
        f"liver: warning: left eye and right eye lie apart from {words} by the headers"
        for words in told
    ]


@pytest.mark.parametrize("channel", ["CT", "MRI"])
def test_validation_cases_shape_neither_plan_nor_weights(
    tiny_dataset, fit, plan_of, tmp_path, no_pictures, channel
):
    sound = tiny_dataset("Task03_Liver", channels=(channel,))
    poisoned = tiny_dataset("Task33_Liver", channels=(channel,))  # the same volumes
    names = [case.name for case in sound.cases]
    for dataset in (sound, poisoned):  # 4 of 6 held out: a median over all would be theirs
        folds = json.dumps([{"train": names[:2], "val": names[2:]}])
        (dataset.root / "splits_final.json").write_text(folds)
    poison(poisoned, poisoned.cases[2:])
    assert plan_of(poisoned, poisoned.cases) != plan_of(sound, sound.cases)
    fit(sound, model=tmp_path / "one")
    fit(poisoned, model=tmp_path / "two")
    one, two = (run_json(tmp_path / name)["domains"] for name in ("one", "two"))
    assert one == two
    states = [
        checkpoint.load(tmp_path / name / "runs/train", run_json(tmp_path / name)["identity"]).net
        for name in ("one", "two")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_no_validation_case_is_trained_on_and_patients_are_on_one_side(
    tiny_dataset, fit, tmp_path, no_pictures
):
    frames = [f"patient{n:03d}_frame{f:02d}" for n in range(6) for f in (1, 2)]
    fit(tiny_dataset("Task22_Cine", cases=frames), steps=2)
    said = run_json(tmp_path / "model")["domains"]["cine"]
    sides = [{name.split("_")[0] for name in said[side]} for side in ("training", "validation")]
    assert not sides[0] & sides[1]
    assert sorted(said["training"] + said["validation"]) == sorted(frames)


def test_the_trunk_is_as_deep_as_its_deepest_domain(tiny_dataset, fit, no_pictures):
    small = tiny_dataset("Task03_Liver", shape=(12, 12, 12), spacing_mm=(1, 1, 1))
    _, manifest = fit(small, steps=1)
    assert manifest.model.stages == 2


def test_curves_and_pictures_of_the_worst_median_and_best_case_are_drawn(
    tiny_dataset, fit, tmp_path
):
    names = [f"liver_{n:03d}" for n in range(13)]  # 3 of them to judge by
    fit(tiny_dataset("Task03_Liver", cases=names), steps=2)
    run = tmp_path / "model/runs/train"
    pictures = {path.name for path in (run / "cases").iterdir()}
    assert pictures == {f"liver_{rank}.png" for rank in ("worst", "median", "best")}
    for path in [run / "progress.png", *(run / "cases").iterdir()]:
        content = path.read_bytes()
        assert content.startswith(PNG)
        width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
        assert min(width, height) > 100


def test_fold_all_learns_from_every_case_and_judges_by_none(
    tiny_dataset, fit, tmp_path, no_pictures
):
    result, _ = fit(tiny_dataset("Task03_Liver"), fold="all")
    said = run_json(tmp_path / "model")["domains"]["liver"]
    assert (len(said["training"]), said["validation"]) == (6, [])
    assert (result.step, result.scores) == (4, {})


def test_an_existing_model_is_refused_before_any_work(
    tiny_dataset, fit, tmp_path, no_pictures, monkeypatch
):
    dataset = tiny_dataset("Task03_Liver")
    fit(dataset)
    before = {path: path.read_bytes() for path in (tmp_path / "model").rglob("*.*")}
    monkeypatch.setattr("u2net3d.train.run.planned", lambda *_, **__: pytest.fail("work"))
    with pytest.raises(UsageError, match=r"holds a model already — add to it .*add-domain"):
        fit(dataset)
    assert {path: path.read_bytes() for path in (tmp_path / "model").rglob("*.*")} == before


def test_overwrite_replaces_model_and_history(tiny_dataset, fit, tmp_path, no_pictures):
    liver, heart = tiny_dataset("Task03_Liver"), tiny_dataset("Task02_Heart")
    fit(liver, heart)
    _, manifest = fit(liver, overwrite=True, steps=2, seed=3)
    assert set(manifest.domains) == set(store.read_domains(tmp_path / "model")) == {"liver"}
    history = (tmp_path / "model/runs/train/history.jsonl").read_text().splitlines()
    assert len(history) == 2 + 1
    assert run_json(tmp_path / "model")["training"]["seed"] == 3


def test_an_unfinished_run_is_not_written_over(tiny_dataset, fit, tmp_path, watcher, no_pictures):
    path = tmp_path / "model/runs/train/checkpoints/00000400.checkpoint"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"hours of work")
    with pytest.raises(UsageError, match="holds an earlier run — go on with --resume"):
        fit(tiny_dataset("Task03_Liver"))
    assert path.read_bytes() == b"hours of work"


def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    tiny_dataset, fit, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("u2net3d.train.run.planned", lambda *_, **__: pytest.fail("work"))
    with pytest.raises(UsageError, match=r"--model: .* is a file, not a folder"):
        fit(tiny_dataset("Task03_Liver"), model=tmp_path / "file/model")


def test_a_training_set_without_foreground_is_refused(tiny_dataset, fit):
    dataset = tiny_dataset("Task03_Liver")
    for case in split(dataset, 0).training:
        label = nib.load(case.label)
        nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), case.label)
    with pytest.raises(DataError, match="none of the 4 training cases holds a voxel of any label"):
        fit(dataset)


def test_the_expected_duration_counts_steps_and_validations(make_run, monkeypatch):
    seconds = {"liver": 2.0, "heart": 4.0}  # of a step; a tenth of it for a patch
    monkeypatch.setattr(running, "step_seconds", lambda _net, spec, *_: seconds[spec.name])
    monkeypatch.setattr(running, "patch_seconds", lambda _net, spec, _: seconds[spec.name] / 10)
    case = Case("held out", (), None, "held out")
    net, run = make_run(steps=10, validations=5, validation=(case, case))
    tiles = 2**3  # of 12 voxels a side in patches of 8 that overlap by half
    assert running.expected_seconds(net, run) == pytest.approx(
        10 * 3.0 + 5 * 2 * tiles * (0.2 + 0.4)
    )
    net, run = make_run(steps=10, validations=5)
    assert running.expected_seconds(net, run) == pytest.approx(30.0)


def test_the_hash_of_the_data_knows_its_content_and_no_names(make_run, blob_case, tmp_path):
    (tmp_path / "scan").write_bytes(b"voxels")

    def hash_of(name, content, scan):
        prepared = replace(blob_case(1), name=name, content=content)
        case = Case(name, (tmp_path / scan,), None, name)
        return data_sha256(make_run(cases=[prepared], validation=(case,))[1].learners[0])

    first = hash_of("Jane", "1", "scan")
    assert hash_of("John", "1", "scan") == first
    assert hash_of("Jane", "2", "scan") != first
    (tmp_path / "scan").write_bytes(b"others")
    assert hash_of("Jane", "1", "scan") != first


def test_the_seed_alone_decides_the_first_weights(tiny_dataset, tiny_model, plan_of):
    dataset = tiny_dataset("Task03_Liver")
    specs = {"liver": plan_of(dataset, dataset.cases)}
    one = fresh_net(tiny_model, specs, 0).state_dict()
    state = torch.random.get_rng_state()
    two, other = (fresh_net(tiny_model, specs, seed).state_dict() for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["banks.liver.stem.weight"], other["banks.liver.stem.weight"])
