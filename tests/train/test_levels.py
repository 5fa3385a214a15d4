"""Which levels a domain has, what they were worth, and which is enough."""

from __future__ import annotations

import json

import numpy as np
import pytest

from u2net3d import store
from u2net3d.errors import UsageError
from u2net3d.infer.predict import Options, load
from u2net3d.io.dataset import read_case
from u2net3d.spec import ModelSpec
from u2net3d.train.add_domain import add_domain
from u2net3d.train.levels import smallest
from u2net3d.train.run import train_model


@pytest.mark.parametrize(
    ("dice", "level"),
    [
        ((0.90, 0.95, 0.96), 2),  # within 0.01 of the deepest, to the hundredth
        ((0.90, 0.949, 0.96), 3),
        ((0.97, 0.95, 0.96), 1),
        ((0.5,), 1),
    ],
)
def test_the_smallest_that_is_nearly_as_good_as_the_deepest(dice, level):
    assert smallest(dice) == level


@pytest.fixture
def trained(tiny_dataset, request_for, watcher, no_pictures):
    """trained(options, **training) -> (folder of a unetpp of two levels, its data set)"""

    def train(family="unetpp", **options):
        model = ModelSpec(family=family, base_channels=2, stages=3, options=options)
        request = request_for()
        liver = tiny_dataset("Task03_Liver")
        train_model([liver], model, request, watcher(), lambda _: None, lambda *_: None)
        return request.model, liver

    return train


@pytest.mark.parametrize("block", ["plain", "separable"])
def test_training_says_on_the_card_what_levels_are_worth(trained, block):
    folder, _liver = trained(block=block)
    record = store.read_domains(folder)["liver"].said
    assert record.levels.count == record.domain.plan.stages - 1
    assert len(record.levels.validation_dice) == record.levels.count
    assert record.levels.auto == smallest(record.levels.validation_dice)
    deepest = np.nanmean(list(record.card["validation_dice"].values()))
    assert record.levels.validation_dice[-1] == pytest.approx(deepest)


def test_a_level_answers_by_itself_and_auto_is_the_one_of_the_card(trained):
    folder, liver = trained()
    model = load(folder, device="cpu", engine="torch")
    levels = model.origin("liver").levels
    image = read_case(liver, liver.cases[0]).image
    found = {
        level: model.answer(image, liver.root, "liver", Options(level=level, cleanup=False)).label
        for level in (None, "auto", "mean", *range(1, levels.count + 1))
    }
    np.testing.assert_array_equal(found["auto"], found[levels.auto])
    np.testing.assert_array_equal(found[None], found[levels.count])


@pytest.mark.parametrize(
    ("level", "what"), [(9, "liver has no level 9"), (0, "liver has no level 0")]
)
def test_a_level_that_there_is_not_is_refused_in_a_line(trained, level, what):
    folder, _ = trained()
    model = load(folder, device="cpu", engine="torch")
    with pytest.raises(UsageError, match=what):
        model.engine("liver", Options(level=level))


def test_a_family_without_levels_refuses_them(trained):
    folder, _ = trained("unet")
    model = load(folder, device="cpu", engine="torch")
    assert model.origin("liver").levels is None
    for level in (1, "auto", "mean"):
        with pytest.raises(UsageError, match="answers at its full depth alone"):
            model.engine("liver", Options(level=level))


def test_a_domain_that_is_added_has_levels_of_its_own(
    trained, tiny_dataset, request_for, watcher, no_pictures
):
    folder, _ = trained(block="separable")
    before = (folder / "trunk.safetensors").read_bytes()
    heart = tiny_dataset("Task02_Heart")
    quiet = (watcher(), lambda _: None, lambda *_: None)
    add_domain(heart, request_for(folder), "fresh", None, *quiet)
    assert (folder / "trunk.safetensors").read_bytes() == before
    levels = store.read_domains(folder)["heart"].said.levels
    assert levels.count >= 1
    assert json.loads(levels.model_dump_json())["count"] == levels.count


def test_a_network_without_padding_learns_and_answers_by_overlapping_tiles(trained):
    folder, liver = trained("unet", padded=False)
    model = load(folder, device="cpu", engine="torch")
    plan = model.spec("liver").plan
    assert min(plan.margin) > 0
    image = read_case(liver, liver.cases[0]).image
    answer = model.answer(image, liver.root, "liver", Options())
    assert answer.label.shape == image.array.shape[1:]
