"""scripts/compare: what is counted and said of rows, by hand."""

from __future__ import annotations

import json
import re
from math import nan

import pytest


def row(preset="base", domain="liver", dice=0.8, seed=0, **changes):
    """A row by hand: changes are of its asked, of its outcome or of itself, by their names."""
    from compare_rows import Asked, LabelOutcome, Outcome, Row

    from u2net3d.spec import ModelSpec

    model = ModelSpec(
        preset=preset, family=changes.pop("family", "universal"),
        options=changes.pop("options", {}), design=changes.pop("design", {}),
    )  # fmt: skip
    asked = {
        "data": "it", "preset": preset, "model": model, "seed": seed,
        "domains": changes.pop("domains", (domain,)),
        "budget": {"kind": "steps", "amount": 2},
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
        "asked": asked, "state": "last", "steps": 1000, "seconds": 1.0, "trunk": 1000,
        "peak_gib": 0.5, "date": "2026-11-21T00:00:00+00:00", "versions": {"torch": "2"},
        "machine": "this one", "outcomes": {domain: outcome},
    }  # fmt: skip
    return Row.model_validate({**said, **changes})


def verdict(claim, *rows):
    """(verdict, numbers) of what a function of compare_claims says of the rows."""
    import compare_claims
    from compare_groups import groups_of

    found = getattr(compare_claims, claim)(groups_of(rows))
    return found.verdict, found.numbers


def test_a_line_in_the_middle_that_is_no_row_is_named(tmp_path):
    from compare_rows import append_rows, read_rows

    from u2net3d.errors import DataError

    path = tmp_path / "rows.jsonl"
    path.write_text('{"asked": 1}\n')
    append_rows(path, [row()])
    with pytest.raises(DataError, match="line 1 is no row"):
        read_rows(path)


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

    near, numbers = verdict("near_independents", *whole, *alone(0.75))
    assert near == "confirmed"
    assert "0.6% of the weights" in numbers  # (100 + 2 × 10) / 20,000
    assert verdict("near_independents", *whole, *alone(0.9))[0] == "contradicted"
    assert verdict("near_independents", *whole, *alone(0.82))[0] == "not decided"
    assert verdict("near_independents", *whole, *alone(0.75, 1000))[0] == "in part"
    near, numbers = verdict("near_independents", *whole)
    assert near == "not decided"
    assert "--presets reference-independent" in numbers


def test_what_separable_convolutions_cost():
    def macs(**changes):
        found = {"dense": 10, "depthwise": 50, "pointwise": 40, "pairs": 80, "as_dense": 800,
                 "analytic": 0.1}  # fmt: skip
        return {**found, **changes}

    assert verdict("separable_cost", row(macs=macs()))[0] == "checked"
    assert verdict("separable_cost", row(macs=macs(pairs=90)))[0] == "contradicted"
    assert verdict("mostly_pointwise", row(macs=macs()))[0] == "contradicted"
    nearly = row("other", macs=macs(pointwise=1400), training={"optimiser": "adamw"})
    assert verdict("mostly_pointwise", nearly)[0] == "confirmed"
    assert verdict("mostly_pointwise", row(macs=macs()), nearly)[0] == "in part"
    dense = macs(dense=1000, depthwise=0, pointwise=0, pairs=0, as_dense=0, analytic=None)
    plain = row("unet", family="unet", macs=dense, step_s=2.0)
    separable = {"family": "unet", "options": {"block": "separable"}, "macs": macs()}
    said, numbers = verdict("separable_time", plain, row("unet:s", step_s=1.0, **separable))
    assert said == "contradicted"
    assert "10.0 times fewer multiply-adds; a training step is 2.0 times faster" in numbers
    quick = {**separable, "step_s": 0.2}
    assert verdict("separable_time", plain, row("unet:s", **quick))[0] == "in part"
    assert verdict("separable_time", plain, row("unet:s", volume_s=0.2, **quick))[0] == "confirmed"


def test_levels_of_one_network():
    def level(n, dice, **changes):
        return row("unetpp", dice=dice, family="unetpp", level=n, trunk=0, **changes)

    deep = level(None, 0.9, weights=1800, volume_s=3.0)
    near = level(2, 0.92, weights=100, volume_s=1.0)
    assert verdict("pruned", deep, near)[0] == "confirmed"
    assert verdict("pruned", deep, level(2, 0.8, weights=100, volume_s=1.0))[0] == "contradicted"
    assert verdict("pruned", deep, level(2, 0.92, weights=900, volume_s=1.0))[0] == "in part"
    hard = level(None, 0.7, weights=1800, volume_s=3.0)
    assert verdict("pruned", hard, level(2, 0.7))[0] == "not decided"
    shallow = level(1, 0.6, terciles=(0.88, 0.7, 0.3))
    assert verdict("depth_and_size", deep, shallow)[0] == "confirmed"
    other = level(1, 0.6, terciles=(0.3, 0.7, 0.98))
    assert verdict("depth_and_size", deep, other)[0] == "contradicted"


def test_few_images_and_skips():
    bent = {"training": {"elastic": True}, "cases": 3}
    rows = [row(dice=0.8), row(dice=0.7, cases=3)]
    assert verdict("few_images", *rows, row(dice=0.85, **bent))[0] == "confirmed"
    assert verdict("few_images", *rows, row(dice=0.75, **bent))[0] == "contradicted"
    assert verdict("few_images", *rows, row(dice=0.71, **bent))[0] == "contradicted"
    scales = ((8, 0.8), (32, 0.7))
    fcn = [row(f"{n}s", dice=d, family="fcn", options={"stride_out": n}) for n, d in scales]
    assert verdict("long_skips", *fcn)[0] == "confirmed"
    sums = [row(dice=0.8), row("base:residual=false", dice=0.79, design={"residual": False})]
    assert verdict("short_skips", *sums)[0] == "not decided"


def test_depth_is_judged_by_size_where_sizes_differ_and_by_more_than_twice_the_noise():
    def level(n, thirds, **changes):
        return row("unetpp", family="unetpp", level=n, terciles=thirds, **changes)

    deep = level(None, (0.8, 0.8, 0.8))
    assert verdict("depth_and_size", deep, level(1, (0.75, 0.7, 0.7)))[0] == "confirmed"
    assert verdict("depth_and_size", deep, level(1, (0.73, 0.7, 0.7)))[0] == "not decided"
    label = {"dice": 0.8, "terciles": (0.8, 0.8, 0.8), "voxels": (60, 80, 99)}
    alike = level(None, (0.8, 0.8, 0.8), labels={"it": label})
    assert "no rows" in verdict("depth_and_size", alike, level(1, (0.75, 0.7, 0.7)))[1]


def test_a_lead_that_is_gone_without_the_optimiser_is_the_optimisers():
    dense = [row("unet", dice=0.7, family="unet"), row("fcn8s", dice=0.75, family="fcn")]

    def of(dice):
        plain = row(training={"optimiser": "adamw"}, dice=dice)
        return verdict("lead_of_optimiser", row(dice=0.85), plain, *dense)

    assert [of(dice)[0] for dice in (0.75, 0.84)] == ["confirmed", "contradicted"]
    assert "(base, fcn8s)" in of(0.75)[1]
    level = row(dice=0.75), row(training={"optimiser": "adamw"}, dice=0.75)
    assert verdict("lead_of_optimiser", *level, *dense)[0] == "not decided"


def test_what_was_hardly_trained_is_no_evidence_but_is_told():
    from compare_claims import all_claims
    from compare_groups import groups_of

    fcn = {"family": "fcn"}
    fine, coarse = (row(f"{n}s", options={"stride_out": n}, **fcn) for n in (8, 32))
    for changes in ({"steps": 99}, {"dice": 0.29}, {"dice": 0.1, "steps": 99}):
        weak = row("32s", options={"stride_out": 32}, **{"dice": 0.5, **changes}, **fcn)
        (claim,) = [c for c in all_claims(groups_of([fine, weak])) if c.title[:10] == "Long skips"]
        assert (claim.verdict, claim.basis) == ("not decided", "1 domain, 1 seed")
        assert claim.numbers.startswith("one side was hardly trained: liver 0.800")
    together = row(domains=("liver", "heart"), steps=199)
    assert [group.hardly for group in groups_of([coarse, together])] == [False, True]


def test_a_step_is_measured_for_long_enough_and_every_level_on_the_same_cases(monkeypatch):
    import compare_judge
    import compare_settle

    from u2net3d.spec import PRESETS, TrainSpec
    from u2net3d.train.run import fresh_net

    spec = cube(2, 8)
    small = PRESETS["base"].model_copy(update={"base_channels": 2, "stages": 2})
    ticks = iter([0.0, 9.0])  # the first step pays for memory: 9 s that do not count

    def clock(_):
        return lambda: next(ticks)

    def cost(step_s):
        nonlocal ticks
        seen = [0.0, 9.0, *(t for n in range(99) for t in (n * step_s, (n + 1) * step_s))]
        ticks = iter(seen)
        found = compare_settle.step_seconds(fresh_net(small, {"a": spec}, 0), spec, TrainSpec())
        return found, (len(seen) - len([*ticks])) // 2 - 1

    monkeypatch.setattr(compare_settle, "clock", clock)
    assert cost(0.5) == (pytest.approx(0.5), 20)  # 10 s
    assert cost(2.0) == (pytest.approx(2.0), 8)
    assert cost(16.0) == (pytest.approx(16.0), 3)  # 40 s are enough
    assert compare_judge.TIMED == 3


def test_a_claim_without_rows_says_which_command_would_make_them():
    from compare_claims import COUNTED, TRAINED

    for claim in (*COUNTED, *TRAINED):
        found = claim([])
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
    assert "| base | 0.805 ± 0.005 | 0.705 | 0.805 | 0.905 | 1,000 | last |" in text
    assert "### a, few cases and elastic deformation" in text
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
