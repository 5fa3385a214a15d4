"""scripts/few-shot: a row per run, each trunk trained once, nobody looked at but the few."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import sys
from itertools import count
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPARE = (
    "families", "worker", "settle", "judge", "levels", "macs", "rows", "groups", "evidence",
    "claims", "canvas", "pictures", "report", "options",
)  # fmt: skip
MODULES = [
    *(f"compare_{part}" for part in COMPARE),
    *(f"few_shot{part}" for part in ("", "_rows", "_runs", "_worker", "_report", "_claims")),
    *("bench", "bench_measure", "bench_contenders", "bench_report", "bench_sections"),
    "bench_volumes",
]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


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


def test_a_trunk_of_another_width_gives_it_to_its_banks_and_not_to_nothing(monkeypatch):
    from few_shot_runs import runs

    from u2net3d.spec import BANK_LEARNING_RATE

    monkeypatch.setattr("few_shot_runs.data_of", lambda *_: "it")
    asked = parsed("--inits", "fresh,scratch", "--cases", "1", "--trunks", ":base_channels=24")
    one, alone = [each for each in runs(asked) if each.domain == "liver"]
    assert one.model == one.trunk.model
    assert (one.model.base_channels, alone.model.base_channels) == (24, 16)
    assert one.training == {"learning_rate": BANK_LEARNING_RATE}
    assert alone.training == one.trunk.training == {}


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


def row(init="fresh", domain="liver", cases=1, dice=0.8, seed=0, **changes):
    """A row by hand; trunk: changes of its trunk's training, base: what its domains are called."""
    from few_shot_rows import FewRow

    trunk = {
        "data": "it", "preset": "base", "model": {}, "domains": ["a", "b"],
        "budget": {"kind": "time", "amount": 900, "threads": 2}, **changes.pop("trunk", {}),
    }  # fmt: skip
    asked = {
        "data": "it", "preset": "base", "model": {}, "domains": (domain,), "seed": seed,
        "cases": cases,
        "budget": {"kind": "time", "amount": 240, "threads": 2}, "init": init,
        "trunk": None if init == "scratch" else trunk, "base": changes.pop("base", "the others"),
    }  # fmt: skip
    outcome = {
        "dice": dice, "labels": {}, "training_cases": cases or 30, "validation_cases": 8,
        "patch": (8, 8, 8), "batch": 2, "stages": 3, "weights": 10, "macs": None, "step_s": 0.1,
        "volume_s": 0.2,
    }  # fmt: skip
    said = {
        "asked": asked, "state": "last", "steps": 2, "seconds": 1.0, "trunk": 1000,
        "peak_gib": 0.5, "date": "2026-11-21T00:00:00+00:00", "versions": {"torch": "2"},
        "machine": "this one", "outcomes": {domain: outcome},
    }  # fmt: skip
    if init != "scratch":
        said |= {"trunk_id": "f" * 64, "trunk_dice": {"a": 0.9, "b": 0.7}, "trunk_steps": 900}
    return FewRow.model_validate({**said, **changes})


def aims(*rows):
    from compare_groups import groups_of
    from few_shot_claims import claims

    return {claim.title: (claim.verdict, claim.numbers) for claim in claims(groups_of(rows))}


def aim(*rows, init="fresh"):
    (found,) = [said for title, said in aims(*rows).items() if f"(`{init}`)" in title]
    return found


def test_the_aim_is_reached_only_where_every_domain_and_few_patients_are_ahead():
    ahead = [row(dice=0.8), row("scratch", dice=0.7)]
    both = [row(domain="heart", cases=5, dice=0.6), row("scratch", "heart", 5, 0.5)]
    verdict, numbers = aim(*ahead, *both)
    assert verdict == "confirmed"
    assert "ahead in 2 of 2, 2 domains" in numbers
    assert "heart 5: 0.600 beside 0.500 (+0.100)" in numbers
    behind = [row(domain="spleen", dice=0.5), row("scratch", "spleen", dice=0.6)]
    assert aim(*ahead, *both, *behind)[0] == "contradicted"
    level = [row(domain="spleen", dice=0.61), row("scratch", "spleen", dice=0.6)]
    assert aim(*ahead, *both, *level)[0] == "not decided"
    many = [row(domain="spleen", cases=None, dice=0.5), row("scratch", "spleen", None, 0.9)]
    assert aim(*ahead, *both, *many)[0] == "confirmed"
    assert aim(row())[0] == "not decided"
    assert aim(*ahead, row("scratch", "heart", 5, 0.5))[0] == "not decided"  # one is missing


def test_a_lead_smaller_than_the_seeds_differ_is_none():
    seeds = [row(dice=0.8), row(dice=0.6, seed=1)]
    for dice, verdict in ((0.65, "not decided"), (0.55, "confirmed")):
        alone = [row("scratch", dice=dice, seed=seed) for seed in (0, 1)]
        assert aim(*seeds, *alone)[0] == verdict


def test_nearest_is_compared_with_the_other_starts():
    rows = [row(dice=0.7), row("nearest", dice=0.8), row("mean", dice=0.8)]
    found = aims(*rows)
    assert found["`nearest` is ahead of `fresh`"][0] == "confirmed"
    assert found["`nearest` is ahead of `mean`"][0] == "not decided"


def test_the_report_is_of_the_rows_alone(tmp_path):
    from few_shot_report import write_report

    chosen = {"taken": "a", "explained": {"a": 0.5, "b": 0.2}}
    rows = [
        row("nearest", domain, cases, 0.8 + n / 100, n, nearest=chosen)
        for domain in ("liver", "heart") for cases in (1, None) for n in (0, 1)
    ]  # fmt: skip
    one = {"base": "a", "trunk": {"domains": ["a"]}, "nearest": chosen, "choice_s": 4.0}
    rows += [row("scratch", dice=0.7), row("nearest", dice=0.6, **one)]
    rows.append(row(dice=0.5, trunk={"preset": "base:stages=3"}, seed=3))
    place = tmp_path / "docs" / "few-shot.md"
    write_report(place, rows)
    text = place.read_text()
    assert "| patients | cases | nearest | scratch | nearest was |" in text
    assert "| 1 | 1 | 0.805 ± 0.005 | 0.700 | a 2× |" in text
    assert "| all | 30 | 0.805 ± 0.005 | – | a 2× |" in text
    assert "trunk: the others, base, 30 min by the clock on 2 threads" in text
    assert "| the others, base, 30 min by the clock on 2 threads | 0.805 ± 0.005 | 0.805" in text
    assert "| a, base, 15 min by the clock on 2 threads | 0.600 | – | 0.600 | 1,000 |" in text
    assert text.count("\n## 4 min") == 3
    assert "`nearest` chose in 0.0 to 0.0 s." in text
    assert "`nearest` chose in 4.0 to 4.0 s." in text
    shown = re.findall(r"\]\((pictures/.*?\.png)\)", text)
    assert shown == [f"pictures/few-shot{end}.png" for end in ("", "-1", "-2")]
    first = {name: (place.parent / name).read_bytes() for name in shown}
    write_report(place, rows)
    assert (place.read_text(), {n: (place.parent / n).read_bytes() for n in shown}) == (text, first)


def test_a_report_of_no_rows_says_so(tmp_path):
    import few_shot

    words = ["--report", tmp_path / "few-shot.md", "--rows", tmp_path / "none.jsonl"]
    assert few_shot.main([str(word) for word in words]) == 0
    assert "There are no rows yet" in (tmp_path / "few-shot.md").read_text()


def test_what_a_trunk_is_called_makes_no_other_run_and_what_it_learnt_does():
    own = row().asked.key
    assert row(base="a+b").asked.key == own
    assert row(trunk={"domains": ["b", "a"]}).asked.key == own
    for changes in ({"trunk": {"domains": ["a"]}}, {"trunk": {"seed": 1}}, {"cases": 5}):
        assert row(**changes).asked.key != own
    assert row("mean").asked.key != own
