"""scripts/compare: a row per run, none twice, none lost; its counts and verdicts by hand."""

from __future__ import annotations

import json
import re
import sys
from math import nan
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "families", "worker", "settle", "judge", "levels", "macs", "rows", "groups", "evidence",
    "claims", "pictures", "report",
)  # fmt: skip
BENCH = ("bench", "bench_measure", "bench_contenders", "bench_report", "bench_sections")
MODULES = [*(f"compare_{part}" for part in PARTS), *BENCH, "bench_volumes"]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


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
    return run


def row(preset="base", domain="liver", dice=0.8, seed=0, **changes):
    """A row by hand: changes are of its asked, of its outcome or of itself, by their names."""
    from compare_rows import Asked, LabelOutcome, Outcome, Row

    from u2net3d.spec import ModelSpec

    model = ModelSpec(
        preset=preset, family=changes.pop("family", "universal"),
        options=changes.pop("options", {}), design=changes.pop("design", {}),
    )  # fmt: skip
    asked = {
        "preset": preset, "model": model, "domains": changes.pop("domains", (domain,)),
        "seed": seed, "budget": {"kind": "steps", "amount": 2},
    }  # fmt: skip
    asked |= {key: changes.pop(key) for key in [*changes] if key in Asked.model_fields}
    thirds = changes.pop("terciles", (dice - 0.1, dice, dice + 0.1))
    label = LabelOutcome(dice=dice, terciles=thirds, voxels=(9, 50, 99))
    outcome = {
        "dice": dice, "labels": {"it": label},
        "training_cases": 4, "validation_cases": 3, "patch": (8, 8, 8), "batch": 2, "stages": 5,
        "weights": 100, "macs": None, "step_s": 0.5, "volume_s": 2.0,
    }  # fmt: skip
    outcome |= {key: changes.pop(key) for key in [*changes] if key in Outcome.model_fields}
    said = {
        "asked": asked, "state": "last", "steps": 2, "seconds": 1.0, "trunk": 1000,
        "peak_gib": 0.5, "date": "2026-11-21T00:00:00+00:00", "versions": {"torch": "2"},
        "machine": "this one", "outcomes": {domain: outcome},
    }  # fmt: skip
    return Row.model_validate({**said, **changes})


def verdicts(claim, *rows):
    """(verdict, numbers) of everything that a function of compare_claims says of the rows."""
    import compare_claims
    from compare_groups import groups_of

    return [
        (found.verdict, found.numbers) for found in getattr(compare_claims, claim)(groups_of(rows))
    ]


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


def test_a_line_in_the_middle_that_is_no_row_is_named(tmp_path):
    from compare_rows import append_rows, read_rows

    from u2net3d.errors import DataError

    path = tmp_path / "rows.jsonl"
    path.write_text('{"asked": 1}\n')
    append_rows(path, [row()])
    with pytest.raises(DataError, match="line 1 is no row"):
        read_rows(path)


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
    few = first_patients(full, row(cases=2).asked, tmp_path)
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


def test_a_preset_may_be_changed_in_its_own_fields_alone():
    from compare_families import contestant

    from u2net3d.errors import UsageError

    model = contestant("base:stages=3:residual=false")
    assert (model.stages, model.design.residual, model.design.first_stage) == (3, False, 1)
    for text in ("best", "base:stages", "base:wings=2", "base:stages=1"):
        with pytest.raises(UsageError):
            contestant(text)


def test_the_name_of_a_preset_and_the_version_make_no_other_run():
    own = row().asked.key
    assert row(versions={"torch": "3"}).asked.key == own
    assert row(preset="other").asked.key == own
    for changes in ({"seed": 1}, {"cases": 3}, {"training": {"elastic": True}}, {"fold": 1}):
        assert row(**changes).asked.key != own


def test_thirds_are_those_of_the_references_voxels():
    from compare_judge import label_outcome

    found = label_outcome([0.9, 0.1, nan, 0.5, 0.3, 0.7, 0.0], [90, 10, 0, 50, 30, 70, 0])
    assert found.dice == pytest.approx(2.5 / 6, abs=1e-5)  # an empty reference counts here alone
    assert found.terciles == (0.1, 0.5, 0.9)
    assert found.voxels == (10, 50, 90)
    assert label_outcome([0.5], [4]).terciles == (None, 0.5, None)


def cube(stages, side=32):
    from u2net3d.spec import DomainSpec, Plan, ZScoreNormalisation

    plan = Plan(
        spacing_mm=(1, 1, 1), normalisation=(ZScoreNormalisation(),), patch_size=(side,) * 3,
        batch_size=1, strides=((1, 1, 1), *[(2, 2, 2)] * (stages - 1)),
        kernels=((3, 3, 3),) * stages,
    )  # fmt: skip
    return DomainSpec(name="a", channels=("CT",), labels=("background", "x"), plan=plan)


def test_a_network_is_counted_without_being_built():
    from compare_macs import needed

    from u2net3d.spec import PRESETS

    found = needed(PRESETS["paper"], cube(6, 128))
    assert found.trunk == 1_309_952
    assert found.macs.dense == 128**3 * 16 * 27  # the stem alone
    assert found.macs.pairs / found.macs.as_dense == pytest.approx(found.macs.analytic)


def test_a_level_is_counted_by_what_its_answer_needs():
    from compare_macs import needed

    from u2net3d.spec import ModelSpec

    model = ModelSpec(preset="nested", family="unetpp", base_channels=4, stages=4)
    whole, deepest, second = (needed(model, cube(4), level) for level in (None, 3, 2))
    alone = needed(model.model_copy(update={"stages": 3}), cube(3))
    head = 4 * 2 + 2  # of every level: 4 channels, 2 classes
    assert deepest.bank == whole.bank - 2 * head
    assert second.bank == alone.bank - head
    assert second.macs.total == alone.macs.total
    assert deepest.macs.total == whole.macs.total


def test_seeds_are_one_group_and_the_last_of_equal_runs_counts():
    from compare_groups import groups_of

    rows = [row(dice=0.8), row(dice=0.9, seed=1), row(dice=0.84), row(dice=0.5, domain="heart")]
    liver, heart = groups_of(rows)
    assert (str(liver.dice), str(heart.dice)) == ("0.870 ± 0.030", "0.500")
    assert liver.dice.noise == pytest.approx(0.03)
    assert heart.dice.noise == 0.02


def test_universal_beside_independent_networks():
    domains = ("liver", "heart")
    shared = [row(domain=d, domains=domains, dice=0.8, trunk=100, weights=10) for d in domains]
    whole = [
        shared[0].model_copy(update={"outcomes": {**shared[0].outcomes, **shared[1].outcomes}})
    ]

    def alone(dice, weights=10_000):
        options = {"adapter": "independent"}
        return [
            row("reference-independent", d, dice, family="reference", options=options, trunk=0,
                weights=weights) for d in domains
        ]  # fmt: skip

    near, numbers = verdicts("near_independents", *whole, *alone(0.75))[0]
    assert near == "confirmed"
    assert "0.6% of the weights" in numbers  # (100 + 2 × 10) / 20,000
    assert verdicts("near_independents", *whole, *alone(0.9))[0][0] == "contradicted"
    assert verdicts("near_independents", *whole, *alone(0.82))[0][0] == "not decided"
    assert verdicts("near_independents", *whole, *alone(0.75, 1000))[0][0] == "contradicted"
    verdict, numbers = verdicts("near_independents", *whole)[0]
    assert verdict == "not decided"
    assert "--presets reference-independent" in numbers


def test_what_separable_convolutions_cost():
    def macs(**changes):
        found = {"dense": 10, "depthwise": 50, "pointwise": 40, "pairs": 80, "as_dense": 800,
                 "analytic": 0.1}  # fmt: skip
        return {**found, **changes}

    assert verdicts("separable_cost", row(macs=macs()))[0][0] == "confirmed"
    assert verdicts("separable_cost", row(macs=macs(pairs=90)))[0][0] == "contradicted"
    assert verdicts("mostly_pointwise", row(macs=macs()))[0][0] == "contradicted"
    assert verdicts("mostly_pointwise", row(macs=macs(pointwise=70)))[0][0] == "confirmed"
    dense = macs(dense=1000, depthwise=0, pointwise=0, pairs=0, as_dense=0, analytic=None)
    plain = row("unet", family="unet", macs=dense, step_s=2.0)
    separable = {"family": "unet", "options": {"block": "separable"}, "macs": macs()}
    verdict, numbers = verdicts("separable_time", plain, row("unet:s", step_s=1.0, **separable))[0]
    assert verdict == "contradicted"
    assert "10.0 times fewer multiply-adds, a step 2.0 times faster" in numbers
    quick = row("unet:s", step_s=0.2, **separable)
    assert verdicts("separable_time", plain, quick)[0][0] == "confirmed"


def test_levels_of_one_network():
    def level(n, dice, **changes):
        return row("unetpp", dice=dice, family="unetpp", level=n, trunk=0, **changes)

    deep = level(None, 0.9, weights=1800, volume_s=3.0)
    near = level(2, 0.92, weights=100, volume_s=1.0)
    assert verdicts("pruned", deep, near)[0][0] == "confirmed"
    assert (
        verdicts("pruned", deep, level(2, 0.8, weights=100, volume_s=1.0))[0][0] == "contradicted"
    )
    assert (
        verdicts("pruned", deep, level(2, 0.92, weights=900, volume_s=1.0))[0][0] == "contradicted"
    )
    hard = level(None, 0.7, weights=1800, volume_s=3.0)
    assert verdicts("pruned", hard, level(2, 0.7))[0][0] == "not decided"
    shallow = level(1, 0.6, terciles=(0.88, 0.7, 0.3))
    assert verdicts("depth_and_size", deep, shallow)[0][0] == "confirmed"
    other = level(1, 0.6, terciles=(0.3, 0.7, 0.98))
    assert verdicts("depth_and_size", deep, other)[0][0] == "contradicted"


def test_few_images_and_skips():
    bent = {"training": {"elastic": True}, "cases": 3}
    rows = [row(dice=0.8), row(dice=0.7, cases=3)]
    assert verdicts("few_images", *rows, row(dice=0.85, **bent))[0][0] == "confirmed"
    assert verdicts("few_images", *rows, row(dice=0.75, **bent))[0][0] == "contradicted"
    assert verdicts("few_images", *rows, row(dice=0.71, **bent))[0][0] == "contradicted"
    scales = ((8, 0.8), (32, 0.7))
    fcn = [row(f"{n}s", dice=d, family="fcn", options={"stride_out": n}) for n, d in scales]
    assert verdicts("long_skips", *fcn)[0][0] == "confirmed"
    sums = [row(dice=0.8), row("base:residual=false", dice=0.79, design={"residual": False})]
    assert verdicts("short_skips", *sums)[0][0] == "not decided"


def test_a_claim_without_rows_says_which_command_would_make_them():
    from compare_claims import CLAIMS

    for claim in CLAIMS:
        (found,) = claim([])
        assert found.verdict == "not decided"
        assert re.search(r"`scripts/compare .*--presets \w+", found.numbers)


def test_the_report_is_of_the_rows_alone_and_all_its_pictures_are_there(tmp_path):
    from compare_report import write_report

    families, seeds = {"base": "universal", "unet": "unet"}, (0, 1)
    rows = [
        row(preset, domain, 0.8 + n / 100, n, family=family)
        for preset, family in families.items() for domain in ("a", "b") for n in seeds
    ]  # fmt: skip
    rows += [
        row("unet", "a", 0.7, family="unet", cases=3),
        row("unet", "a", 0.6, family="unet", budget={"kind": "time", "amount": 900, "threads": 2}),
        row("unetpp", "a", 0.7, family="unetpp", level=2, curve=((1, 0.1), (2, 0.7))),
    ]
    place = tmp_path / "docs" / "comparison.md"
    write_report(place, rows)
    text = place.read_text()
    assert "| base | 0.805 ± 0.005 | 0.705 | 0.805 | 0.905 | 2 | last |" in text
    assert "### a, 3 patients to learn from" in text
    assert "## Other runs, 15 min by the clock on 2 threads a domain" in text
    assert "unetpp cut to L2" in text
    shown = re.findall(r"\]\((pictures/.*?\.png)\)", text)
    assert len(shown) == 5
    first = {name: (place.parent / name).read_bytes() for name in shown}
    write_report(place, rows)
    assert (place.read_text(), {n: (place.parent / n).read_bytes() for n in shown}) == (text, first)


def test_cost_is_drawn_beside_dice_on_domains_that_all_networks_learnt():
    from compare_groups import groups_of
    from compare_pictures import shared_domains

    rows = [row("base", "liver"), row("base", "heart"), row("unet", "liver", family="unet")]
    assert shared_domains(groups_of(rows)) == ["liver"]
    assert shared_domains(groups_of([*rows, row("unet", "heart", family="unet")])) == [
        "liver",
        "heart",
    ]
    fcn, unetpp = (row(name, "lung", family=name) for name in ("fcn", "unetpp"))
    assert shared_domains(groups_of([rows[0], fcn, unetpp])) == ["lung"]


def test_a_report_of_no_rows_says_so(tmp_path):
    import compare_families

    place = tmp_path / "comparison.md"
    words = ["--report", place, "--rows", tmp_path / "none.jsonl"]
    assert compare_families.main([str(word) for word in words]) == 0
    assert "There are no rows yet" in place.read_text()


def test_rows_come_back_as_they_were_written(tmp_path):
    from compare_rows import append_rows, read_rows

    rows = [row(), row(level=2, macs={"dense": 1, "depthwise": 2, "pointwise": 3})]
    append_rows(tmp_path / "new" / "rows.jsonl", rows)
    assert read_rows(tmp_path / "new" / "rows.jsonl") == rows
    assert (
        json.loads((tmp_path / "new" / "rows.jsonl").read_text().splitlines()[0])["level"] is None
    )
