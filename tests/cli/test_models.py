"""What `models` says, and the options that go with what it counts: --elastic, --metrics."""

from __future__ import annotations

import json

import pytest

from u2net3d.spec import PRESETS


def test_every_preset_is_a_row_and_its_numbers_agree(u2net3d):
    said = u2net3d("models", "--patch", "32,48,32", "--channels", 2, "--classes", 4, "--json")
    assert (said.code, said.errors) == (0, [])
    rows = json.loads(said.out)
    assert [*rows] == [*PRESETS]
    for row in rows.values():
        assert (row["channels"], row["classes"]) == (2, 4)
        assert row["flops"] == 2 * row["multiply_adds"] > 0
        assert sum(row["multiply_adds_by_kind"].values()) == row["multiply_adds"]
        assert len(row["strides"]) == row["stages"]
    paper = rows["paper"]["separable"]
    assert paper["ratio"] == pytest.approx(paper["analytic"])
    assert 1 / 27 < paper["ratio"] < 1 / 16 + 1 / 9


def test_the_table_names_every_preset(u2net3d):
    said = u2net3d("models", "--patch", "32,32,32")
    assert said.code == 0
    assert all(preset in said.out for preset in PRESETS)


def test_a_domain_of_a_model_is_counted_with_its_own_plan(trained, u2net3d):
    said = u2net3d(
        *("models", "--preset", "base", "--domain", "prostate", "--model", trained.model, "--json")
    )
    row = json.loads(said.out)["base"]
    told = json.loads(u2net3d("domains", "--model", trained.model, "--json").out)
    prostate = told["domains"]["prostate"]
    assert (row["channels"], row["classes"]) == (2, 3)
    assert row["patch"] == prostate["patch_size"]
    assert row["bank_weights"] == prostate["weights"]
    assert row["adapter_weights"] == prostate["adapters"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--patch", "32,32"), "--patch"),
        (("--patch", "32,0,32"), "--patch"),
        (("--preset", "nothing"), "--preset"),
    ],
)
def test_what_cannot_be_counted_is_refused(u2net3d, words, named):
    said = u2net3d("models", *words)
    assert said.code == 2
    assert named in said.errors[0]


def test_training_says_that_it_was_elastic(trained, tmp_path, u2net3d):
    said = u2net3d(
        *("train", "--domains", "liver", "--steps", 2, "--elastic", "--device", "cpu"),
        *("--data", trained.data, "--model", tmp_path / "model", "--cache", trained.cache),
    )
    assert said.code == 0
    told = json.loads((tmp_path / "model" / "runs" / "train" / "run.json").read_text())
    assert told["training"]["elastic"] is True


def test_errors_of_objects_are_printed_where_they_are_asked_for(trained, u2net3d):
    labels = trained.data / "Task05_Prostate" / "labelsTr"
    both = ("evaluate", "--pred", labels, "--ref", labels)
    said = u2net3d(*both, "--metrics", "rand,warping")
    assert said.code == 0
    assert "rand error" in said.out
    assert "warping error" in said.out
    assert "pixel error" not in said.out
    refused = u2net3d(*both, "--metrics", "rand,dice")
    assert refused.code == 2
    assert "--metrics" in refused.errors[0]
