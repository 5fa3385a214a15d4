"""Which reflections keep the labels of a domain true, read off their names and places.

A body reflected along any one axis has its left and right exchanged. Labels that speak of left
and right of mirror-symmetric organs therefore allow one reflection, with the labels swapped;
labels of one organ's ends (anterior, posterior) forbid the axis between those ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from u2net3d.prep.fingerprint import Fingerprint, LabelFacts
from u2net3d.spec import Mirroring
from u2net3d.volume import Array

SIDES = (("left", "right"), ("l", "r"), ("lt", "rt"))
ENDS = (("anterior", "posterior"), ("superior", "inferior"))

HEART = {"ventricle", "ventricles", "ventricular", "atrium", "atria", "atrial", "coronary", "cusp"}
APART = 0.1  # share of the volume
LENGTHWISE = {0: "from head to foot", 1: "from front to back"}

Pair = tuple[LabelFacts, LabelFacts]


def mirroring(fingerprint: Fingerprint) -> Mirroring:
    """The reflections allowed for augmentation and for averaging predictions.

    Left and right: only the axis along which the two lie furthest apart in the training cases
    (volumes may be stored with a wrong orientation), with their values swapped; no axis at all
    when a side's partner or its place is not known. Chambers of the heart are no mirror images of
    each other: no swap, and they forbid nothing. Anterior and posterior, superior and inferior: not
    the axis on which they lie furthest apart. Otherwise all three axes.
    """
    ends = {_axis([pair]) for pair in _pairs(fingerprint.labels, ENDS)}
    axes = {0, 1, 2} - ends
    sided = [label for label in fingerprint.labels if _is_side(label)]
    if not sided:
        return Mirroring(axes=tuple(sorted(axes)))
    pairs = _pairs(sided, SIDES)
    axis = _axis(pairs)
    if 2 * len(pairs) < len(sided) or axis not in axes:
        return Mirroring(axes=())
    values = (sorted((first.value, second.value)) for first, second in pairs)
    swap = tuple((low, high) for low, high in values)
    return Mirroring(axes=(axis,), swap_axis=axis, swap=swap)


def misplaced(fingerprint: Fingerprint) -> str | None:
    """What labels of the left and the right say against the headers; None where they agree.

    In canonical order W grows to the right, so right kidneys lie at higher W than left ones. Where
    they lie apart along another axis, or the other way round, the headers name the wrong axes. Only
    cases that hold both count: where each holds one side alone, its view decides where that lies.
    """
    sided = [label for label in fingerprint.labels if _is_side(label)]
    gaps = {pair: _gap(fingerprint, pair) for pair in _pairs(sided, SIDES)}
    apart = {pair: gap for pair, gap in gaps.items() if np.abs(gap).max() >= APART}
    if not apart:
        return None
    mean = np.mean([*apart.values()], axis=0)
    axis = int(np.abs(mean).argmax())
    # of the pairs the one that says so most clearly
    left, right = max(apart, key=lambda pair: float(apart[pair][axis] * np.sign(mean[axis])))
    if axis in LENGTHWISE:
        return f"{left.name} and {right.name} lie apart {LENGTHWISE[axis]} by the headers"
    if mean[axis] < 0:
        return f"{right.name} lies to the left of {left.name} by the headers"
    return None


def _gap(fingerprint: Fingerprint, pair: Pair) -> Array:
    """(D, H, W) from the first of the pair to the second, mean of the cases that hold both."""
    first, second = (label.value - 1 for label in pair)
    places = [(case.centroids[first], case.centroids[second]) for case in fingerprint.cases]
    gaps = [np.subtract(b, a) for a, b in places if a and b]
    return np.mean(gaps, axis=0) if gaps else np.zeros(3)


def _words(label: LabelFacts) -> list[str]:
    """Two of `LeftKidney`, `left_kidney`, `LKidney`, `KIDNEYl`; one of `L5`, a vertebra."""
    found = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z]{2})", label.name)
    return [word.lower() for word in found]


def _is_side(label: LabelFacts) -> bool:
    words = set(_words(label))
    heart = bool(words & HEART) and "lateral" not in words
    return not heart and any(words & set(sides) for sides in SIDES)


def _pairs(labels: Sequence[LabelFacts], opposites: Sequence[tuple[str, str]]) -> list[Pair]:
    """The labels whose names differ in one word only, and there by a pair of opposites."""
    by_words = {tuple(_words(label)): label for label in labels}
    pairs = []
    for words, label in by_words.items():
        for first, second in opposites:
            other = by_words.get(tuple(second if word == first else word for word in words))
            if first in words and other is not None:
                pairs.append((label, other))
    return pairs


def _axis(pairs: Sequence[Pair]) -> int | None:
    """The axis along which the two of each pair lie furthest apart; None where nobody knows."""
    known = [(a.centroid, b.centroid) for a, b in pairs if a.centroid and b.centroid]
    if not known:
        return None
    return int(np.abs(np.diff(np.array(known), axis=1)).sum(axis=(0, 1)).argmax())
