"""A bank trained again: the old one in force till the end, kept after it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from u2net3d import files, store
from u2net3d.errors import TrainingError, UsageError
from u2net3d.io.dataset import find_dataset, split
from u2net3d.store import domains, ledger
from u2net3d.train import update_domain as module
from u2net3d.train.roles import Result
from u2net3d.train.run import fresh_net
from u2net3d.train.sides import kept_sides
from u2net3d.train.update_domain import Update, update_domain

LIVER = "domains/liver.safetensors"


@pytest.fixture
def liver(tiny_dataset):
    return tiny_dataset("Task03_Liver", seed=1)


@pytest.fixture
def model(liver, tiny_dataset, tiny_model, plan_of, tmp_path):
    """A model of liver and heart, drawn at random; its run says what liver was learnt from."""
    heart = tiny_dataset("Task02_Heart", labels=("background", "left", "right"), seed=2)
    specs = {data.domain: plan_of(data, split(data, 0).training) for data in (liver, heart)}
    stages = max(spec.plan.stages for spec in specs.values())
    spec, folder = tiny_model.model_copy(update={"stages": stages}), tmp_path / "model"
    store.save_model(folder, fresh_net(spec, specs, 0), spec, specs, {})
    write_run(folder, "train", liver, split(liver, 0))
    return folder


def write_run(folder, name, dataset, cases):
    sides = {
        "training": [case.name for case in cases.training],
        "validation": [case.name for case in cases.validation],
    }
    files.write_json(folder / f"runs/{name}/run.json", {"domains": {dataset.domain: sides}})


@pytest.fixture
def update(model, request_for, no_pictures, watcher, monkeypatch):
    """update(dataset, init=None, force=False, **request) -> (result, manifest, what was said)"""
    monkeypatch.setattr(module, "draw_cases", lambda *_: None)

    def run(dataset, init=None, force=False, heard=None, **options):
        said = []
        request, heard = request_for(model, **options), heard or watcher()
        made = Update(dataset, init, force)
        return *update_domain(made, request, heard, said.append, lambda *_: None), said

    return run


@pytest.fixture
def dice(monkeypatch):
    """dice(old, new): what the old bank and the new one will be found to do."""

    def set_to(old, new):
        real = module.train

        def trained(net, run, listener, *, resume):
            result = real(net, run, listener, resume=resume)
            scores = {name: score_of(score, new) for name, score in result.scores.items()}
            return Result(result.step, result.steps, result.seconds, scores)

        def score_of(score, value):
            rows = [[value] * len(score.labels) for _ in score.cases]
            spec = type("Spec", (), {"labels": ("background", *score.labels)})
            return type(score).of(spec, tuple(j.case for j in score.cases), rows)

        judge = module.judge
        monkeypatch.setattr(module, "train", trained)
        monkeypatch.setattr(module, "judge", lambda *args: score_of(judge(*args), old))

    return set_to


def weight_files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.safetensors")
    }


def test_a_better_bank_replaces_the_old_one_which_is_kept_and_comes_back(
    model, update, liver, dice
):
    dice(old=0.5, new=0.6)
    before, old = weight_files(model), store.read_domains(model)["liver"].said
    _, manifest, said = update(liver)
    after = weight_files(model)
    assert {name for name in before if after[name] != before[name]} == {LIVER}
    (kept,) = after.keys() - before.keys()
    assert kept == f"previous/liver-{files.sha256_file(model / kept)[:12]}.safetensors"
    assert after[kept] == before[LIVER]
    assert manifest == store.read_manifest(model)
    assert store.verify(model) == []
    assert any("Dice 0.6000, of the old one 0.5000" in line for line in said)
    line = ledger.read(model).lines[-1]
    assert (line.event, set(line.domains)) == ("update", {"liver"})
    assert line.domains["liver"].data_sha256
    now = store.read_domains(model)["liver"].said
    assert now.domain == old.domain  # the plan is the bank's
    domains.rollback(model, "liver")
    assert weight_files(model)[LIVER] == before[LIVER]


def test_a_worse_bank_is_not_taken_unless_forced(model, update, liver, dice, watcher):
    dice(old=0.7, new=0.6)
    before, manifest = weight_files(model), (model / "manifest.json").read_bytes()
    with pytest.raises(TrainingError, match=r"liver: the new bank is worse .*--resume --force"):
        update(liver)
    assert weight_files(model) == before
    assert (model / "manifest.json").read_bytes() == manifest
    heard = watcher()
    *_, said = update(liver, force=True, resume=True, heard=heard)
    assert heard.losses == []  # nothing is trained again
    assert any("warning: the new bank is worse" in line for line in said)
    assert weight_files(model)[LIVER] != before[LIVER]
    assert store.verify(model) == []


def test_both_banks_are_judged_on_the_same_cases_by_their_own_weights(
    model, update, liver, monkeypatch
):
    seen = []
    real = module.judge

    def spy(net, spec, dataset, cases, device):
        seen.append((net.bank("liver").stem.weight.clone(), [case.name for case in cases]))
        return real(net, spec, dataset, cases, device)

    monkeypatch.setattr(module, "judge", spy)
    old = load_file(model / LIVER)["stem.weight"]
    result, *_ = update(liver, force=True)
    ((weight, names),) = seen
    assert torch.equal(weight, old)
    assert names == [judged.case.name for judged in result.scores["liver"].cases]


def test_it_goes_on_from_its_own_weights_and_begins_anew_when_told(
    model, update, liver, monkeypatch
):
    def untrained(net, run, listener, *, resume):
        return Result(0, 0, 0.0, {})

    monkeypatch.setattr(module, "train", untrained)
    old = load_file(model / LIVER)
    update(liver)
    same = load_file(model / LIVER)
    assert all(torch.equal(same[name], old[name]) for name in old)
    update(liver, init="fresh", overwrite=True)
    fresh = load_file(model / LIVER)
    assert not torch.equal(fresh["stem.weight"], old["stem.weight"])
    heart = load_file(model / "domains/heart.safetensors")
    update(liver, init="heart", overwrite=True)
    assert torch.equal(load_file(model / LIVER)["encoder.0.0.weight"], heart["encoder.0.0.weight"])


@pytest.mark.parametrize("init", ["liver", "kidney"])
def test_a_start_there_is_not_is_refused(update, liver, init):
    with pytest.raises(UsageError, match="--init"):
        update(liver, init=init)


def test_the_nearest_bank_is_one_of_the_others(model, update, liver):
    *_, said = update(liver, init="nearest", force=True)
    assert store.read_domains(model)["liver"].said.card["nearest"]["taken"] == "heart"
    assert any("liver: begins from heart, the nearest" in line for line in said)


def test_other_labels_need_another_bank(model, update, tiny_dataset):
    labels = ("background", "liver", "tumour")
    other = tiny_dataset("Task33_Liver", labels=labels)
    before = weight_files(model)
    with pytest.raises(UsageError, match=r"liver, tumour — .*--init fresh.*add-domain"):
        update(other)
    assert weight_files(model) == before
    *_, said = update(other, init="fresh")
    assert store.read_domains(model)["liver"].said.domain.labels == labels
    assert any("cannot be compared" in line for line in said)


def test_a_domain_there_is_not_is_refused(update, tiny_dataset):
    with pytest.raises(UsageError, match="'spleen' is not in"):
        update(tiny_dataset("Task09_Spleen"))


def test_without_validation_cases_the_new_bank_is_taken_and_that_is_said(model, update, liver):
    *_, said = update(liver, fold="all")
    assert any("cannot be compared" in line for line in said)


def test_it_can_be_stopped_and_taken_up_again(model, update, liver, watcher):
    before = weight_files(model)
    with pytest.raises(KeyboardInterrupt):
        update(liver, heard=watcher(stop_after=2), force=True)
    assert weight_files(model) == before
    heard = watcher()
    update(liver, heard=heard, resume=True, force=True)
    assert len(heard.losses) == 2
    assert store.verify(model) == []


def test_a_second_update_starts_from_the_first(model, update, liver):
    update(liver, force=True)
    update(liver, force=True)
    events = [line.event for line in ledger.read(model).lines]
    assert events == ["train", "update", "update"]
    assert len(list((model / "runs").glob("update-liver-*"))) == 2


@pytest.fixture
def grown(liver, make_dataset, tmp_path):
    """The liver data set after nine more cases arrived."""
    more = make_dataset(tmp_path / "more", "Task03_Liver", cases=15, shape=(14, 12, 10), seed=1)
    shutil.rmtree(liver.root)
    shutil.move(more, liver.root)
    return find_dataset(liver.root.parent, "liver")


def names(cases):
    return {case.name for case in cases}


def test_nobody_changes_sides_when_patients_arrive(model, liver, grown):
    first = split(liver, 0)
    moved = names(first.training) & names(split(grown, 0).validation)
    assert moved  # what would happen otherwise
    cases, remark = kept_sides(grown, 0, model)
    assert remark is None
    assert names(first.training) <= names(cases.training)
    assert names(first.validation) <= names(cases.validation)
    assert names(cases.training) | names(cases.validation) == names(grown.cases)
    assert not names(cases.training) & names(cases.validation)
    new = names(grown.cases) - names(liver.cases)
    assert new & names(cases.training)
    assert new & names(cases.validation)


def test_who_was_learnt_from_once_is_not_judged_by_later(model, liver, grown):
    write_run(model, "update-liver-1", liver, split(liver, 1))
    cases, _ = kept_sides(grown, 0, model)
    learnt = names(split(liver, 0).training) | names(split(liver, 1).training)
    assert learnt <= names(cases.training)


def test_where_sides_are_not_known_or_not_kept_that_is_said(model, liver, grown):
    shutil.rmtree(model / "runs")
    cases, remark = kept_sides(grown, 0, model)
    assert cases == split(grown, 0)
    assert "does not say what the old bank learnt from" in remark


def test_a_given_split_is_taken_as_it_is_and_its_known_cases_are_counted(model, liver, grown):
    learnt, fold = names(split(liver, 0).training), split(grown, 0)
    sides = [{"train": sorted(names(fold.training)), "val": sorted(names(fold.validation))}]
    (grown.root / "splits_final.json").write_text(json.dumps(sides))
    cases, remark = kept_sides(grown, 0, model)
    assert names(cases.validation) == names(fold.validation)
    known = names(fold.validation) & learnt
    assert known
    assert remark == f"{len(known)} of the 3 validation cases were learnt from before"


def test_a_damaged_record_of_a_run_stops_nothing(model, liver, grown):
    (model / "runs/train/run.json").write_text("{")
    assert kept_sides(grown, 0, model)[1]
