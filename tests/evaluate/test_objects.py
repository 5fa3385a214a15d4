"""Errors of objects: tiny answers by hand, and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from u2net3d.evaluate.objects import errors, rand_error, warping_error
from u2net3d.evaluate.simple import is_simple, warped

ALL, FACES = np.ones((3, 3, 3)), ndimage.generate_binary_structure(3, 1)


def plane(*rows):
    """One slice from rows of dots and hashes."""
    return np.array([[[c == "#" for c in row] for row in rows]])


TWO = plane(
    ".......",
    ".##.##.",
    ".##.##.",
    ".##.##.",
    ".......",
)
BRIDGED = plane(
    ".......",
    ".##.##.",
    ".#####.",
    ".##.##.",
    ".......",
)
SHIFTED = plane(
    ".......",
    ".##.###",
    ".##..##",
    "###.##.",
    ".......",
)


def test_a_perfect_answer_has_no_error():
    assert errors(TWO * 1, TWO * 1, 2, ("pixel", "rand", "warping")) == [
        {"pixel_error": 0, "rand_error": 0, "warping_error": 0}
    ]


def test_a_bridge_is_one_pixel_a_merger_of_pairs_and_one_warp():
    assert rand_error(BRIDGED, TWO) == pytest.approx(1 / 3)  # precision 72/144, recall 1
    assert warping_error(BRIDGED, TWO) == 1 / 35
    assert errors(BRIDGED * 1, TWO * 1, 2, ("pixel",)) == [{"pixel_error": 1 / 35}]


def test_a_gap_through_an_object_is_a_split():
    # of the bridged 13 voxels 6, 6 and one that was not predicted
    precision, recall = 1.0, (36 + 36 + 1) / 169
    expected = 1 - 2 * precision * recall / (precision + recall)
    assert rand_error(TWO, BRIDGED) == pytest.approx(expected)
    assert warping_error(TWO, BRIDGED) == 1 / 35


def test_a_shifted_border_is_no_warp():
    assert errors(SHIFTED * 1, TWO * 1, 2, ("pixel", "warping")) == [
        {"pixel_error": 4 / 35, "warping_error": 0.0}
    ]


def test_a_missed_object_shrinks_to_one_voxel_and_one_too_many_cannot_begin():
    one = TWO & (np.arange(7) < 3)
    assert warping_error(one, TWO) == 1 / 35
    assert warping_error(TWO, one) == 6 / 35


def test_a_cavity_and_a_tunnel_are_changes_of_topology():
    ball = np.zeros((5, 5, 5), bool)
    ball[1:4, 1:4, 1:4] = True
    cavity, tunnel = ball.copy(), ball.copy()
    cavity[2, 2, 2] = False
    tunnel[1:4, 2, 2] = False
    dent = ball.copy()
    dent[1:3, 2, 2] = False
    assert warping_error(cavity, ball) == 1 / 125
    assert warping_error(tunnel, ball) == 1 / 125  # two of the three may go
    assert warping_error(dent, ball) == 0


def test_simple_is_what_counting_components_says():
    rng = np.random.default_rng(0)
    blocks = np.stack([rng.random((3, 3, 3)) < p for p in np.linspace(0.05, 0.95, 1500)])
    middle = (1, 1, 1)
    near = np.abs(np.indices((3, 3, 3)) - 1).sum(0) < 3
    face = np.abs(np.indices((3, 3, 3)) - 1).sum(0) == 1
    expected = []
    for block in blocks:
        inside, outside = block.copy(), ~block & near
        inside[middle] = outside[middle] = False
        parts = ndimage.label(outside, FACES)[0]
        touching = set(parts[face & outside].tolist())
        expected.append(ndimage.label(inside, ALL)[1] == 1 and len(touching) == 1)
    neighbours = np.delete(blocks.reshape(-1, 27), 13, axis=1)
    assert is_simple(neighbours).tolist() == expected
    assert 100 < sum(expected) < 1400


def topology(mask):
    outside = np.pad(~mask, 1, constant_values=True)
    return ndimage.label(mask, ALL)[1], ndimage.label(outside, FACES)[1]


@pytest.mark.parametrize("seed", range(6))
def test_bending_keeps_every_object_and_hole_and_only_comes_nearer(seed):
    rng = np.random.default_rng(seed)
    source, target = (
        ndimage.gaussian_filter(rng.standard_normal((14, 15, 16)), 1.5) > 0.02 for _ in range(2)
    )
    bent = warped(source, target)
    assert topology(bent) == topology(source)
    assert ((bent != source) <= (source != target)).all()
    assert (bent != target).sum() < 0.6 * (source != target).sum()


def least(source, target):
    """Fewest differences over every order of turning over simple voxels."""
    start = tuple(map(tuple, np.argwhere(source != target).tolist()))
    seen, todo, best = {frozenset()}, [frozenset()], len(start)
    while todo:
        turned = todo.pop()
        best = min(best, len(start) - len(turned))
        now = np.pad(source, 1)
        for d, h, w in turned:
            now[d + 1, h + 1, w + 1] ^= True
        for d, h, w in set(start) - turned:
            block = np.delete(now[d : d + 3, h : h + 3, w : w + 3].reshape(-1), 13)
            further = turned | {(d, h, w)}
            if further not in seen and is_simple(block[None])[0]:
                seen.add(further)
                todo.append(further)
    return best


def test_the_greedy_warp_is_hardly_worse_than_the_best_of_all_orders():
    rng = np.random.default_rng(1)
    worse = []
    for _ in range(12):
        source = rng.random((3, 3, 3)) < 0.5
        target = source.copy()
        for d, h, w in rng.integers(0, 3, (7, 3)).tolist():
            target[d, h, w] ^= True
        worse.append(int((warped(source, target) != target).sum()) - least(source, target))
    assert min(worse) == 0
    assert np.mean(worse) < 0.2


@pytest.mark.parametrize("seed", range(4))
def test_the_rand_error_is_that_of_all_pairs_of_voxels(seed):
    rng = np.random.default_rng(seed)
    truth, guess = (rng.random((4, 5, 5)) < 0.35 for _ in range(2))
    own = ndimage.label(guess)[0][truth].tolist()
    real = ndimage.label(truth)[0][truth].tolist()
    own = [(value, None) if value else (0, n) for n, value in enumerate(own)]
    pairs = list(itertools.product(range(len(real)), repeat=2))
    same_guess = {pair for pair in pairs if own[pair[0]] == own[pair[1]]}
    same_truth = {pair for pair in pairs if real[pair[0]] == real[pair[1]]}
    both = len(same_guess & same_truth)
    f = 2 * both / (len(same_guess) + len(same_truth))  # the harmonic mean of both shares
    assert rand_error(guess, truth) == pytest.approx(1 - f)


def test_without_an_object_in_the_reference():
    nothing = np.zeros_like(TWO)
    assert rand_error(TWO, nothing) == 1
    assert rand_error(nothing, nothing) == 0
    (row,) = errors(nothing * 1, nothing * 1, 2, ("pixel", "rand", "warping"))
    assert all(math.isnan(value) for value in row.values())


def test_ignored_voxels_are_not_judged():
    reference = TWO * 1
    reference[0, 2, 3] = 9  # the bridge
    assert errors(BRIDGED * 1, reference, 2, ("pixel", "rand", "warping"), ignore=9) == [
        {"pixel_error": 0, "rand_error": 0, "warping_error": 0}
    ]


def test_probabilities_give_the_best_of_all_thresholds():
    sure, unsure = 0.8 * TWO, 0.55 * (BRIDGED & ~TWO)
    shares = np.stack([1 - sure - unsure, sure + unsure])
    (row,) = errors(BRIDGED * 1, TWO * 1, 2, ("pixel", "rand", "warping"), shares=shares)
    assert set(row.values()) == {0}  # at 0.6 the bridge is gone
