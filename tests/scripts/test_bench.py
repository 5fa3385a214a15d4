"""scripts/bench: its arithmetic by hand, its rows, and that a whole quick run obeys the schema."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def quick(monkeypatch, tmp_path, capsys):
    """quick(*arguments, contenders=...) runs the bench in this process and gives its report."""

    def run(*arguments, contenders):
        import bench
        import bench_report
        import bench_sections

        monkeypatch.setattr(bench_sections, "contenders", lambda *_: contenders)
        found = tmp_path / "bench.json"
        bench.main(["--quick", "--threads", "1", "--json", str(found), *arguments])
        out = capsys.readouterr().out
        return bench_report.Report.model_validate_json(found.read_text()), out

    return run


def row(contender, family, values, **changes):
    from bench_report import Row, Spread

    content = {
        "section": "step", "setting": "here", "contender": contender, "family": family,
        "precision": "fp32", "memory_format": "contiguous", "compiled": False,
        "allocator": "as it comes", "as_users_run_it": False, "best_form": False, "weights": 1,
        "unit": "s", "repeats": 1, "values": values, "spread": Spread.of(values),
        "times_ours": None, "times_ours_alike": None, "agreement": None, "engine": "torch",
        "megavoxels": None, "tiles": None, "least_bytes": None, "share_of_bandwidth": None,
        "macs": None, "share_of_product": None, "note": "",
    }  # fmt: skip
    return Row.model_validate({**content, **changes})


def worker(contender, values, **changes):
    """A worker that has measured `values`, and lives, without a process."""
    from bench_contenders import Job
    from bench_measure import Worker
    from bench_settings import setting

    job = Job(
        kind="step", contender=contender, setting=setting("", (32, 32, 32), 1), threads=1,
        device="cpu", quick=True,
    )  # fmt: skip
    made = Worker(job, list(values), **changes)
    made.process = _Process()
    return made


class _Process:
    stdin = stdout = None

    def kill(self): ...

    def communicate(self): ...


class _Closed:
    def close(self): ...


def test_medians_ranges_and_ratios_are_those_of_the_rounds():
    from bench_report import Spread, ratios

    assert Spread.of([]) is None
    found = Spread.of([3.0, 1.0, 2.0, 10.0])
    assert (found.median, found.low, found.high) == (2.5, 1.0, 10.0)
    # by round 4/2, 9/3, 8/1: not the ratio of the medians, 8/2
    found = ratios([4.0, 9.0, 8.0], [2.0, 3.0, 1.0])
    assert (found.median, found.low, found.high) == (3.0, 2.0, 8.0)
    assert ratios([4.0], [2.0, 1.0]).high == 2.0  # it left after the first round
    assert ratios([], [1.0]) is None


def test_the_share_of_the_bandwidth_is_of_what_must_be_moved():
    from bench_report import share_of

    assert share_of(20.0, least=10**9, seconds=0.1) == pytest.approx(0.5)


def test_the_best_form_is_the_fastest_of_a_family_and_ours_is_none():
    from bench_report import compared

    rows = compared(
        [
            row("ours", "ours", (1.0, 1.0)),
            row("ours in pure torch", "ours", (0.5, 0.5)),
            row("ours, preset paper", "ours", (2.0, 2.0)),
            row("as it comes", "nnunet", (6.0, 8.0), as_users_run_it=True),
            row("channels-last", "nnunet", (4.0, 4.5)),
            row("bf16", "nnunet", (), note="it has none"),
            row("MONAI", "monai", (3.0, 3.0)),
        ]
    )
    assert [one.contender for one in rows if one.best_form] == ["channels-last"]
    times = [one.times_ours.median if one.times_ours else None for one in rows]
    assert times == [1, 0.5, 2, 7, 4.25, None, 3]


def test_forms_that_are_clearly_slower_leave_and_the_others_stay():
    from bench_contenders import Contender
    from bench_measure import _dismiss_the_slow

    fast = Contender(name="fast", family="nnunet")
    workers = [
        worker(fast, [4.0]),
        worker(fast.model_copy(update={"name": "near"}), [4.9]),
        worker(fast.model_copy(update={"name": "far"}), [8.0], errors=_Closed()),
        worker(fast.model_copy(update={"name": "asked for", "every_round": True}), [9.0]),
        worker(Contender(name="another family", family="dense"), [9.0]),
    ]
    _dismiss_the_slow(workers)
    assert [one.running for one in workers] == [True, True, False, True, True]
    assert workers[2].note == "2.00× the best form: measured 1×"


def test_the_compiled_form_takes_the_precision_of_the_faster_trial_step():
    from bench_contenders import FASTER, Contender
    from bench_measure import _settled

    form = Contender(name="form", family="nnunet", channels_last=True)
    half = form.model_copy(update={"precision": "bf16"})
    compiled = form.model_copy(update={"precision": FASTER, "compiled": True})
    job = worker(compiled, []).job
    trials = [worker(form, [], trial=5.0), worker(half, [], trial=4.0)]
    assert _settled(job, trials).contender.precision == "bf16"
    assert _settled(job, [trials[0], worker(half, [])]).contender.precision == "fp32"  # it failed
    assert _settled(job, []).contender.precision == "fp32"


def test_topologies_are_those_of_the_planner():
    from bench_settings import settings

    assert [one.stages for one in settings("step", quick=False, device="cpu")] == [4, 5]
    assert [one.stages for one in settings("memory", quick=False, device="cpu")] == [6]


def test_every_contender_says_its_form_and_ours_comes_first():
    from bench_contenders import contenders

    for kind in ("forward", "step", "memory"):
        found = contenders(kind, "cpu", quick=False)
        assert found[0].family == "ours"
        assert len({one.name for one in found}) == len(found)
        (as_it_comes,) = (one for one in found if one.name == "nnU-Net as it comes")
        assert not as_it_comes.keeps_memory
        assert as_it_comes.precision == "fp32"


def test_workers_inherit_no_settings_that_change_speed(monkeypatch):
    from bench_measure import environment

    for name in ("MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD", "OMP_WAIT_POLICY", "GLIBC_TUNABLES"):
        monkeypatch.setenv(name, "set")
    found = environment(3)
    assert found["OMP_NUM_THREADS"] == "3"
    assert "set" not in found.values()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed: memory may have run out"),
        ("import time; time.sleep(60)", "no answer in time"),
        ("raise SystemExit('the last words')", "the last words"),
        ("raise SystemExit(3)", "ended with code 3"),
        ('print(\'{"error": "OSError: full"}\')', "OSError: full"),
    ],
)
def test_a_worker_that_does_not_answer_leaves_its_reason(script, why, monkeypatch, tmp_path):
    import bench_measure
    from bench_contenders import ours

    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "worker.py").write_text(script)
    monkeypatch.setattr(bench_measure, "WORKER", tmp_path / "scripts" / "worker.py")
    made = worker(ours(), [])
    with pytest.raises(bench_measure.WorkerFailed, match=f"^{re.escape(why)}$"):
        made.start(timeout_s=2.0 if "sleep" in script else 60.0)
    assert not made.running


def test_rounds_take_turns_and_end_where_the_time_is_used_up(monkeypatch):
    import bench_measure
    from bench_contenders import ours

    asked = []

    def start(self):
        self.process = _Process()
        self.errors = _Closed()
        return {"seconds": 0.3, "weights": 7}

    def ask(self, message, _timeout_s):
        asked.append((self.contender.name, json.loads(message)["repeats"]))
        return {"seconds": 0.3}

    monkeypatch.setattr(bench_measure.Worker, "start", start)
    monkeypatch.setattr(bench_measure.Worker, "ask", ask)
    jobs = [worker(ours(name), []).job.model_copy(update={"quick": False}) for name in "ab"]
    now = time.monotonic()
    bench_measure.measure(jobs, 2, now + 3600, lambda _: None)
    assert asked == [("a", 4), ("b", 4), ("a", 4), ("b", 4)]  # 4 steps of 0.3 s pass a second
    found = bench_measure.measure(jobs, 5, now + 0.1, lambda _: None)
    assert [len(one.values) for one in found] == [1, 1]
    assert {one.note for one in found} == {"1 of 5 rounds: the time was used up"}
    assert not any(one.running for one in found)


@pytest.mark.slow
def test_a_quick_run_obeys_its_schema_and_what_fails_is_a_row(quick):
    from bench_contenders import Contender, ours

    fails = ours("fails", domains=0)
    report, out = quick(
        "--only", "step,operators", "--rounds", "2",
        contenders=[ours(), Contender(name="dense", family="dense"), fails],
    )  # fmt: skip
    steps = [one for one in report.rows if one.section == "step"]
    assert [one.contender for one in steps] == ["ours", "dense", "fails"]
    assert len(steps[0].values) == 2
    assert steps[0].times_ours.median == 1.0
    assert steps[1].times_ours is not None
    assert steps[1].weights > steps[0].weights
    assert steps[2].values == ()
    assert steps[2].note.startswith("StopIteration")
    assert "fails" in out
    operators = [one for one in report.rows if one.section == "operators"]
    assert len(operators) == 2 * 2 * 9  # ours and torch, forward and backward
    assert all(one.share_of_bandwidth > 0 for one in operators)
    least = {one.setting: one.least_bytes for one in operators}
    # 8 channels of 6×10×8 floats, read once and written once; the output of stride 2 is 3×5×4
    assert least["depthwise 3×3×3 forward"] == 2 * 4 * 8 * 6 * 10 * 8
    assert least["depthwise 3×3×3, stride 2 forward"] == 4 * 8 * (6 * 10 * 8 + 3 * 5 * 4)
    assert least["depthwise 3×3×3 backward"] == 3 * 4 * 8 * 6 * 10 * 8
    macs = {one.setting: one.macs for one in operators}
    assert macs["depthwise 3×3×3 forward"] == 27 * 8 * 6 * 10 * 8
    assert macs["pointwise backward"] == 2 * 8 * 8 * 6 * 10 * 8
    assert report.limits.bandwidth_gb_s >= report.limits.copy_gb_s
    assert report.limits.product_gmac_s > 0


@pytest.mark.slow
def test_memory_and_many_domains_run_too(quick, monkeypatch):
    import bench_sections
    from bench_contenders import ours, volume_contenders

    def two(kind, of):
        mine, _, theirs = volume_contenders(kind, of)
        return [mine, theirs] if of.classes == 2 else [mine]

    monkeypatch.setattr(bench_sections, "volume_contenders", two)
    report, _ = quick("--only", "memory,domains", "--rounds", "1", contenders=[ours()])
    memory = [one for one in report.rows if one.section == "memory"]
    # a step; predictions of ours and nnU-Net with 2 classes, of ours with 5, both ways
    assert len(memory) == 1 + 3 * 2
    assert {one.unit for one in memory} == {"GiB"}
    assert [one.section for one in report.rows[len(memory) :]] == ["domains"] * 2
    assert [one.note for one in report.rows if one.note] == []
    whole, above = (
        {one.contender: one.values[0] for one in memory if one.setting.endswith(what)}
        for what in ("whole process", "above its loaded model")
    )
    assert "ours, 5 classes" in whole
    assert all(whole[name] > above[name] > 0 for name in whole)
    assert 0 < report.rows[0].values[0] < 16


def test_an_unknown_section_is_a_usage_error(capsys):
    import bench

    with pytest.raises(SystemExit) as stop:
        bench.parsed(["--only", "step,stride"])
    assert stop.value.code == 2
    assert "stride: no such section" in capsys.readouterr().err
    assert bench.parsed(["--only", "domains,step"]).only == ("step", "domains")


def test_the_document_names_every_field_of_the_json():
    from bench_report import (
        SCHEMA_VERSION,
        Agreement,
        Limits,
        Machine,
        Report,
        Row,
        Scaling,
        Spread,
    )

    text = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8").split("## JSON")[1]
    named = set(re.findall(r"`(\w+)`", text))
    models = (Report, Row, Machine, Limits, Spread, Scaling, Agreement)
    assert [name for model in models for name in model.model_fields if name not in named] == []
    assert f"| `schema_version` | {SCHEMA_VERSION} |" in text
