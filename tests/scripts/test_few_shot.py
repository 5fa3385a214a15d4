"""scripts/few-shot: a row per run, each trunk trained once, nobody looked at but the few."""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def data(make_dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("Task02_Heart", "Task03_Liver", "Task09_Spleen")):
        make_dataset(root, name, cases=6, seed=seed)
    return root


@pytest.fixture
def few_shot(monkeypatch, tmp_path, data):
    """few_shot(*arguments) -> exit code, rows, what ran: `trunk`, or how the bank began."""
    import compare_families
    import compare_settle
    import compare_worker
    import few_shot
    import few_shot_worker

    ran = []

    def trunk(folder, threads):
        ran.append("trunk")
        job = compare_worker.Job.model_validate_json((folder / "job.json").read_text())
        compare_worker.work(job.model_copy(update={"keep_quiet": True}), folder)
        return 0

    def one(folder, threads, worker):
        job = few_shot_worker.FewJob.model_validate_json((folder / "job.json").read_text())
        ran.append(job.asked.init)
        few_shot_worker.work(job.model_copy(update={"keep_quiet": True}), folder)
        return 0

    def run(*arguments, budget=("--steps", "2", "--trunk-time", "2"), domains="heart,liver"):
        ran.clear()
        own = ("--rows", tmp_path / "rows.jsonl", "--work", tmp_path / "work", "--data", data)
        words = ["--preset", "base:base_channels=2", "--domains", domains, *budget, *own]
        given = [str(word) for word in (*words, *arguments)]
        code = few_shot.main(given if "--cases" in given else [*given, "--cases", "1"])
        rows = compare_families.read_rows(tmp_path / "rows.jsonl", few_shot.FewRow)
        return code, rows, list(ran)

    monkeypatch.setattr(compare_families, "worked", trunk)
    monkeypatch.setattr(few_shot, "worked", one)
    monkeypatch.setattr(compare_settle, "ROUNDS", 1)
    monkeypatch.setattr(compare_settle, "LEAST_S", 0.0)
    for place in ("run", "add_domain"):  # drawing takes longer than these runs
        monkeypatch.setattr(f"u2net3d.train.{place}.draw_cases", lambda *_: None)
    monkeypatch.setattr("u2net3d.train.history.History.draw", lambda _: None)
    return run


def test_a_trunk_is_trained_once_and_a_run_that_has_its_row_is_not_run_again(
    few_shot, tmp_path, monkeypatch
):
    monkeypatch.setattr("few_shot.runs", only("liver"))
    code, rows, ran = few_shot("--inits", "fresh,mean,scratch")
    assert (code, len(rows)) == (0, 3)
    assert ran == ["trunk", "fresh", "mean", "scratch"]
    assert [row.asked.init for row in rows] == ["fresh", "mean", "scratch"]
    assert len({row.trunk_id for row in rows[:2]}) == 1
    assert [{*row.trunk_dice} for row in rows] == [{"heart"}, {"heart"}, set()]
    assert {row.outcomes["liver"].validation_cases for row in rows} == {2}
    assert {(row.steps, row.state) for row in rows} == {(2, "last")}
    trunks = {
        p: p.read_bytes() for p in (tmp_path / "work").glob("trunks/*/model/**/*.safetensors")
    }
    assert len(trunks) == 2
    assert few_shot("--inits", "fresh,mean,scratch")[1:] == (rows, [])
    assert few_shot("--inits", "nearest")[2] == ["nearest"]
    assert all(path.read_bytes() == content for path, content in trunks.items())


def test_what_nearest_chose_stands_in_its_row(few_shot, monkeypatch):
    monkeypatch.setattr("few_shot.runs", only("liver"))
    (row,) = few_shot("--inits", "nearest", domains="heart,liver,spleen")[1]
    assert row.nearest.taken in ("heart", "spleen")
    assert {*row.nearest.explained} == {*row.trunk_dice} == {"heart", "spleen"}
    assert row.choice_s > 0


def test_the_choice_of_a_bank_is_taken_off_the_budget(few_shot, monkeypatch):
    import compare_settle
    import few_shot_worker

    ticks = count()
    monkeypatch.setattr("few_shot.runs", only("liver"))
    monkeypatch.setattr(few_shot_worker, "clock_of", lambda *_: lambda: float(next(ticks)))
    for module in (compare_settle, few_shot_worker):
        monkeypatch.setattr(module, "step_seconds", lambda *_: 0.5)
    budget = ("--cpu-seconds", "2", "--trunk-time", "1s", "--threads", "1")
    _, rows, _ = few_shot("--inits", "fresh,nearest,scratch", budget=budget)
    steps = {row.asked.init: row.steps for row in rows}
    assert steps == {"fresh": 4, "nearest": 2, "scratch": 4}
    assert {row.choice_s for row in rows if row.nearest} == {1.0}


@pytest.mark.parametrize("init", ["nearest", "scratch"])
def test_nobody_but_the_few_is_looked_at_before_they_are_judged(
    few_shot, init, data, make_dataset, tmp_path
):
    """All other training cases are torn files, and the plan is that of the few alone."""
    import few_shot_worker

    from u2net3d import files
    from u2net3d.io.dataset import find_dataset, split

    root = tmp_path / "torn"
    shutil.copytree(data, root)
    liver = find_dataset(root, "liver")
    sides = split(liver, 0)
    first, *others = sorted({case.patient for case in sides.training}, key=files.sha256_json)
    for case in sides.training:
        if case.patient in others:
            case.images[0].write_bytes(b"torn")
            case.label.write_bytes(b"torn")
    seen = []
    real = few_shot_worker.FewRow.model_validate

    def look(said):
        (place,) = (tmp_path / "work").glob("*/model/runs/*/run.json")
        seen.append(json.loads(place.read_text())["domains"]["liver"])
        return real(said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few_shot_worker.FewRow, "model_validate", look)
        arguments = ("--data", root, "--inits", init, "--keep")
        # of the two domains only liver may be learnt here: heart stands in the trunk
        patch.setattr("few_shot.runs", only("liver"))
        code, rows, _ = few_shot(*arguments)
    assert code == 0
    assert seen[0]["training"] == [case.name for case in sides.training if case.patient == first]
    assert seen[0]["validation"] == [case.name for case in sides.validation]
    alone = make_alone(tmp_path / "alone", liver, seen[0]["training"])
    assert seen[0]["specification"]["plan"] == alone
    assert rows[0].outcomes["liver"].training_cases == 1


def only(domain):
    from few_shot_runs import runs

    return lambda asked: (each for each in runs(asked) if each.domain == domain)


def make_alone(root, dataset, names):
    """The plan of a data set that has no other case than those."""
    from compare_families import contestant

    from u2net3d.io.dataset import find_dataset
    from u2net3d.train.planned import planned

    shutil.copytree(dataset.root, root / dataset.root.name)
    place = root / dataset.root.name / "dataset.json"
    content = json.loads(place.read_text())
    kept = [each for each in content["training"] if Path(each["image"]).name[:9] in names]
    place.write_text(json.dumps({**content, "training": kept}))
    for path in [*place.parent.glob("*Tr/*.nii.gz")]:
        if path.name[:9] not in names:
            path.unlink()
    few = find_dataset(root, dataset.domain)
    assert len(few.cases) == len(names)
    model = contestant("base:base_channels=2")
    return planned(few, few.cases, model, None, lambda *_: None).plan.model_dump(mode="json")


def test_a_stopped_run_goes_on_from_its_checkpoint(few_shot, monkeypatch):
    import compare_worker

    from u2net3d.errors import Stopped

    seen = []

    def stepped(self, at, share, domain, loss):
        if self.asked.domains == ("liver",) and self.asked.cases:
            seen.append(at.step)
            if len(seen) == 2:
                raise Stopped

    monkeypatch.setattr(compare_worker.Listener, "stepped", stepped)
    monkeypatch.setattr("few_shot.runs", only("liver"))
    arguments = ("--inits", "nearest")
    budget = ("--steps", "4", "--trunk-time", "1")
    assert few_shot(*arguments, budget=budget)[:2] == (130, [])
    code, rows, ran = few_shot(*arguments, budget=budget)
    assert (code, seen, ran) == (0, [1, 2, 3, 4], ["nearest"])
    assert rows[0].steps == 4


def test_a_run_that_ended_before_its_row_was_written_is_not_run_again(few_shot, monkeypatch):
    import few_shot as script

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "runs", only("liver"))
    with monkeypatch.context() as patch:
        patch.setattr(script, "append_rows", killed)
        assert few_shot("--inits", "scratch")[:2] == (130, [])
    code, rows, ran = few_shot("--inits", "scratch")
    assert (code, len(rows), ran) == (0, 1, [])


def test_a_trunk_that_fails_is_tried_once_and_the_others_go_on(few_shot, monkeypatch):
    import compare_families

    tried = []
    inner = compare_families.worked

    def worked(folder, threads):
        trained = json.loads((folder / "job.json").read_text())["asked"]["domains"]
        tried.append(trained)
        return 1 if trained == ["heart"] else inner(folder, threads)

    monkeypatch.setattr(compare_families, "worked", worked)
    code, rows, _ = few_shot("--inits", "fresh,mean")
    assert code == 3
    assert tried == [["liver"], ["heart"]]
    assert [row.asked.domain for row in rows] == ["heart", "heart"]


def test_a_trunk_that_another_process_trains_is_waited_for_in_the_end(few_shot, monkeypatch):
    import few_shot as script

    real, asked = script.claimed, []

    def claimed(path, *, wait=False):
        if path.parent.name == "trunks":
            asked.append(wait)
            if not wait and len(asked) == 1:
                raise script.Busy
        return real(path, wait=wait)

    monkeypatch.setattr(script, "claimed", claimed)
    code, rows, ran = few_shot("--inits", "fresh,scratch")
    assert (code, len(rows)) == (0, 4)
    assert ran == ["scratch", "trunk", "fresh", "scratch", "trunk", "fresh"]
    assert asked == [False, False, True]


def test_what_another_process_does_is_left_to_it(few_shot, tmp_path, monkeypatch):
    import few_shot as script
    from few_shot_runs import runs

    asked = []
    monkeypatch.setattr(script, "runs", lambda given: asked.append([*runs(given)]) or asked[-1])
    few_shot("--inits", "scratch", "--list")
    (tmp_path / "work").mkdir()
    lock = tmp_path / "work" / f"{asked[0][0].key}.lock"
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, rows, _ = few_shot("--inits", "scratch")
    assert code == 0
    assert [row.asked.domain for row in rows] == [asked[0][1].domain]


@pytest.mark.slow
def test_a_run_in_processes_of_its_own_leaves_its_row(data, tmp_path):
    import few_shot

    words = [
        *("--preset", "base:base_channels=2", "--data", data, "--domains", "heart,liver"),
        *("--inits", "fresh", "--cases", "1", "--steps", "1", "--trunk-time", "1"),
        *("--threads", "1", "--rows", tmp_path / "r", "--work", tmp_path / "w"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few_shot, "runs", only("liver"))
        assert few_shot.main([str(word) for word in words]) == 0
    (found,) = few_shot.read_rows(tmp_path / "r", few_shot.FewRow)
    assert (found.steps, found.asked.init) == (1, "fresh")
    assert [path.name for path in (tmp_path / "w").iterdir() if path.is_dir()] == ["trunks"]


def parsed(*words):
    import few_shot

    return few_shot.parsed(["--domains", "heart,liver,spleen", *map(str, words)])


def test_a_trunk_is_the_others_unless_it_is_named_and_never_knows_the_new_domain(monkeypatch):
    from few_shot_runs import runs

    monkeypatch.setattr("few_shot_runs.data_of", lambda *_: "it")
    asked = parsed("--inits", "fresh", "--cases", "all", "--trunks", ",heart,heart+kidney@60s")
    found = {(each.domain, each.trunk.domains) for each in runs(asked)}
    assert found == {
        ("heart", ("liver", "spleen")), ("liver", ("heart", "spleen")),
        ("spleen", ("heart", "liver")), ("liver", ("heart",)), ("spleen", ("heart",)),
        ("liver", ("heart", "kidney")), ("spleen", ("heart", "kidney")),
    }  # fmt: skip
    whole = {each.stands_on for each in runs(asked) if each.domain == "liver"}
    threads = asked.budget.model_copy(update={"amount": 60.0})
    half_hour = asked.budget.model_copy(update={"amount": 1800.0})
    assert whole == {
        f"the others, base, {half_hour}", f"heart, base, {half_hour}",
        f"heart+kidney, base, {threads}",
    }  # fmt: skip
    assert {each.trunk.budget.amount for each in runs(asked)} == {900.0, 1800.0, 30.0}


@pytest.mark.parametrize(
    "words",
    [
        ("--inits", "fresh,scratch", "--cases", "1,all", "--seeds", "0,2"),
        ("--cases", "5", "--trunks", ",heart+spleen:base_channels=24@1h", "--time", "90s"),
        ("--inits", "scratch", "--steps", "9", "--preset", "base:stages=4", "--fold", "1"),
        ("--inits", "mean,scratch", "--cpu-seconds", "9", "--preset", "base:stages=4"),
    ],
)
def test_the_commands_of_rows_make_the_same_runs(words, monkeypatch):
    from few_shot_rows import commands
    from few_shot_runs import runs

    monkeypatch.setattr("few_shot_runs.data_of", lambda *_: "it")
    wanted = [*runs(parsed(*words))]
    lines = commands([SimpleNamespace(asked=each) for each in wanted])
    again = [each.key for line in lines for each in runs(parsed(*shlex.split(line)[1:]))]
    assert sorted(again) == sorted(each.key for each in wanted)


def test_runs_go_domain_by_domain_and_seed_by_seed_in_each(monkeypatch):
    from few_shot_runs import runs

    monkeypatch.setattr("few_shot_runs.data_of", lambda *_: "it")
    asked = parsed("--inits", "scratch", "--cases", "1", "--seeds", "0,1")
    order = [(each.domain, each.seed) for each in runs(asked)]
    assert order == [(name, seed) for name in ("heart", "liver", "spleen") for seed in (0, 1)]


def test_a_trunk_of_another_width_gives_it_to_its_banks_and_not_to_nothing(monkeypatch):
    from compare_settle import recipe
    from few_shot_runs import runs

    from u2net3d.spec import BANK_KERNEL_RATE, BANK_LEARNING_RATE, RECIPES

    monkeypatch.setattr("few_shot_runs.data_of", lambda *_: "it")
    asked = parsed("--inits", "fresh,scratch", "--cases", "1", "--trunks", ":base_channels=24")
    one, alone = [each for each in runs(asked) if each.domain == "liver"]
    assert one.model == one.trunk.model
    assert (one.model.base_channels, alone.model.base_channels) == (24, 16)
    assert recipe(one, 1).learning_rate == BANK_LEARNING_RATE
    assert [recipe(each, 1).kernel_rate for each in (one, alone)] == [BANK_KERNEL_RATE, 0]
    own = RECIPES["base"].learning_rate
    assert [recipe(each, 1).learning_rate for each in (alone, one.trunk)] == [own, own]


def test_a_run_is_another_when_the_recipe_of_its_preset_changes(monkeypatch):
    import few_shot_runs

    from u2net3d import spec
    from u2net3d.spec import RECIPES

    monkeypatch.setattr("few_shot_runs.data_of", lambda *_: "it")
    asked = parsed("--inits", "fresh,scratch", "--cases", "1")
    before = {each.key for each in few_shot_runs.runs(asked)}
    changed = {**RECIPES, "base": RECIPES["base"].model_copy(update={"decay_power": 0.5})}
    for place in (few_shot_runs, spec):
        monkeypatch.setattr(place, "RECIPES", changed)
    after = list(few_shot_runs.runs(asked))
    assert not before & {each.key for each in after}
    assert {each.training["decay_power"] for each in after} == {0.5}
    assert {each.trunk.training["decay_power"] for each in after if each.trunk} == {0.5}


@pytest.mark.parametrize(
    "words",
    [
        ("--trunks", "heart:wings=2"),
        ("--trunks", "heart@soon"),
        ("--trunks", "a@1m@2m"),
        ("--steps", 3, "--trunk-time", "30m"),
        ("--inits", "fresh,none"),
        ("--preset", "best"),
        ("--time", "soon"),
    ],
)
def test_what_there_is_not_is_said_before_anything_runs(words):
    from u2net3d.errors import UsageError

    with pytest.raises(UsageError):
        parsed(*words)


def test_more_patients_than_there_are_and_no_others_are_said_at_once(few_shot, capsys):
    assert few_shot("--cases", "1,9", "--inits", "scratch")[0] == 2
    assert "9 asked for, heart has 4 patients" in capsys.readouterr().err
    assert few_shot("--inits", "fresh", domains="liver")[0] == 2
    assert "no others" in capsys.readouterr().err
