"""scripts/compare: a row per run, none twice, none lost."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def data(make_dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_dataset(root, "Task03_Liver", cases=6)
    make_dataset(root, "Task02_Heart", cases=5, seed=1)
    return root


@pytest.fixture
def compare(monkeypatch, tmp_path, data):
    """compare(*arguments) runs scripts/compare with its workers in this process: 2 steps each."""
    import compare_families
    import compare_settle
    import compare_worker

    folders = []

    def worked(folder, threads):
        folders.append(folder)
        job = compare_worker.Job.model_validate_json((folder / "job.json").read_text())
        compare_worker.work(job.model_copy(update={"keep_quiet": True}), folder)
        return 0

    def run(*arguments, budget=("--steps", "2"), domains="liver"):
        folders.clear()
        own = ("--rows", tmp_path / "rows.jsonl", "--work", tmp_path / "work", "--data", data)
        words = ["--presets", "base:base_channels=2", "--domains", domains, *budget, *own]
        code = compare_families.main([str(word) for word in (*words, *arguments)])
        return code, compare_families.read_rows(tmp_path / "rows.jsonl"), len(folders)

    monkeypatch.setattr(compare_families, "worked", worked)
    monkeypatch.setattr(compare_settle, "ROUNDS", 1)
    monkeypatch.setattr(compare_settle, "LEAST_S", 0.0)
    return run


def asked(**changes):
    from compare_rows import Asked

    from u2net3d.spec import ModelSpec

    said = {"data": "it", "preset": "base", "model": ModelSpec(preset="base"), "seed": 0}
    said |= {"domains": ("liver",), "budget": {"kind": "steps", "amount": 2}}
    return Asked.model_validate(said | changes)


def test_a_run_that_has_its_row_is_not_run_again(compare):
    code, rows, ran = compare()
    assert (code, len(rows), ran) == (0, 1, 1)
    (found,) = rows
    outcome = found.outcomes["liver"]
    assert (found.steps, found.state, found.asked.preset) == (2, "last", "base:base_channels=2")
    assert (outcome.training_cases, outcome.validation_cases) == (4, 2)
    assert 0 <= outcome.dice <= 1
    assert outcome.macs.total > 0
    assert outcome.step_s > 0
    assert compare()[1:] == (rows, 0)
    assert compare("--seeds", "0,1")[2] == 1
    assert compare(budget=("--steps", "3"))[2] == 1


def test_a_last_line_cut_off_by_a_kill_is_left_out_and_its_run_made_again(compare, tmp_path):
    rows = compare("--seeds", "0,1")[1]
    path = tmp_path / "rows.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    code, again, ran = compare("--seeds", "0,1")
    assert (code, ran) == (0, 1)
    assert [each.asked for each in again] == [each.asked for each in rows]
    assert len(path.read_text().splitlines()) == 2


def test_a_stopped_run_goes_on_from_its_checkpoint(compare, monkeypatch):
    import compare_worker

    from u2net3d.errors import Stopped

    seen = []

    def stepped(self, at, share, domain, loss):
        seen.append(at.step)
        if len(seen) == 2:
            raise Stopped

    monkeypatch.setattr(compare_worker.Listener, "stepped", stepped)
    budget = ("--steps", "4")
    assert compare(budget=budget)[:2] == (130, [])
    code, rows, _ = compare(budget=budget)
    assert (code, seen, rows[0].steps) == (0, [1, 2, 3, 4], 4)


def test_a_run_that_ended_before_its_row_was_written_is_not_run_again(compare, monkeypatch):
    import compare_families

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compare_families, "append_rows", killed)
        assert compare()[:2] == (130, [])
    code, rows, ran = compare()
    assert (code, len(rows), ran) == (0, 1, 0)


def test_a_failed_run_is_told_and_the_others_go_on(compare, monkeypatch):
    import compare_families

    inner = compare_families.worked
    monkeypatch.setattr(
        compare_families, "worked", lambda f, n: 1 if b'"heart"' in (f / "job.json").read_bytes()
        else inner(f, n),
    )  # fmt: skip
    code, rows, _ = compare(domains="heart,liver")
    assert (code, [each.asked.domains for each in rows]) == (3, [("liver",)])


def test_domains_together_share_a_network_and_have_the_sum_of_the_budgets(compare):
    code, rows, ran = compare("--together", domains="heart,liver")
    assert (code, len(rows), ran) == (0, 1, 1)
    assert rows[0].steps == 4
    assert [*rows[0].outcomes] == ["heart", "liver"]
    assert rows[0].name == "base:base_channels=2 (together)"
    assert compare("--together", domains="liver,heart")[2] == 0


def test_few_patients_are_judged_by_the_same_cases(data, tmp_path):
    from compare_settle import few as first_patients

    from u2net3d.io.dataset import find_dataset, split

    full = find_dataset(data, "liver")
    few = first_patients(full, asked(cases=2), tmp_path)
    assert len(split(few, 0).training) == 2
    names = [[case.name for case in split(each, 0).validation] for each in (full, few)]
    assert names[0] == names[1]
    assert {case.name for case in split(few, 0).training} < {
        case.name for case in split(full, 0).training
    }


def test_processor_time_becomes_steps_by_the_time_of_a_step(compare, monkeypatch):
    import compare_settle

    times = {"heart": 0.5, "liver": 1.5}
    monkeypatch.setattr(compare_settle, "step_seconds", lambda _, spec, __: times[spec.name])
    budget = ("--cpu-seconds", "2", "--threads", "1")
    assert compare(budget=budget, domains="heart,liver")[1][0].steps == 4
    together = compare("--together", budget=budget, domains="heart,liver")[1][-1]
    assert together.steps == 4  # 4 s make two rounds of 2 s


def test_a_run_in_a_process_of_its_own_leaves_its_row(data, tmp_path):
    import compare_families

    words = [
        *("--presets", "base:base_channels=2", "--data", data, "--domains", "liver"),
        *("--steps", "1", "--threads", "1", "--rows", tmp_path / "r", "--work", tmp_path / "w"),
    ]
    assert compare_families.main([str(word) for word in words]) == 0
    (found,) = compare_families.read_rows(tmp_path / "r")
    assert found.steps == 1
    assert found.peak_gib is None or found.peak_gib > 0.05
    assert not [*(tmp_path / "w").iterdir()]


def test_other_cases_make_another_run_and_the_order_of_the_domains_none(data, make_dataset):
    from compare_rows import data_of

    root = data.parent / "other"
    make_dataset(root, "Task03_Liver", cases=5)
    first = data_of(data, ["liver"], 0)
    assert first != data_of(root, ["liver"], 0)
    assert first != data_of(data, ["liver"], 1)
    assert first == data_of(root, [f"liver={data / 'Task03_Liver'}"], 0)
    assert data_of(data, ["liver", "heart"], 0) == data_of(data, ["heart", "liver"], 0)
    assert asked(data=first).key != asked().key
