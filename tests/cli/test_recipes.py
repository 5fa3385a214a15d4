"""Which recipe a command trains by: that of the preset, and for a bank that of its model's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from u2net3d import store
from u2net3d.cli import training
from u2net3d.errors import UsageError
from u2net3d.losses import LOSSES
from u2net3d.models import network
from u2net3d.spec import BANK_KERNEL_RATE, BANK_LEARNING_RATE, PRESETS, RECIPES, TrainSpec


class Asked(Exception):
    """What a verb was about to do."""


@pytest.fixture
def options(tmp_path, monkeypatch):
    """The options of a verb without any; what it asks for is raised as `Asked`."""

    def ask(*given):
        (request,) = (each for each in given if isinstance(each, training.Request))
        raise Asked(request.spec)

    for verb in ("train_model", "add", "update_bank"):
        monkeypatch.setattr(training, verb, ask)
    return training.Options(tmp_path / "model", None, None, "0", "cpu", False, False, 7, None)


@pytest.fixture
def data(make_dataset, tmp_path):
    return make_dataset(tmp_path / "data").parent


def asked(verb, *given):
    with pytest.raises(Asked) as caught:
        verb(*given)
    return caught.value.args[0]


def model_of(preset, folder):
    model = PRESETS[preset].model_copy(update={"base_channels": 2, "stages": 2})
    store.save_model(folder, network(model), model, {}, {})


def test_a_preset_with_a_recipe_is_trained_by_it(options, data):
    spec = asked(training.train, ["liver"], data, "reference-series", options)
    assert spec == RECIPES["reference-series"].model_copy(update={"seed": 7})


def test_a_changed_preset_keeps_its_recipe_and_says_what_it_is_meant_for(options, data, capsys):
    spec = asked(training.train, ["liver"], data, "reference-series:base_channels=2", options)
    assert spec == RECIPES["reference-series"].model_copy(update={"seed": 7})
    assert "two patches of 128³ voxels a step" in capsys.readouterr().err
    asked(training.train, ["liver"], data, "base:base_channels=2", options)
    assert "GPU" not in capsys.readouterr().err


def test_a_preset_without_one_is_trained_by_the_default(options, data):
    spec = asked(training.train, ["liver"], data, "unet", options)
    assert spec == TrainSpec(seed=7)


@pytest.mark.parametrize(("preset", "steps"), [("base", 1500), ("tiny", 400), ("large", 25_000)])
def test_the_steps_of_a_preset_are_counted_per_domain(options, data, make_dataset, preset, steps):
    make_dataset(data, "Task07_Pancreas")
    two = asked(training.train, ["liver", "pancreas"], data, preset, options)
    assert two == RECIPES[preset].model_copy(update={"seed": 7, "steps": 2 * steps})
    model_of(preset, options.model)
    added = asked(training.add_domain, "liver", data, None, "fresh", options)
    assert (added.steps, added.learning_rate) == (steps, BANK_LEARNING_RATE)
    assert added.kernel_rate == BANK_KERNEL_RATE
    further = asked(training.update_domain, "liver", data, None, False, options)
    assert (further.steps, further.learning_rate) == (steps, RECIPES[preset].learning_rate)


@pytest.mark.parametrize("preset", ["base", "unet", "reference-parallel"])
def test_a_bank_is_trained_by_the_recipe_of_its_model(options, data, preset):
    model_of(preset, options.model)
    added = asked(training.add_domain, "liver", data, None, "fresh", options)
    anew = asked(training.update_domain, "liver", data, "fresh", False, options)
    further = asked(training.update_domain, "liver", data, None, False, options)
    known = RECIPES.get(preset, TrainSpec(learning_rate=BANK_LEARNING_RATE))
    kernel_rate = 0.0 if preset == "reference-parallel" else BANK_KERNEL_RATE
    assert added == anew == known.model_copy(update={"seed": 7, "kernel_rate": kernel_rate})
    own = RECIPES.get(preset, TrainSpec())
    assert further == own.model_copy(update={"seed": 7, "balanced_share": 0.0})


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_can_be_asked_for(options, data, loss):
    model_of("base", options.model)
    wanted = replace(options, loss=loss)
    for verb, *given in (
        (training.train, ["liver"], data, "unet-paper"),
        (training.add_domain, "liver", data, None, "fresh"),
        (training.update_domain, "liver", data, None, False),
    ):
        assert asked(verb, *given, wanted).loss == loss


def test_a_loss_that_there_is_not_is_refused_with_those_there_are(options, data):
    with pytest.raises(UsageError, match="'hinge' — use one of dice_ce, border_ce"):
        training.train(["liver"], data, "base", replace(options, loss="hinge"))


def test_the_help_names_every_loss(u2net3d):
    said = u2net3d("train", "--help").out
    assert all(name in said for name in LOSSES)
