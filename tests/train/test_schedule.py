"""Warm-up, decay, the budget and the validations, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from u2net3d.spec import TrainSpec
from u2net3d.train.schedule import (
    Progress,
    class_balance,
    learning_rate,
    may_validate,
    share_done,
    validations_passed,
)


def due_steps(steps, validations):
    """After which steps a validation is due."""
    spec = TrainSpec(steps=steps, validations=validations)
    done, due = 0, []
    for step in range(1, steps + 1):
        passed = validations_passed(spec, share_done(spec, Progress(step, 0.0)))
        if passed > done:
            due.append(step)
        done = passed
    return due


def test_the_rate_warms_up_in_equal_steps():
    spec = TrainSpec(learning_rate=0.4, warmup_steps=4)
    rates = [learning_rate(spec, step, 0.0) for step in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert learning_rate(TrainSpec(learning_rate=0.4, warmup_steps=0), 0, 0.0) == 0.4


def test_the_rate_decays_with_the_share_of_the_budget():
    spec = TrainSpec(learning_rate=2.0, warmup_steps=0, decay_power=0.9)
    # 0.5 ** 0.9 = 0.535887, 0.1 ** 0.9 = 0.125893
    rates = [learning_rate(spec, 100, share) for share in (0.0, 0.5, 0.9, 1.0, 1.2)]
    assert rates == pytest.approx([2.0, 1.071773, 0.251785, 0.0, 0.0], abs=1e-6)


def test_warm_up_and_decay_multiply():
    spec = TrainSpec(learning_rate=1.0, warmup_steps=4, decay_power=1)
    assert learning_rate(spec, step=1, share=0.25) == pytest.approx(0.5 * 0.75)


def test_classes_weigh_the_same_at_first_and_by_size_from_the_middle_on():
    shares = (0.0, 0.125, 0.25, 0.5, 0.9, 1.0)
    assert [class_balance(TrainSpec(), share) for share in shares] == [1, 0.75, 0.5, 0, 0, 0]


def test_without_a_balanced_part_voxels_always_weigh_the_same():
    spec = TrainSpec(balanced_share=0)
    assert [class_balance(spec, share) for share in (0.0, 0.5, 1.0)] == [0, 0, 0]


def test_by_steps_the_share_is_the_steps_done():
    spec = TrainSpec(steps=8)
    shares = [share_done(spec, Progress(step, elapsed_s=1e6)) for step in (0, 2, 8, 9)]
    assert shares == [0, 0.25, 1, 1]


def test_by_the_clock_one_validation_is_reserved_for_the_end():
    spec = TrainSpec(steps=1, time_s=100.0)
    assert share_done(spec, Progress(7, 40.0)) == pytest.approx(0.4)
    assert share_done(spec, Progress(7, 40.0, validation_s=20.0)) == pytest.approx(0.5)
    assert share_done(spec, Progress(7, 80.0, validation_s=20.0)) == 1


def test_a_long_validation_takes_at_most_half_of_the_time():
    spec = TrainSpec(time_s=10.0)
    assert share_done(spec, Progress(1, 1.0, validation_s=30.0)) == pytest.approx(0.2)
    assert share_done(spec, Progress(1, 5.0, validation_s=30.0)) == 1


def test_by_the_clock_training_gets_five_times_what_the_last_validation_took():
    spec = TrainSpec(time_s=1000.0)
    assert may_validate(spec, Progress(1, 100.0))  # none so far
    early = Progress(9, 199.0, validated_at_s=100.0, validation_s=20.0)
    assert not may_validate(spec, early)
    assert may_validate(spec, replace(early, elapsed_s=200.0))
    assert may_validate(spec, replace(early, elapsed_s=1000.0, validated_at_s=990.0))  # the last
    assert may_validate(TrainSpec(steps=1000), early)  # a budget in steps knows no clock


def test_validations_are_spread_evenly_and_the_last_is_after_the_last_step():
    assert due_steps(steps=12, validations=3) == [4, 8, 12]
    assert due_steps(steps=10, validations=4) == [3, 5, 8, 10]  # 2.5 and 7.5 rounded up
    assert due_steps(steps=7, validations=1) == [7]


def test_with_fewer_steps_than_validations_every_step_is_validated_once():
    assert due_steps(steps=3, validations=10) == [1, 2, 3]


@pytest.mark.parametrize("validations", [1, 3, 7, 10])
def test_rounding_never_loses_a_validation(validations):
    for steps in range(validations, 120):
        due = due_steps(steps, validations)
        assert len(due) == validations
        assert due[-1] == steps
