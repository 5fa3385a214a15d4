"""The loop: it learns, it touches only what a step is about, and it keeps the best."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from u2net3d.errors import DataError, TrainingError
from u2net3d.io.dataset import Case
from u2net3d.train import checkpoint
from u2net3d.train.loop import train
from u2net3d.train.validate import DomainScore, Judged


def changed(before, after):
    """Names of the weights that differ in any bit."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def used_by(domain, stages):
    """Prefixes of the weights that a step of `domain` may move: its bank and its trunk stages."""
    levels = [(part, i) for part in ("down", "up", "decoder") for i in range(stages - 1)]
    stems = [("encoder", i) for i in range(stages)]
    return (f"banks.{domain}.", *(f"trunk.{part}.{i}." for part, i in stems + levels))


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """scripted({domain: [Dice of the first validation, ...]}): what validations will say."""

    def script(dices):
        said = {name: iter(values) for name, values in dices.items()}

        def judge(net, spec, dataset, cases, device):
            dice = next(said[spec.name])
            return DomainScore(spec.labels[1:], tuple(Judged(case, (dice,)) for case in cases))

        monkeypatch.setattr("u2net3d.train.loop.judge", judge)

    return script


CASE = Case("held out", (), None, "held out")


@pytest.mark.parametrize(("optimiser", "rate"), [("adamw", 1e-2), ("sgd", 1e-2)])
def test_the_loss_goes_down_on_balls_in_noise(make_run, watcher, no_pictures, optimiser, rate):
    net, run = make_run(
        {"liver": 2}, steps=40, warmup_steps=4, optimiser=optimiser, learning_rate=rate
    )
    heard = watcher()
    train(net, run, heard, resume=False)
    assert np.mean(heard.losses[-8:]) < np.mean(heard.losses[:8]) - 0.2


def test_domains_take_turns(make_run, watcher, no_pictures):
    net, run = make_run({"liver": 2, "heart": 3, "spleen": 2}, steps=7)
    heard = watcher()
    train(net, run, heard, resume=False)
    assert heard.domains == ["liver", "heart", "spleen", "liver", "heart", "spleen", "liver"]


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_step_leaves_other_banks_and_unused_stages_as_they_are(
    make_run, watcher, weights_of, no_pictures, optimiser
):
    stages = {"liver": 2, "heart": 3, "spleen": 2}
    net, run = make_run(stages, steps=9, optimiser=optimiser)
    before, heard = weights_of(net), watcher(net=net)
    train(net, run, heard, resume=False)
    for domain, after in zip(heard.domains, heard.weights, strict=True):
        moved = changed(before, after)
        allowed = used_by(domain, stages[domain])
        assert {name for name in moved if not name.startswith(allowed)} == set()
        assert any(name.startswith(f"banks.{domain}.") for name in moved)
        assert any(name.startswith("trunk.") for name in moved)
        before = after


def test_best_is_the_highest_mean_over_domains_at_one_step(
    make_run, watcher, weights_of, scripted, no_pictures
):
    # Means 0.5, 0.6, 0.575: liver alone was best at step 6, heart and the mean at step 4.
    scripted({"liver": [0.9, 0.6, 0.95], "heart": [0.1, 0.6, 0.2]})
    net, run = make_run(validation=(CASE,), steps=6, validations=3)
    heard = watcher(net=net)
    result = train(net, run, heard, resume=False)
    assert heard.validations == [(2, True), (4, True), (6, False)]
    assert (result.step, result.steps) == (4, 6)
    assert {name: score.mean for name, score in result.scores.items()} == {
        "liver": 0.6,
        "heart": 0.6,
    }
    assert changed(weights_of(net), heard.weights[3]) == set()
    assert changed(weights_of(net), heard.weights[5]) != set()


def test_of_equal_validations_the_first_is_best(make_run, watcher, scripted, no_pictures):
    scripted({"liver": [0.0, 0.0]})
    net, run = make_run({"liver": 2}, validation=(CASE,), steps=4, validations=2)
    assert train(net, run, watcher(), resume=False).step == 2


def test_without_validation_cases_the_last_step_is_taken(
    make_run, watcher, weights_of, no_pictures
):
    net, run = make_run(steps=6, validations=3)
    heard = watcher(net=net)
    result = train(net, run, heard, resume=False)
    assert (result.step, result.scores) == (6, {})
    assert changed(weights_of(net), heard.weights[-1]) == set()
    assert not net.training


def no_memory(*_):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes.\nError")


def test_memory_that_runs_out_in_a_step_is_said_in_a_line(
    make_run, watcher, no_pictures, monkeypatch
):
    monkeypatch.setattr("u2net3d.train.loop.supervised", no_memory)
    net, run = make_run({"liver": 2})
    with pytest.raises(TrainingError, match="memory ran out in a step of liver") as error:
        train(net, run, watcher(), resume=False)
    assert "(patches of 2×1×8×8×8)" in str(error.value)
    assert "\n" not in str(error.value)


def test_memory_that_runs_out_in_a_validation_costs_no_step(
    make_run, watcher, no_pictures, monkeypatch
):
    monkeypatch.setattr("u2net3d.train.loop.judge", no_memory)
    net, run = make_run({"liver": 2}, validation=(CASE,), steps=4, validations=2)
    with pytest.raises(TrainingError, match="memory ran out in the validation of liver"):
        train(net, run, watcher(), resume=False)
    assert checkpoint.load(run.folder, run.identity).step == 2


def test_a_patch_that_cannot_be_cut_costs_no_step_and_its_case_is_named(
    make_run, watcher, no_pictures, monkeypatch
):
    from u2net3d.patches import loader

    real, calls = loader.augmented_patch, []

    def failing(case, *rest):
        calls.append(case)
        if len(calls) > 6:  # three batches of two
            raise MemoryError
        return real(case, *rest)

    monkeypatch.setattr(loader, "augmented_patch", failing)
    net, run = make_run({"liver": 2})
    with pytest.raises(DataError, match=r"liver, case case\d: memory ran out while a patch"):
        train(net, run, watcher(), resume=False)
    assert checkpoint.load(run.folder, run.identity).step == 3


def test_a_frozen_trunk_stays_and_is_not_in_the_checkpoint(
    make_run, watcher, weights_of, no_pictures
):
    net, run = make_run(steps=6)
    net.freeze_trunk()
    before = weights_of(net)
    train(net, run, watcher(), resume=False)
    moved = changed(before, weights_of(net))
    assert {name.split(".")[0] for name in moved} == {"banks"}
    saved = checkpoint.load(run.folder, run.identity)
    assert not any(name.startswith("trunk") for name in {*saved.net, *saved.best_net})


def test_a_time_budget_ends_the_run_after_a_validation(make_run, watcher, scripted, no_pictures):
    scripted({"liver": [0.5] * 9, "heart": [0.5] * 9})
    net, run = make_run(validation=(CASE,), time_s=0.5, validations=2)
    heard = watcher()
    result = train(net, run, heard, resume=False)
    assert result.steps == len(heard.losses) == heard.validations[-1][0] >= 1
    assert 1 <= len(heard.validations) <= 2


def test_history_holds_every_step_and_validation(make_run, watcher, scripted, no_pictures):
    from u2net3d.train.history import History

    scripted({"liver": [0.25, 0.5], "heart": [math.nan, 0.5]})
    net, run = make_run(validation=(CASE,), steps=4, validations=2)
    heard = watcher()
    train(net, run, heard, resume=False)
    rows = History(run.folder).rows()
    assert [row["loss"] for row in rows if row["kind"] == "train"] == heard.losses
    validated = [row for row in rows if row["kind"] == "validation"]
    assert [(row["step"], row["domain"], row["dice"]["ball"]) for row in validated] == [
        (2, "liver", 0.25),
        (2, "heart", None),
        (4, "liver", 0.5),
        (4, "heart", 0.5),
    ]
