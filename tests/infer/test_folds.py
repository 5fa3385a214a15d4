"""Several folds answer as one: the mean of their probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from u2net3d import store
from u2net3d.errors import ModelError, UsageError
from u2net3d.infer.predict import Options, load
from u2net3d.io import read_image
from u2net3d.store import domains

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def folds(tmp_path, save_random_model):
    """A folder of the folds 0 and 3, of different weights."""
    cards = {0: {"liver": {"largest_component": ["label 1"]}}, 3: {}}
    for fold in (0, 3):
        save_random_model(store.fold_folder(tmp_path, fold), cards[fold], seed=fold)
    store.write_folds(tmp_path, store.Folds(folds=(0, 3)))
    return tmp_path


def test_the_answer_is_the_label_of_the_mean_probability(folds, picture, write):
    image, source = read_image([write(folds / "scan.nii.gz", picture())])
    parts = [load(part, device="cpu") for part in store.models_in(folds)]
    given = [
        part.answer(image, source.path, "liver", Options(), probabilities=True) for part in parts
    ]
    mean = (given[0].probabilities.astype(float) + given[1].probabilities.astype(float)) / 2
    answer = load(folds, device="cpu").answer(
        image, source.path, "liver", Options(), probabilities=True
    )
    np.testing.assert_array_equal(answer.label, mean.argmax(0))
    assert np.abs(answer.probabilities.astype(float) - mean).max() <= 0.5
    assert not np.array_equal(answer.label, given[0].label)
    assert answer.label.dtype == np.uint8


def test_without_memory_the_answer_is_the_same(folds, picture, write):
    image, source = read_image([write(folds / "scan.nii.gz", picture())])
    for place in (folds, folds / "fold0"):
        plain, tight = (
            load(place, device="cpu", max_memory=limit).answer(
                image, source.path, "liver", Options(), probabilities=True
            )
            for limit in (None, 1)
        )
        np.testing.assert_array_equal(tight.label, plain.label)
        np.testing.assert_array_equal(tight.probabilities, plain.probabilities)
        alone = load(place, device="cpu").answer(image, source.path, "liver", Options())
        np.testing.assert_array_equal(alone.label, plain.label)
        assert alone.probabilities is None


def test_one_fold_alone_is_that_fold(folds, picture):
    store.write_folds(folds, store.Folds(folds=(3,)))
    image = picture()
    answers = [
        np.asarray(load(place, device="cpu").predict(image, affine=AFFINE, domain="liver").dataobj)
        for place in (folds, folds / "fold3")
    ]
    np.testing.assert_array_equal(*answers)


def test_torch_is_named_where_it_averages(folds):
    joined, alone = (load(folder, device="cpu") for folder in (folds, folds / "fold0"))
    assert set(joined.packages("liver")) == {"torch", *alone.packages("liver")}


def test_where_it_came_from_names_every_fold(folds):
    joined = load(folds, device="cpu").origin("liver")
    assert joined.largest_component == ()  # not every fold asks for it
    domains.rename(folds / "fold3", "prostate", "other")
    domains.rename(folds / "fold3", "other", "prostate")
    assert load(folds, device="cpu").origin("liver") == joined
    store.write_folds(folds, store.Folds(folds=(0,)))
    assert load(folds, device="cpu").origin("liver").trunk_id != joined.trunk_id


def test_images_are_large_beside_those_of_all_folds_together(tmp_path, save_random_model):
    for fold, size in ((0, [4, 20, 20]), (3, [5, 10, 10])):
        cards = {"liver": {"largest_image_mm": size}}
        save_random_model(store.fold_folder(tmp_path, fold), cards, seed=fold)
    store.write_folds(tmp_path, store.Folds(folds=(0, 3)))
    model = load(tmp_path, device="cpu")
    assert model.origin("liver").largest_image_mm == (5, 20, 20)
    assert model.origin("prostate").largest_image_mm is None


def test_folds_that_differ_in_their_domains_are_refused(folds):
    domains.remove(folds / "fold3", "prostate")
    with pytest.raises(ModelError, match=r"fold3: has another prostate than fold0, or none"):
        load(folds, device="cpu")


def test_a_domain_file_belongs_to_one_fold(folds, tmp_path):
    sent = tmp_path / "sent.safetensors"
    domains.export(folds / "fold0", "liver", sent)
    with pytest.raises(UsageError, match="belongs to one fold"):
        load(folds, device="cpu").add(sent)


def test_what_changes_one_model_wants_one_model(folds):
    with pytest.raises(ModelError, match=r"holds 2 folds, no single model — name one: .*fold0"):
        domains.remove(folds, "liver")
