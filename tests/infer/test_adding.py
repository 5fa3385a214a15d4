"""A domain file added to a model in memory: it answers, and the folder does not know."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from u2net3d import store
from u2net3d.errors import ModelError, UsageError
from u2net3d.infer.predict import load
from u2net3d.store import domains

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def sent(folder, tmp_path):
    """The prostate of the model in one file, and a copy of the model without it."""
    shutil.copytree(folder, tmp_path / "model")
    domains.export(tmp_path / "model", "prostate", tmp_path / "prostate.safetensors")
    domains.remove(tmp_path / "model", "prostate")
    return tmp_path / "model", tmp_path / "prostate.safetensors"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def labels(model, picture, domain):
    image = np.stack([picture(), picture(seed=1)])[: len(model.spec(domain).channels)]
    return np.asarray(model.predict(image, affine=AFFINE, domain=domain).dataobj)


def test_an_added_domain_answers_as_in_its_own_folder(model, sent, picture):
    folder, path = sent
    before, loaded = contents(folder), load(folder, device="cpu")
    liver = labels(loaded, picture, "liver")
    assert loaded.add(path) == "prostate"
    assert loaded.domains == ("liver", "prostate")
    answer = labels(loaded, picture, "prostate")
    assert len(np.unique(answer)) > 1
    np.testing.assert_array_equal(answer, labels(model, picture, "prostate"))
    np.testing.assert_array_equal(labels(loaded, picture, "liver"), liver)
    assert loaded.origin("prostate") == model.origin("prostate")
    assert contents(folder) == before
    assert load(folder, device="cpu").domains == ("liver",)


def test_it_can_be_given_another_name_and_never_takes_one(sent, picture):
    folder, path = sent
    loaded = load(folder, device="cpu")
    loaded.add(path)
    with pytest.raises(UsageError, match="'prostate' is loaded already"):
        loaded.add(path)
    assert loaded.add(path, domain="Prostate Two") == "prostatetwo"
    np.testing.assert_array_equal(
        labels(loaded, picture, "prostatetwo"), labels(loaded, picture, "prostate")
    )


def test_a_domain_of_another_trunk_is_refused_and_nothing_is_loaded(
    sent, tmp_path, save_random_model
):
    folder, _ = sent
    other = save_random_model(tmp_path / "other", seed=7)
    path = tmp_path / "foreign.safetensors"
    domains.export(other, "prostate", path)
    loaded = load(folder, device="cpu")
    with pytest.raises(ModelError) as refused:
        loaded.add(path)
    for model in (folder, other):
        assert store.read_manifest(model).trunk_id[:12] in str(refused.value)
    assert loaded.domains == ("liver",)


def test_a_file_that_is_no_domain_is_refused(sent, tmp_path):
    loaded = load(sent[0], device="cpu")
    for content in (b"", b"\x80\x04.", b"PK\x03\x04", sent[1].read_bytes()[:-1]):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match=r"bad\.safetensors"):
            loaded.add(tmp_path / "bad.safetensors")
