"""scripts/few-shot: what is said of rows, by hand."""

from __future__ import annotations

import re

import pytest

from u2net3d.errors import UsageError


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
    assert "ahead in 2 of 2 that ran, level in 0; 2 domains" in numbers
    assert "heart 5: 0.600 beside 0.500 (+0.100)" in numbers
    behind = [row(domain="spleen", dice=0.5), row("scratch", "spleen", dice=0.6)]
    assert aim(*ahead, *both, *behind)[0] == "contradicted"
    level = [row(domain="spleen", dice=0.61), row("scratch", "spleen", dice=0.6)]
    assert aim(*ahead, *both, *level)[0] == "not decided"
    many = [row(domain="spleen", cases=None, dice=0.5), row("scratch", "spleen", None, 0.9)]
    assert aim(*ahead, *both, *many)[0] == "confirmed"
    assert aim(row())[0] == "not decided"
    verdict, numbers = aim(*ahead, row("scratch", "heart", 5, 0.5))
    assert verdict == "not decided"
    assert "ahead in 1 of 1 that ran, level in 0, 1 more not run; 2 domains" in numbers


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
    behind = [row(domain="heart", dice=0.6), row("nearest", "heart", dice=0.55)]
    assert aims(*rows, *behind)["`nearest` is ahead of `fresh`"][0] == "in part"


def test_starts_are_compared_by_the_seeds_that_both_ran():
    rows = [row("nearest", dice=0.8), row("nearest", dice=0.4, seed=1), row("mean", dice=0.7)]
    verdict, numbers = aims(*rows)["`nearest` is ahead of `mean`"]
    assert verdict == "confirmed"
    assert "liver 1: 0.800 beside 0.700 (+0.100)" in numbers


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


def test_of_two_recipes_of_a_start_the_later_one_is_told():
    from few_shot_report import document

    older = row(dice=0.5, date="2026-11-21T00:00:00+00:00")
    newer = row(dice=0.8, date="2026-11-22T00:00:00+00:00")
    asked = newer.asked.model_copy(update={"training": {"kernel_rate": 4}})
    newer = newer.model_copy(update={"asked": asked})
    beside = row("scratch", dice=0.6)
    for rows in ([older, newer, beside], [newer, older, beside]):
        text = document(rows)
        assert "| 1 | 1 | 0.800 | 0.600 |" in text
        assert "0.800 beside 0.600" in text
        assert "0.500" not in text


def test_rows_of_one_training_on_two_trunks_are_refused():
    from few_shot_rows import require_one_trunk

    require_one_trunk([row(), row(seed=1), row("scratch")])
    require_one_trunk([row(), row(trunk={"seed": 1}, trunk_id="e" * 64)])
    with pytest.raises(UsageError, match="was trained twice: ffffffffffff and eeeeeeeeeeee"):
        require_one_trunk([row(), row(seed=1, trunk_id="e" * 64)])


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
