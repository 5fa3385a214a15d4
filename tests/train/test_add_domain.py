"""One more domain: one file and one entry more, and not a byte of anything else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import u2net3d
from u2net3d import store
from u2net3d.errors import ModelError, UsageError
from u2net3d.io import read_image
from u2net3d.io.dataset import split
from u2net3d.store import ledger as store_ledger
from u2net3d.train.add_domain import add_domain
from u2net3d.train.roles import Result
from u2net3d.train.run import fresh_net

NEW = "domains/spleen.safetensors"


@pytest.fixture
def model(tiny_dataset, tiny_model, plan_of, tmp_path):
    """A model folder with the domains liver (2 labels) and heart (3 labels), drawn at random."""
    sets = (
        tiny_dataset("Task03_Liver", seed=1),
        tiny_dataset("Task02_Heart", labels=("background", "left", "right"), seed=2),
    )
    specs = {data.domain: plan_of(data, split(data, 0).training) for data in sets}
    folder = tmp_path / "model"
    stages = max(spec.plan.stages for spec in specs.values())
    spec = tiny_model.model_copy(update={"stages": stages})
    store.save_model(folder, fresh_net(spec, specs, 0), spec, specs, {})
    return folder


@pytest.fixture
def spleen(tiny_dataset):
    return tiny_dataset("Task09_Spleen", seed=3)


@pytest.fixture
def add(model, request_for, no_pictures, watcher):
    """add(dataset, init=..., patients=..., heard=..., **request) -> (result, manifest)"""

    def run(dataset, init="fresh", patients=None, heard=None, **options):
        request = request_for(model, **options)
        heard = heard or watcher()
        return add_domain(dataset, request, init, patients, heard, lambda _: None, lambda *_: None)

    return run


def weight_files(model):
    return {
        path.relative_to(model).as_posix(): path.read_bytes()
        for path in model.rglob("*.safetensors")
    }


def answers(model, root):
    """Labels and logits that the model's first two domains give."""
    loaded = u2net3d.load(model, device="cpu")
    image = root / "data/Task03_Liver/imagesTr/liver_000.nii.gz"
    labels = [loaded.predict(image, domain=name).get_fdata() for name in ("liver", "heart")]
    net, _, specs = store.load(model)
    x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = [net(x, name)[0] for name in ("liver", "heart")]
    assert all(name in specs for name in ("liver", "heart"))
    return [label.tobytes() for label in labels] + [each.numpy().tobytes() for each in logits]


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_one_file_and_one_entry_are_new_and_nothing_else_changed(model, add, spleen):
    files, manifest = weight_files(model), store.read_manifest(model)
    _, returned = add(spleen)
    assert {name: b for name, b in weight_files(model).items() if name != NEW} == files
    after = store.read_manifest(model)
    assert after == returned
    assert set(after.domains) == {"liver", "heart", "spleen"}
    without = {name: entry for name, entry in after.domains.items() if name != "spleen"}
    as_before = {"domains": without, "ledger": manifest.ledger}
    assert after.model_copy(update=as_before) == manifest
    assert store.verify(model) == []


def test_the_ledger_says_what_was_added_and_from_which_data(model, add, spleen):
    add(spleen)
    first = store_ledger.read(model).lines[-1]
    assert (first.event, set(first.domains)) == ("add", {"spleen"})
    add(spleen, overwrite=True)
    again = store_ledger.read(model).lines[-1]
    assert again.event == "update"
    data = [line.domains["spleen"].data_sha256 for line in (first, again)]
    assert data[0] == data[1]
    assert len(data[0]) == 64


def test_the_older_domains_answer_bit_for_bit_as_before(model, add, spleen, tmp_path):
    before = answers(model, tmp_path)
    add(spleen, steps=6)
    assert answers(model, tmp_path) == before


def test_the_new_domain_names_its_trunk_and_can_be_used(model, add, spleen, tmp_path):
    add(spleen)
    assert store.read_domains(model)["spleen"].said.trunk_id == store.read_manifest(model).trunk_id
    image = tmp_path / "data/Task09_Spleen/imagesTr/spleen_000.nii.gz"
    label = u2net3d.load(model, domains=["spleen"], device="cpu").predict(image, domain="spleen")
    assert label.shape == (14, 12, 10)


def test_the_bank_learns_and_the_loop_trains_nothing_else(model, add, spleen, watcher, monkeypatch):
    seen = []
    real = add_domain.__globals__["train"]

    def spy(net, run, listener, *, resume):
        seen.append({name for name, weight in net.named_parameters() if weight.requires_grad})
        before = {name: weight.clone() for name, weight in net.state_dict().items()}
        result = real(net, run, listener, resume=resume)
        after = net.state_dict()
        seen.append({name for name in before if not torch.equal(before[name], after[name])})
        return result

    monkeypatch.setattr("u2net3d.train.add_domain.train", spy)
    heard = watcher()
    add(spleen, heard=heard, steps=3)
    trained, moved = seen
    assert all(name.startswith("banks.spleen.") for name in trained)
    assert moved
    assert moved <= trained
    assert len(heard.losses) == 3


@pytest.fixture
def started(model, add, spleen, monkeypatch):
    """started(init): the new bank's weights before the first step."""

    def only_start(net, run, listener, *, resume):
        return Result(0, 0, 0.0, {})

    monkeypatch.setattr("u2net3d.train.add_domain.train", only_start)

    def start(init):
        add(spleen, init=init, overwrite=True)
        return load_file(model / NEW)

    return start


def test_a_start_from_mean_or_a_domain_differs_from_fresh(model, started):
    fresh, mean, named = (started(init) for init in ("fresh", "mean", "Liver"))
    liver, heart = (load_file(model / f"domains/{name}.safetensors") for name in ("liver", "heart"))
    unit = "encoder.0.0.weight"
    assert torch.equal(named[unit], liver[unit])
    torch.testing.assert_close(mean[unit], (liver[unit] + heart[unit]) / 2)
    for other in (liver[unit], named[unit], mean[unit]):
        assert not torch.equal(fresh[unit], other)


def ends(tensors):
    return [name for name in tensors if name.startswith(("stem.", "heads."))]


def test_stem_and_heads_start_fresh_from_the_mean(started):
    fresh, given = started("fresh"), started("mean")
    assert ends(fresh)
    assert all(torch.equal(given[name], fresh[name]) for name in ends(fresh))


def test_a_named_start_gives_its_stem_and_the_heads_of_labels_of_one_name(model, started):
    fresh, given = started("fresh"), started("heart")
    heart = load_file(model / "domains/heart.safetensors")
    assert torch.equal(given["stem.weight"], heart["stem.weight"])  # the same channel
    for name in (name for name in ends(fresh) if name.startswith("heads.")):
        assert torch.equal(given[name][0], heart[name][0])  # background is background
        assert torch.equal(given[name][1], fresh[name][1])  # the heart has no label "liver"


def test_a_new_class_starts_with_the_rows_of_the_classes_that_are_known(
    model, add, tiny_dataset, monkeypatch
):
    monkeypatch.setattr("u2net3d.train.add_domain.train", lambda *_, **__: Result(0, 0, 0.0, {}))
    labels = ("background", "tumour", "Right", "left")
    add(tiny_dataset("Task12_Chambers", labels=labels), init="heart")
    given = load_file(model / "domains/chambers.safetensors")
    heart = load_file(model / "domains/heart.safetensors")  # background, left, right
    assert torch.equal(given["encoder.0.0.weight"], heart["encoder.0.0.weight"])
    for part in ("weight", "bias"):
        assert torch.equal(given[f"heads.0.{part}"][[0, 3, 2]], heart[f"heads.0.{part}"])
    assert not torch.equal(given["heads.0.weight"][1], heart["heads.0.weight"][1])


def test_a_fresh_start_depends_on_the_seed_alone(model, add, spleen, started):
    first = started("fresh")
    torch.manual_seed(99)
    again = started("fresh")
    assert all(torch.equal(first[name], again[name]) for name in first)
    add(spleen, overwrite=True, seed=5)
    assert not torch.equal(first["stem.weight"], load_file(model / NEW)["stem.weight"])


def test_cases_counts_patients(model, add, tiny_dataset):
    frames = [f"patient{n:03d}_frame{f:02d}" for n in range(6) for f in (1, 2)]
    add(tiny_dataset("Task09_Spleen", cases=frames), patients=2, steps=2)
    said = json.loads((model / "runs/add-spleen/run.json").read_text())["domains"]["spleen"]
    assert len(said["training"]) == 4
    assert len({name[:10] for name in said["training"]}) == 2
    card = store.read_domains(model)["spleen"].said.card
    assert (card["training_cases"], card["validation_cases"]) == (4, len(said["validation"]))


def test_the_card_says_how_large_the_images_to_learn_from_are(model, add, spleen):
    add(spleen, steps=1)
    said = json.loads((model / "runs/add-spleen/run.json").read_text())["domains"]["spleen"]
    sizes = []
    for case in spleen.cases:
        if case.name in said["training"]:
            volume, _ = read_image(case.images)
            assert volume.array.any(axis=(0, 2, 3)).all()  # no margin of zeros
            sizes.append(np.multiply(volume.shape, volume.spacing_mm))
    found = store.read_domains(model)["spleen"].said.largest_image_mm
    spacing = store.read_specs(model)["spleen"].plan.spacing_mm
    assert np.abs(np.max(sizes, axis=0) - found).max() <= max(spacing) / 2 + 0.05


@pytest.mark.parametrize("patients", [0, 5])
def test_more_patients_than_there_are_is_an_error(add, spleen, patients):
    with pytest.raises(UsageError, match=r"--cases: .* 4 patients to learn from — use 1 to 4"):
        add(spleen, patients=patients)


def test_a_domain_that_is_there_is_refused(add, tiny_dataset):
    with pytest.raises(UsageError, match=r"liver is in .* already — .*--overwrite"):
        add(tiny_dataset("Task33_Liver"))


def test_a_domain_can_be_replaced_without_touching_the_others(model, add, tiny_dataset):
    files = weight_files(model)
    add(tiny_dataset("Task33_Liver", seed=8), overwrite=True)
    after = weight_files(model)
    changed = [name for name in files if after[name] != files[name]]
    assert changed == ["domains/liver.safetensors"]
    (kept,) = after.keys() - files.keys()
    assert kept.startswith("previous/liver-")
    assert after[kept] == files["domains/liver.safetensors"]
    assert store.verify(model) == []


@pytest.mark.parametrize("init", ["kidney", "spleen"])
def test_an_unknown_start_is_an_error(add, spleen, init):
    with pytest.raises(UsageError, match="--init"):
        add(spleen, init=init)


@pytest.mark.parametrize("file", ["trunk.safetensors", "domains/heart.safetensors"])
@pytest.mark.parametrize("harm", [flip_a_byte, lambda path: path.unlink()], ids=["flip", "gone"])
def test_it_refuses_to_finish_when_an_old_file_changed_meanwhile(
    model, add, spleen, watcher, file, harm
):
    files, manifest = weight_files(model), (model / store.MANIFEST).read_bytes()
    heard = watcher()
    heard.validated = lambda *_: harm(model / file)
    with pytest.raises(ModelError, match=f"{file}: is no longer what it was") as error:
        add(spleen, heard=heard)
    assert "\n" not in str(error.value)
    assert not (model / NEW).exists()
    assert (model / store.MANIFEST).read_bytes() == manifest
    (model / file).write_bytes(files[file])  # what the message says: a copy, then --resume
    again = watcher()
    add(spleen, heard=again, resume=True)
    assert again.losses == []
    assert store.verify(model) == []


def test_a_domain_named_trunk_does_not_hide_the_trunk(model, add, tiny_dataset, watcher):
    heard = watcher()
    heard.validated = lambda *_: flip_a_byte(model / store.TRUNK)
    with pytest.raises(ModelError, match="is no longer what it was"):
        add(tiny_dataset("Task10_Trunk"), heard=heard)


def test_it_can_be_stopped_and_taken_up_after_another_domain_was_added(
    model, add, spleen, tiny_dataset, watcher
):
    with pytest.raises(KeyboardInterrupt):
        add(spleen, heard=watcher(stop_after=2))
    add(tiny_dataset("Task11_Kidney"))
    heard = watcher()
    add(spleen, heard=heard, resume=True)
    assert len(heard.losses) == 2
    assert set(store.read_manifest(model).domains) == {"liver", "heart", "kidney", "spleen"}


def test_a_bank_that_was_replaced_since_is_not_put_back_by_resume(model, add, spleen):
    add(spleen)
    net, _, specs = store.load(model)
    store.save_domain(model, net, specs["spleen"], {"steps": 9})  # as update-domain does
    newer = (model / NEW).read_bytes()
    with pytest.raises(UsageError, match=r"spleen is no longer .* — .*update-domain.*--overwrite"):
        add(spleen, resume=True)
    assert (model / NEW).read_bytes() == newer
    add(spleen, overwrite=True)  # as the message says
    assert (model / NEW).read_bytes() != newer


def test_one_that_replaces_a_domain_can_be_stopped_and_taken_up(model, add, tiny_dataset, watcher):
    liver = tiny_dataset("Task33_Liver", seed=8)
    with pytest.raises(KeyboardInterrupt):
        add(liver, heard=watcher(stop_after=2), overwrite=True)
    heard = watcher()
    add(liver, heard=heard, resume=True)
    assert len(heard.losses) == 2
    add(liver, resume=True)  # it made that bank itself
    assert store.verify(model) == []
