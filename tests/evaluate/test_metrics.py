"""Scores with answers worked out by hand, and against monai's on random blobs."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from u2net3d.errors import DataError
from u2net3d.evaluate.metrics import DEFINITIONS, dice, scores

LABELS = ("background", "organ")


def cube(start, stop, shape=(8, 8, 8), value=1):
    array = np.zeros(shape, dtype=np.uint8)
    array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    return array


def only(prediction, reference, spacing_mm=(1.0, 1.0, 1.0), tolerance_mm=1.0):
    (score,) = scores(prediction, reference, spacing_mm, LABELS, tolerance_mm=tolerance_mm)
    return score


def test_two_cubes_shifted_by_one_voxel_at_2_mm_have_the_scores_worked_out_by_hand():
    # Two 3x3x3 cubes, the second one voxel further along W: 18 of 27 voxels in common. Each has
    # 26 surface voxels: per layer along W a full face of 9, a ring of 8, a face of 9. In either
    # direction 0 mm: the ring of 8, which lies in the other's face, and 8 of the shared face, which
    # lie in the other's ring. 2 mm: the far face of 9 and the centre of the shared face.
    reference, prediction = cube((2, 2, 2), (5, 5, 5)), cube((2, 2, 3), (5, 5, 6))
    score = only(prediction, reference, (2.0, 2.0, 2.0), tolerance_mm=1.0)
    assert score.dice == pytest.approx(2 * 18 / 54)
    assert score.iou == pytest.approx(18 / 36)
    assert score.hd95_mm == 2.0
    assert score.nsd == pytest.approx(16 / 26)
    assert (score.predicted_voxels, score.reference_voxels) == (27, 27)
    assert score.reference_ml == pytest.approx(27 * 8 / 1000)
    assert only(prediction, reference, (2.0, 2.0, 2.0), tolerance_mm=2.0).nsd == 1.0


def test_distances_follow_the_spacing_of_their_own_axis():
    a, b = cube((0, 4, 4), (1, 5, 5)), cube((2, 4, 4), (3, 5, 5))
    assert only(a, b, (5.0, 1.0, 1.0)).hd95_mm == 10.0
    assert only(a.T, b.T, (5.0, 1.0, 1.0)).hd95_mm == 2.0


def test_hd95_is_the_larger_of_the_two_directions_not_the_percentile_of_both_pooled():
    # Reference: one voxel. Prediction: that voxel and one 10 mm away. From the reference every
    # distance is 0; from the prediction they are 0 and 10, whose 95th percentile is 9.5.
    reference = cube((0, 0, 0), (1, 1, 1), (1, 1, 12))
    prediction = reference + cube((0, 0, 10), (1, 1, 11), (1, 1, 12))
    assert only(prediction, reference).hd95_mm == pytest.approx(9.5)
    assert only(reference, prediction).hd95_mm == pytest.approx(9.5)


def test_a_perfect_prediction_scores_one_everywhere_even_at_the_border_of_the_volume():
    whole = np.ones((3, 4, 5), dtype=np.int16)
    score = only(whole, whole, tolerance_mm=0.0)
    assert (score.dice, score.iou, score.hd95_mm, score.nsd) == (1.0, 1.0, 0.0, 1.0)
    assert score.outcome == "found"


def test_a_label_absent_from_both_is_not_scored():
    nothing = np.zeros((3, 3, 3), dtype=np.uint8)
    score = only(nothing, nothing)
    assert score.outcome == "absent"
    assert all(math.isnan(x) for x in (score.dice, score.iou, score.hd95_mm, score.nsd))


def test_a_missed_label_and_a_false_alarm_get_the_worst_scores_and_the_diagonal():
    something = cube((1, 0, 0), (2, 1, 1), (3, 4, 12))
    nothing = np.zeros_like(something)
    missed, alarm = only(nothing, something), only(something, nothing)
    assert (missed.outcome, alarm.outcome) == ("missed", "false alarm")
    for score in (missed, alarm):
        assert (score.dice, score.iou, score.nsd) == (0.0, 0.0, 0.0)
        assert score.hd95_mm == 13.0  # 3, 4 and 12 mm
    assert set(DEFINITIONS) >= {"missed", "false alarm", "absent", "hd95_mm", "nsd"}


@pytest.mark.parametrize("ignore", [-1, 2, 255])
def test_voxels_of_the_ignore_label_are_taken_out_of_both(ignore):
    reference = cube((0, 0, 0), (2, 2, 2), (4, 4, 4)).astype(np.int16)
    prediction = reference.copy()
    reference[3], prediction[3] = ignore, 1  # wrong, but where nobody judged
    (score,) = scores(
        prediction, reference, (1.0, 1.0, 1.0), LABELS, tolerance_mm=0.0, ignore=ignore
    )
    assert (score.dice, score.hd95_mm, score.nsd) == (1.0, 0.0, 1.0)
    assert score.predicted_voxels == 8
    assert dice(prediction, reference, 2, ignore).tolist() == [1.0]


def test_quick_dice_has_one_value_per_label_and_nan_for_the_absent():
    reference = np.array([[[1, 1, 2, 2]]])
    prediction = np.array([[[1, 2, 2, 0]]])
    found = dice(prediction, reference, 4)
    assert found.shape == (3,)
    assert found[:2] == pytest.approx([2 / 3, 1 / 2])
    assert math.isnan(found[2])


def test_quick_dice_and_full_scores_agree():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 5, (2, 6, 7, 8), dtype=np.uint8)
    full = scores(a, b, (1.0, 1.0, 1.0), [str(n) for n in range(5)], tolerance_mm=1.0)
    assert dice(a, b, 5).tolist() == [score.dice for score in full]


def test_a_value_without_a_name_and_a_differing_shape_are_refused():
    label = np.zeros((2, 2, 2), dtype=np.int16)
    with pytest.raises(DataError, match="value 3"):
        dice(label + 3, label, 3)
    with pytest.raises(DataError, match="value -1"):
        dice(label, label - 1, 3)
    with pytest.raises(DataError, match=r"\(2, 2, 2\).*\(2, 2, 1\)"):
        only(label, label[..., :1])


@pytest.mark.parametrize("seed", range(6))
def test_hd95_and_surface_dice_equal_monais_on_random_blobs(seed):
    from scipy.ndimage import gaussian_filter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what monai and its imports say is theirs
        import torch
        from monai.metrics import compute_hausdorff_distance, compute_surface_dice

        rng = np.random.default_rng(seed)
        spacing_mm = tuple(float(x) for x in rng.uniform(0.5, 5, 3))
        noise = rng.standard_normal((2, 20, 24, 17))
        noise[1] += 0.7 * noise[0]  # so that the two overlap as a prediction does
        masks = [gaussian_filter(x, 1.5) > 0.08 for x in noise]
        p, r = (torch.from_numpy(m)[None, None].float() for m in masks)
        hd95_mm = compute_hausdorff_distance(
            p, r, include_background=True, percentile=95, spacing=spacing_mm
        ).item()
        nsd = compute_surface_dice(
            p, r, [2.0], include_background=True, spacing=spacing_mm, use_subvoxels=False
        ).item()
    score = only(*(m.astype(np.uint8) for m in masks), spacing_mm, tolerance_mm=2.0)
    assert score.hd95_mm == pytest.approx(hd95_mm, rel=1e-5)
    assert score.nsd == pytest.approx(nsd, rel=1e-5)
