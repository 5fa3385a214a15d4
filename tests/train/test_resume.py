"""A run stopped at step N and taken up again is the run that was not stopped, bit for bit."""

from __future__ import annotations

import json
import os
import signal

import nibabel as nib
import numpy as np
import pytest

from u2net3d.errors import TrainingError
from u2net3d.io.dataset import split
from u2net3d.spec import RECIPES
from u2net3d.train import checkpoint, loop, plateau
from u2net3d.train.history import History
from u2net3d.train.loop import train
from u2net3d.train.run import train_model


@pytest.fixture
def datasets(tiny_dataset):
    return (tiny_dataset("Task03_Liver", seed=1), tiny_dataset("Task02_Heart", seed=2))


@pytest.fixture
def fit(datasets, tiny_model, request_for, no_pictures, watcher):
    """fit(folder, stop_after=N, resume=..., **TrainSpec): trains, or is stopped after step N."""

    def run(folder, stop_after=None, given=None, resume=False, **training):
        heard = watcher(stop_after)
        request = request_for(folder, resume=resume, **training)
        arguments = (request, heard, lambda _: None, lambda *_: None)
        if stop_after is None:
            train_model(given or datasets, tiny_model, *arguments)
        else:
            with pytest.raises(KeyboardInterrupt):
                train_model(given or datasets, tiny_model, *arguments)
        return heard

    return run


def saved(folder):
    """The checkpoint without what the clock says."""
    run = folder / "runs/train"
    identity = json.loads((run / "run.json").read_text())["identity"]
    content = vars(checkpoint.load(run, identity))
    return {key: value for key, value in content.items() if not key.endswith("_s")}


def weight_files(folder):
    paths = sorted(folder.rglob("*.safetensors"))
    return {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("stop_after", "validations", "training"),
    [
        (1, 1, {}),
        (3, 2, {}),
        (4, 2, {}),  # between a step and the validation that is due after it
        (3, 1, {"elastic": True, "loss": "border_ce"}),
    ],
)
def test_n_steps_and_the_rest_are_all_the_steps(
    fit, tmp_path, identical, monkeypatch, stop_after, validations, training
):
    monkeypatch.setattr("u2net3d.train.run.card", lambda *_: {})  # seconds differ
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    budget = {"steps": 8, "validations": validations, **training}
    once = fit(whole, **budget)
    first = fit(halves, stop_after, **budget)
    second = fit(halves, resume=True, **budget)
    assert first.losses + second.losses == once.losses
    assert first.validations + second.validations == once.validations
    assert identical(saved(halves), saved(whole))
    assert weight_files(halves) == weight_files(whole)
    assert len(weight_files(whole)) == 3


def test_the_optimiser_goes_on_where_it_was(fit, tmp_path, identical):
    fit(tmp_path / "whole", steps=6, optimiser="sgd")
    fit(tmp_path / "halves", 3, steps=6, optimiser="sgd")
    at_the_stop = saved(tmp_path / "halves")["optimiser"]
    fit(tmp_path / "halves", resume=True, steps=6, optimiser="sgd")
    end = saved(tmp_path / "halves")["optimiser"]
    assert identical(end, saved(tmp_path / "whole")["optimiser"])
    assert not identical(end, at_the_stop)


def test_the_paper_recipe_goes_on_with_the_rate_that_it_had(fit, tmp_path, identical, monkeypatch):
    monkeypatch.setattr(plateau, "EPOCH_STEPS", 2)
    monkeypatch.setattr(plateau, "WINDOW", 1)
    monkeypatch.setattr(plateau, "LEAST_GAIN", 1e9)  # no gain is ever enough
    recipe = RECIPES["reference-separable"].model_dump(exclude={"steps", "validations", "cube"})
    fit(tmp_path / "whole", steps=8, **recipe)
    fit(tmp_path / "halves", 3, steps=8, **recipe)
    fit(tmp_path / "halves", resume=True, steps=8, **recipe)
    assert identical(saved(tmp_path / "halves"), saved(tmp_path / "whole"))
    rows = History(tmp_path / "halves/runs/train").rows()
    rates = [row["learning_rate"] for row in rows if row["kind"] == "train"]
    assert rates == [3e-4] * 4 + [1.5e-4] * 2 + [0.75e-4] * 2


def test_the_batches_are_the_same(make_run, watcher, monkeypatch, identical, no_pictures):
    seen = []
    learn = loop._learn

    def spy(net, optimiser, batch, *rest):
        seen.append((batch.domain, batch.image.clone(), batch.label.clone()))
        return learn(net, optimiser, batch, *rest)

    monkeypatch.setattr(loop, "_learn", spy)
    train(*make_run(steps=7), watcher(), resume=False)
    once = seen.copy()
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        train(*make_run(steps=7), watcher(stop_after=3), resume=False)
    train(*make_run(steps=7), watcher(), resume=True)
    assert len(seen) == 7
    assert identical(seen, once)


def test_a_run_stopped_twice_is_still_the_same(fit, tmp_path, identical):
    fit(tmp_path / "whole", steps=6)
    fit(tmp_path / "thirds", 2, steps=6)
    fit(tmp_path / "thirds", 5, steps=6, resume=True)
    fit(tmp_path / "thirds", steps=6, resume=True)
    assert identical(saved(tmp_path / "thirds"), saved(tmp_path / "whole"))


def test_a_finished_run_taken_up_again_does_nothing_more(fit, tmp_path, identical):
    fit(tmp_path / "model", steps=4)
    before = saved(tmp_path / "model")
    assert fit(tmp_path / "model", steps=4, resume=True).losses == []
    assert identical(saved(tmp_path / "model"), before)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"steps": 9}, {"fold": 1}, {"learning_rate": 1.0}], ids=str
)
def test_a_changed_recipe_is_refused_and_run_json_kept(fit, tmp_path, request_for, change):
    fit(tmp_path / "model", 2)
    run = tmp_path / "model/runs/train"
    before = {path: path.read_bytes() for path in run.rglob("*.*")}
    with pytest.raises(TrainingError, match="another configuration"):
        fit(tmp_path / "model", resume=True, **change)
    assert {path: path.read_bytes() for path in run.rglob("*.*")} == before


def test_changed_cases_or_plans_are_refused(fit, tmp_path, tiny_dataset, datasets):
    fit(tmp_path / "model", 2)
    liver, _ = datasets
    more_cases = tiny_dataset("Task12_Heart", cases=7, seed=2)
    other_plan = tiny_dataset("Task22_Heart", spacing_mm=(1, 1, 1), seed=2)
    for heart in (more_cases, other_plan):
        assert heart.domain == "heart"
        with pytest.raises(TrainingError, match="another configuration"):
            fit(tmp_path / "model", given=(liver, heart), resume=True)


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
@pytest.mark.parametrize("side", ["training", "validation"])
def test_changed_files_of_either_side_are_refused(fit, tmp_path, datasets, folder, side):
    fit(tmp_path / "model", 2)
    (case, *_) = getattr(split(datasets[0], 0), side)
    path = case.images[0] if folder == "imagesTr" else case.label
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).copy()
    voxels[6, 5, 4] = 1 - voxels[6, 5, 4].clip(0, 1)
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    with pytest.raises(TrainingError, match="another configuration"):
        fit(tmp_path / "model", resume=True)


def test_without_a_checkpoint_there_is_nothing_to_resume(fit, tmp_path):
    with pytest.raises(TrainingError, match="there is no checkpoint"):
        fit(tmp_path / "model", resume=True)


def test_history_has_no_step_twice(fit, tmp_path):
    fit(tmp_path / "model", 3, steps=6, validations=3)
    history = tmp_path / "model/runs/train/history.jsonl"
    late = {"kind": "train", "step": 3, "domain": "heart", "loss": 9.0, "learning_rate": 1.0}
    with history.open("a") as handle:  # a step after the checkpoint, and a line cut off
        handle.write(json.dumps({**late, "seconds": 1.0}) + '\n{"kind": "tra')
    fit(tmp_path / "model", steps=6, validations=3, resume=True)
    rows = History(history.parent).rows()
    assert [row["step"] for row in rows if row["kind"] == "train"] == [0, 1, 2, 3, 4, 5]
    validated = [(row["step"], row["domain"]) for row in rows if row["kind"] == "validation"]
    assert validated == [(step, name) for step in (2, 4, 6) for name in ("liver", "heart")]
    assert all(row.get("loss") != 9.0 for row in rows)


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a shell starts background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_in_the_middle_of_a_step_waits_for_its_end(
    make_run, watcher, monkeypatch, identical, weights_of, no_pictures
):
    whole, run = make_run(steps=6)
    train(whole, run, watcher(), resume=False)
    supervised, calls = loop.supervised, []

    def pressed(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return supervised(*arguments)

    monkeypatch.setattr(loop, "supervised", pressed)
    net, run = make_run(steps=6)
    with pytest.raises(KeyboardInterrupt):
        train(net, run, watcher(), resume=False)
    assert checkpoint.load(run.folder, run.identity).step == 3
    net, run = make_run(steps=6)
    train(net, run, watcher(), resume=True)
    assert identical(weights_of(net), weights_of(whole))


def test_ctrl_c_in_the_middle_of_a_validation_repeats_it(fit, tmp_path, monkeypatch, identical):
    fit(tmp_path / "whole", steps=4, validations=2)
    judge = loop.judge

    def stopped(*arguments):
        monkeypatch.setattr(loop, "judge", judge)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "judge", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "halves", steps=4, validations=2)
    heard = fit(tmp_path / "halves", steps=4, validations=2, resume=True)
    assert [step for step, _ in heard.validations] == [2, 4]
    assert identical(saved(tmp_path / "halves"), saved(tmp_path / "whole"))
