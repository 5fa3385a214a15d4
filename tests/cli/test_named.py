"""A changed preset through the life of a model."""

from __future__ import annotations

import json

from u2net3d import store

CHANGED = "unetpp:block=separable:skips=aggregated:stages=3:base_channels=2:voxels=8000"


def test_a_changed_preset_is_trained_resumed_extended_used_and_sent(trained, tmp_path, u2net3d):
    model = tmp_path / "model"
    there = ("--model", model, "--data", trained.data, "--cache", trained.cache)
    train = ("train", "--domains", "liver", "--preset", CHANGED, "--steps", 2, *there)
    assert u2net3d(*train, "--device", "cpu").code == 0
    found = store.read_manifest(model).model
    assert (found.preset, found.base_channels, found.stages) == ("unetpp", 2, 2)  # a small patch
    assert found.options == {"block": "separable", "skips": "aggregated"}
    assert found.budget.voxels == 8000
    assert u2net3d(*train, "--resume").code == 0
    other = (*train[:4], CHANGED.replace("aggregated", "nested"), *train[5:])
    assert "another configuration" in u2net3d(*other, "--resume").err
    assert u2net3d("add-domain", "pancreas", "--steps", 2, *there).code == 0
    image, _ = trained.case("Task07_Pancreas", "pancreas_000")
    output = tmp_path / "label.nii.gz"
    said = u2net3d(
        *("predict", "-i", image, "-o", output, "--domain", "pancreas", "--model", model),
        *("--level", "1", "--engine", "torch"),
    )
    assert (said.code, output.exists()) == (0, True), said.err
    sent = tmp_path / "pancreas.u2net3d"
    assert u2net3d("export-domain", "pancreas", "-o", sent, "--model", model).code == 0
    assert "unetpp:block=separable:skips=aggregated" in u2net3d("card", "--model", model).out


def test_a_changed_preset_is_counted(u2net3d):
    words = ("models", "--patch", "16,16,16", "--json")
    one, other = (u2net3d(*words, "--preset", text) for text in ("unet", "unet:base_channels=8"))
    assert json.loads(other.out)["unet:base_channels=8"]["base_channels"] == 8
    weights = [json.loads(said.out)[name]["bank_weights"] for said, name in (
        (one, "unet"), (other, "unet:base_channels=8"))]  # fmt: skip
    assert weights[1] < weights[0] / 3
    refused = u2net3d(*words, "--preset", "unet:width=8")
    assert (refused.code, len(refused.errors)) == (2, 1)
    assert "width: there is no such field" in refused.err
