"""Strays are removed only where the validation says that it helps, and nowhere else."""

from __future__ import annotations

import numpy as np

from u2net3d.train.cleanup import decide_cleanup, helpful_cleanup

LABELS = ("background", "liver", "tumour")


def case(*, liver_stray=0, tumours=0, found=0, both=(0,)):
    """Prediction and reference: 100 voxels of liver found, some strays, and single-voxel tumours.

    liver_stray: voxels of a liver that is none, far away; tumours: how many there are, of which
    `found` are found.
    """
    reference = np.zeros((3, 20, 40), np.uint8)
    reference[1, 5:15, 5:15] = 1
    prediction = reference.copy()
    prediction[1, 1, 30 : 30 + liver_stray] = 1
    reference[2, 0, : 3 * tumours : 3] = 2
    prediction[2, 0, : 3 * found : 3] = 2
    return prediction, reference


def test_a_label_with_strays_is_cleaned_and_the_others_are_not():
    # Dice of liver 200 / 205 = 0.976 with the strays, 1 without; tumours are scattered rightly.
    cases = [case(liver_stray=5, tumours=3, found=3) for _ in range(3)]
    assert decide_cleanup(cases, LABELS) == ["liver"]


def test_a_gain_that_is_too_small_decides_nothing():
    # 200 / 201: a gain of 0.005 in one case of three is 0.0017 in the mean.
    cases = [case(liver_stray=1), case(), case()]
    assert decide_cleanup(cases, LABELS) == []
    cases[1] = case(liver_stray=1)  # 0.0033
    assert decide_cleanup(cases, LABELS) == ["liver"]


def test_one_case_that_loses_is_enough_to_leave_a_label_alone():
    gaining = [case(liver_stray=9) for _ in range(5)]
    prediction, reference = case()
    prediction[1, 9] = 0  # the liver is found in two halves, of which one would go
    assert decide_cleanup([*gaining, (prediction, reference)], LABELS) == []


def test_few_cases_or_none_decide_nothing():
    cases = [case(liver_stray=9) for _ in range(2)]
    assert decide_cleanup(cases, LABELS) == []
    assert decide_cleanup([], LABELS) == []
    # cases without the label on either side do not count
    nothing = np.zeros((3, 20, 40), np.uint8)
    assert decide_cleanup([*cases, (nothing, nothing)], LABELS) == []


def test_voxels_that_nobody_judged_do_not_decide():
    cases = [case(liver_stray=9) for _ in range(3)]
    for _, reference in cases:
        reference[1, 1, 30:] = 3
    assert decide_cleanup(cases, LABELS, ignore=3) == []
    assert decide_cleanup(cases[:3], (*LABELS, "ignored")) == ["liver"]


def test_a_trained_network_is_asked_about_its_validation_cases(make_run, monkeypatch):
    net, run = make_run(validation=("one", "two", "three"))
    asked = []

    def predicted(_net, spec, _dataset, case_, _device):
        asked.append((spec.name, case_))
        return (None, *case(liver_stray=5))

    monkeypatch.setattr("u2net3d.train.cleanup.predicted", predicted)
    assert helpful_cleanup(net, run.learners[0], run.device) == ["ball"]
    assert asked == [("liver", name) for name in ("one", "two", "three")]
