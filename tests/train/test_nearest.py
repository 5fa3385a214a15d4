"""The bank that a new domain should begin from: held-out patients say it, and it is kept."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from u2net3d import store
from u2net3d.errors import UsageError
from u2net3d.io.dataset import split
from u2net3d.models import network
from u2net3d.models.network import BankShape
from u2net3d.spec import PRESETS
from u2net3d.train import new_bank
from u2net3d.train.add_domain import add_domain
from u2net3d.train.loop import train
from u2net3d.train.nearest import LEAST, explained, halves_of, moments, nearest
from u2net3d.train.planned import planned
from u2net3d.train.roles import Result
from u2net3d.train.run import fresh_net, loader_of

NEW = "domains/spleen.safetensors"


def sums(*labels):
    """Moments of one feature, given for every label as its values at the label's voxels."""
    rows = [torch.tensor([[x, 1.0] for x in values], dtype=torch.float64) for values in labels]
    return torch.stack([own.reshape(-1, 2).T @ own.reshape(-1, 2) for own in rows])


def test_every_label_weighs_the_same_in_what_is_explained():
    apart = sums([0, 0, 0, 0], [1])
    assert explained(apart, apart) == pytest.approx(1, abs=1e-3)
    # at x = 1 lie a quarter of label 0 and all of label 1: 0.8 of the weight there is label 1's,
    # 5/8 × 0.8 × 0.2 = 0.1 of the variance of 1/4 is left
    mixed = sums([0, 0, 0, 1], [1])
    assert explained(mixed, mixed) == pytest.approx(0.6, abs=1e-3)
    assert explained(sums([5, 5], [5]), mixed) == pytest.approx(0, abs=1e-3)


def test_what_was_learnt_wrongly_is_worse_than_nothing_and_has_a_floor():
    assert explained(sums([0, 1], [1]), sums([1], [1, 0])) < 0
    assert explained(sums([0, 0], [1]), sums([1, 1], [0])) == LEAST
    assert explained(sums([0], [1]), sums([float("nan")], [1])) == LEAST


def test_where_there_is_but_one_label_nothing_is_explained():
    both = sums([0], [1])
    assert explained(sums([0, 1], []), both) == 0
    assert explained(both, sums([], [1])) == 0


def test_moments_are_sums_over_the_voxels_of_a_label_and_ignored_ones_are_in_none(make_run):
    net, run = make_run({"liver": 2})
    batch = run.learners[0].loader.batch(0)
    batch.label[0] = -1
    found = moments(net, "liver", [batch, batch], 2)
    with torch.no_grad():
        answer = net.eval()(batch.image, "liver")[0]
    ball = answer[1][:, batch.label[1] == 1].double()
    assert found.shape == (2, 5, 5)  # four channels and the constant
    assert found[1, -1, -1] == 2 * ball.shape[1] > 0
    torch.testing.assert_close(found, found.transpose(1, 2))
    head = net.bank("liver").heads[0]  # it makes the answer of what it reads
    weight, bias = head.weight.detach().double(), head.bias.detach().double()
    logits = weight @ found[1, :4, -1] + bias * found[1, -1, -1]
    torch.testing.assert_close(logits, 2 * ball.sum(1), rtol=1e-4, atol=1e-4)


@pytest.fixture
def model(tiny_dataset, tiny_model, plan_of, tmp_path):
    """A model folder with the domains heart and liver, drawn at random."""
    sets = (tiny_dataset("Task02_Heart", seed=2), tiny_dataset("Task03_Liver", seed=1))
    specs = {data.domain: plan_of(data, split(data, 0).training) for data in sets}
    folder = tmp_path / "model"
    store.save_model(folder, fresh_net(tiny_model, specs, 0), tiny_model, specs, {})
    return folder


@pytest.fixture
def add(model, request_for, no_pictures, watcher):
    """add(dataset, heard=..., init=..., **request) -> what was said; by `--init nearest`."""

    def run(dataset, heard=None, patients=None, init="nearest", **options):
        lines, request = [], request_for(model, **options)
        listener = heard or watcher()
        add_domain(dataset, request, init, patients, listener, lines.append, lambda *_: None)
        return lines

    return run


def parts_of(dataset, model_spec, training=None, **changes):
    """Specification and halves of a data set's training cases, on noise and blobs."""
    from u2net3d.prep.cache import prepare_cases
    from u2net3d.spec import TrainSpec

    cases = split(dataset, 0).training
    spec = planned(dataset, cases, model_spec, None, lambda *_: None).model_copy(update=changes)
    loader = loader_of(spec, prepare_cases(dataset, cases, spec.plan, None), TrainSpec())
    return spec, halves_of(loader, cases)


class Known:
    """A case that is a patient."""

    def __init__(self, name):
        self.name = self.patient = name


@pytest.mark.parametrize("channels", [("MR",), ("CT",)], ids=["its stem too", "a fresh stem"])
def test_a_bank_that_has_learnt_the_same_beats_one_that_has_not(
    make_run, watcher, blob_case, channels
):
    net, run = make_run({"ball": 3}, steps=30, warmup_steps=3)
    other = run.learners[0].spec.model_copy(update={"name": "other"})
    train(net, run, watcher(), resume=False)
    torch.manual_seed(1)
    net.add_bank("other", BankShape.of(other))
    new = other.model_copy(update={"name": "new", "channels": channels})
    cases = [blob_case(seed) for seed in range(10, 14)]
    halves = halves_of(loader_of(new, cases, run.spec), [Known(case.name) for case in cases])
    specs = {"other": other, "ball": run.learners[0].spec}
    found = nearest(net, new, specs, [*specs], halves, 0)
    assert found.taken == "ball"
    assert found.explained["ball"] > found.explained["other"] + 0.05
    given, own = net.bank("ball").state_dict(), net.bank("new").state_dict()
    same = {name for name in own if torch.equal(own[name], given[name])}
    before_heads = {name for name in own if not name.startswith("heads.")}
    missing = set() if channels == ("MR",) else {n for n in own if n.startswith("stem.")}
    assert same & before_heads == before_heads - missing  # what is given stays as it is
    assert nearest(net, new, specs, [*specs], halves, 0) == found


def test_of_equal_banks_the_first_is_taken_and_of_one_that_one(model, tiny_dataset, tiny_model):
    net, _, specs = store.load(model)
    spec, halves = parts_of(tiny_dataset("Task09_Spleen", seed=3), tiny_model)
    net.bank("liver").load_state_dict(net.bank("heart").state_dict())
    found = nearest(net, spec, specs, ["heart", "liver"], halves, 0)
    assert found.explained["heart"] == found.explained["liver"]
    assert found.taken == "heart"
    assert nearest(net, spec, specs, ["liver", "heart"], halves, 0).taken == "liver"
    assert nearest(net, spec, specs, ["liver"], halves, 0).taken == "liver"


def test_no_patient_is_on_both_sides_and_none_is_of_validation(tiny_dataset, tiny_model):
    frames = [f"patient{n:03d}_frame{f:02d}" for n in range(6) for f in (1, 2)]
    dataset = tiny_dataset("Task09_Spleen", cases=frames)
    _, halves = parts_of(dataset, tiny_model)
    seen = [{name[:10] for batch in half for name in batch.cases} for half in halves]
    assert all(seen)
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] <= {case.patient for case in split(dataset, 0).training}


def test_a_single_patient_is_judged_by_other_patches(make_run, blob_case):
    _, run = make_run({"liver": 2}, cases=[blob_case(0)])
    one, other = halves_of(run.learners[0].loader, [Known("case0")])
    assert {name for batch in (*one, *other) for name in batch.cases} == {"case0"}
    assert not any(torch.equal(a.image, b.image) for a in one for b in other)


def test_channels_depth_and_kernels_may_differ(model, add, tiny_dataset):
    thick = {"shape": (24, 20, 6), "spacing_mm": (1.0, 1.0, 8.0)}
    options = {"channels": ("T1", "T2"), "labels": ("background", "a", "b", "c")}
    add(tiny_dataset("Task09_Spleen", seed=3, **options, **thick), steps=1)
    card = store.read_domains(model)["spleen"].said.card["nearest"]
    assert card["taken"] in card["explained"]
    assert store.read_domains(model)["spleen"].said.domain.plan.kernels[0] == (1, 3, 3)


@pytest.mark.parametrize("preset", ["paper", "fcn8s", "unet", "unet-paper", "unetpp-separable"])
def test_it_is_asked_of_every_family_of_networks(preset, tiny_dataset):
    own = PRESETS[preset]
    changes = {"base_channels": 2, "stages": 3}
    if preset == "unet-paper":
        changes["budget"] = own.budget.model_copy(update={"voxels": 8**3})
    small = own.model_copy(update=changes)
    spec, halves = parts_of(tiny_dataset("Task09_Spleen", seed=3), small)
    known = spec.model_copy(update={"name": "liver"})
    net = network(small)
    net.add_bank("liver", BankShape.of(known))
    found = nearest(net, spec, {"liver": known}, ["liver"], halves, 0)
    assert found.taken == "liver"
    assert LEAST <= found.explained["liver"] <= 1


def test_the_bank_begins_as_from_the_name_of_the_one_that_was_taken(
    model, add, tiny_dataset, monkeypatch
):
    monkeypatch.setattr("u2net3d.train.add_domain.train", lambda *_, **__: Result(0, 0, 0.0, {}))
    add(tiny_dataset("Task09_Spleen", seed=3))
    taken = store.read_domains(model)["spleen"].said.card["nearest"]["taken"]
    begun, source = (load_file(model / f"domains/{name}.safetensors") for name in ("spleen", taken))
    for name in ("stem.weight", "encoder.0.0.weight", "decoder.0.1.outer.bias"):
        assert torch.equal(begun[name], source[name])
    assert torch.equal(begun["heads.0.weight"][0], source["heads.0.weight"][0])
    assert begun["heads.0.weight"].shape == (2, 2)


def test_the_choice_and_all_scores_are_said_and_kept(model, add, tiny_dataset):
    lines = add(tiny_dataset("Task09_Spleen", seed=3))
    kept = store.read_domains(model)["spleen"].said.card["nearest"]
    assert {*kept} == {"taken", "explained"}
    assert {*kept["explained"]} == {"heart", "liver"}
    assert "spleen: asking which of 2 banks fits best" in lines
    (line,) = [line for line in lines if "nearest" in line]
    assert f"spleen: begins from {kept['taken']}" in line
    assert all(f"{name} {score:.3f}" in line for name, score in kept["explained"].items())
    assert json.loads((model / "runs/add-spleen/run.json").read_text())["nearest"] == kept
    assert store.verify(model) == []


def test_without_a_named_start_the_nearest_is_taken(model, add, tiny_dataset):
    dataset = tiny_dataset("Task09_Spleen", seed=3)
    add(dataset)
    named = load_file(model / NEW)
    add(dataset, init=None, overwrite=True)
    assert {*store.read_domains(model)["spleen"].said.card["nearest"]["explained"]} == {
        "heart",
        "liver",
    }
    again = load_file(model / NEW)
    assert all(torch.equal(again[name], named[name]) for name in named)


def test_a_run_that_is_taken_up_again_keeps_its_choice(
    model, add, tiny_dataset, watcher, monkeypatch
):
    dataset = tiny_dataset("Task09_Spleen", seed=3)
    with pytest.raises(KeyboardInterrupt):
        add(dataset, heard=watcher(stop_after=2))
    monkeypatch.setattr(new_bank, "nearest", None)  # asked again it would fail
    heard = watcher()
    add(dataset, heard=heard, resume=True)
    assert len(heard.losses) == 2
    said = json.loads((model / "runs/add-spleen/run.json").read_text())["nearest"]
    assert store.read_domains(model)["spleen"].said.card["nearest"] == said


@pytest.fixture
def alone(tiny_dataset, tiny_model, plan_of, tmp_path):
    """A data set and a model folder that knows it and nothing else."""
    dataset = tiny_dataset("Task03_Liver")
    specs = {"liver": plan_of(dataset, split(dataset, 0).training)}
    folder = tmp_path / "model"
    store.save_model(folder, fresh_net(tiny_model, specs, 0), tiny_model, specs, {})
    return dataset, folder


def test_a_model_without_another_domain_has_none_that_is_near(alone, request_for, watcher):
    dataset, folder = alone
    request = request_for(folder, overwrite=True)
    with pytest.raises(UsageError, match=r"--init: .*no other domain to be near to — use fresh"):
        add_domain(dataset, request, "nearest", None, watcher(), print, lambda *_: None)


def test_there_the_start_without_a_name_is_fresh(alone, request_for, watcher, no_pictures):
    dataset, folder = alone
    begun = []
    for init in (None, "fresh"):
        request = request_for(folder, overwrite=True)
        add_domain(dataset, request, init, None, watcher(), print, lambda *_: None)
        begun.append(load_file(folder / "domains/liver.safetensors"))
    assert all(torch.equal(begun[0][name], begun[1][name]) for name in begun[1])
    assert "nearest" not in store.read_domains(folder)["liver"].said.card
