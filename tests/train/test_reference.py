"""The official architecture by its own recipe: trained, and a domain added to it."""

from __future__ import annotations

import pytest

from u2net3d import store
from u2net3d.spec import PRESETS, RECIPES
from u2net3d.train.add_domain import add_domain
from u2net3d.train.run import train_model


@pytest.mark.parametrize("adapter", ["separable", "series", "parallel", "shared", "independent"])
def test_a_domain_is_added_on_a_frozen_trunk(
    adapter, tiny_dataset, request_for, watcher, no_pictures, tmp_path
):
    preset = f"reference-{adapter}"
    model = PRESETS[preset].model_copy(update={"base_channels": 2, "stages": 3})
    cube = 16 if RECIPES[preset].cube else None
    own = {"steps", "validations", "cube"}
    recipe = {**RECIPES[preset].model_dump(exclude=own), "cube": cube}
    heard, quiet = watcher(), (lambda _: None, lambda *_: None)
    liver, heart = tiny_dataset("Task03_Liver", seed=1), tiny_dataset("Task02_Heart", seed=2)
    train_model([liver], model, request_for(steps=2, **recipe), heard, *quiet)
    folder = tmp_path / "model"
    before = (folder / store.TRUNK).read_bytes()
    add_domain(heart, request_for(steps=2, **recipe), "fresh", None, heard, *quiet)
    net, found, specs = store.load(folder)
    assert (folder / store.TRUNK).read_bytes() == before
    assert (found.preset, found.family) == (preset, "reference")
    assert net.domains == ("heart", "liver")
    if cube:
        assert {spec.plan.patch_size for spec in specs.values()} == {(16, 16, 16)}
    assert heard.domains == ["liver", "liver", "heart", "heart"]
    assert store.verify(folder) == []
