"""How well objects are told apart: the errors of the ISBI 2012 challenge, for one label's mask.

Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
connectomics", Frontiers in Neuroanatomy 2015. Where Dice sees a bridge of one voxel between two
objects as one wrong voxel, these see two objects that became one. All are 0 for a perfect answer.

pixel     the share of the judged voxels that are wrong
rand      1 - F of the adapted Rand index, over pairs of voxels within the reference's objects: F is
          the harmonic mean of precision and recall of "both voxels in one object". A voxel of them
          that was not predicted belongs to no object: it is one of its own
warping   the share of the judged voxels that stay wrong when the reference is bent to fit the
          prediction without a change of its topology (Jain et al., "Boundary learning by
          optimization with topological constraints", CVPR 2010): borders may shift, but what
          splits, merges, vanishes, opens or closes costs one voxel at least, and what appears
          from nothing all of its own

Objects hang together by faces in `rand`. The warping is greedy (`simple.warped`), so its error is
an upper bound, and unlike the challenge it lets borders shift any way.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
from numpy.typing import NDArray

from u2net3d.evaluate.simple import warped
from u2net3d.prep.instances import instances
from u2net3d.volume import Array

Mask = NDArray[np.bool_]

METRICS = ("pixel", "rand", "warping")
THRESHOLDS = tuple(n / 10 for n in range(1, 10))
DEFINITIONS = {
    "pixel_error": "share of the judged voxels that are wrong",
    "rand_error": "1 - F of the adapted Rand index: pairs of voxels within the reference's objects"
    " (components by faces) that lie in one object; a voxel not predicted is an object of its own",
    "warping_error": "share of the judged voxels that stay wrong when the reference is bent to the"
    " prediction by simple voxels (26 and 6 neighbours), greedily",
    "threshold": "where probabilities lie beside the prediction the errors are the least over"
    f" thresholds {THRESHOLDS[0]:g} to {THRESHOLDS[-1]:g}, each error for itself",
}


def errors(
    prediction: Array,
    reference: Array,
    classes: int,
    metrics: Sequence[str],
    *,
    ignore: int | None = None,
    shares: Array | None = None,
) -> list[dict[str, float]]:
    """`{"pixel_error": ...}` of the label values 1 .. classes-1, as asked for by `metrics`.

    prediction, reference: (D, H, W) of integers; shares (classes, D, H, W): the probabilities of
    the prediction, of which each error takes its best threshold. ignore: the reference's value of
    voxels that are not judged. NaN where a label is absent from both.
    """
    judged = np.ones(reference.shape, bool) if ignore is None else reference != ignore
    count = max(1, int(judged.sum()))
    found = []
    for value in range(1, classes):
        referenced = (reference == value) & judged
        guesses = [(prediction == value) & judged]
        absent = not (guesses[0].any() or referenced.any())
        if shares is not None:
            guesses = [(shares[value] >= least) & judged for least in THRESHOLDS]
        row = {}
        for name in metrics:
            every = [_error(name, guess, referenced, count) for guess in guesses]
            row[f"{name}_error"] = nan if absent else min(every)
        found.append(row)
    return found


def _error(name: str, predicted: Mask, referenced: Mask, voxels: int) -> float:
    if name == "rand":
        return rand_error(predicted, referenced)
    if name == "warping":
        return warping_error(predicted, referenced, voxels)
    return int((predicted ^ referenced).sum()) / voxels


def rand_error(predicted: Mask, referenced: Mask) -> float:
    """1 - F of the adapted Rand index of two masks (D, H, W), 0 to 1.

    With n_ij the voxels of the reference's object i in the predicted one j, and m of them in none:
    precision (sum n_ij^2 + m) / (sum_j (sum_i n_ij)^2 + m), recall the same over sum_i (voxels of
    i)^2. Without an object in the reference 1 where one is predicted, else 0.
    """
    there = referenced.astype(bool)
    if not there.any():
        return float(predicted.any())
    truth, guess = instances(referenced.astype(np.int16))[0], instances(predicted.astype(np.int16))
    i, j = truth[there].astype(np.int64), guess[0][there].astype(np.int64)
    alone = int((j == 0).sum())
    _, both = np.unique((i * (guess[1] + 1) + j)[j > 0], return_counts=True)
    objects, parts = np.bincount(i).astype(float), np.bincount(j[j > 0]).astype(float)
    agreed = float((both.astype(float) ** 2).sum()) + alone
    precision = agreed / (float((parts**2).sum()) + alone)
    recall = agreed / float((objects**2).sum())
    return 1 - 2 * precision * recall / (precision + recall)


def warping_error(predicted: Mask, referenced: Mask, voxels: int | None = None) -> float:
    """The share of `voxels` (None: of all) that differ from the reference bent to the prediction.

    An upper bound of the least share: which of the voxels goes first is not searched for.
    """
    box = _box(predicted ^ referenced)
    if box is None:
        return 0.0
    bent = warped(referenced[box], predicted[box])
    return int((bent ^ predicted[box]).sum()) / (voxels or predicted.size)


def _box(mask: Mask) -> tuple[slice, ...] | None:
    """The voxels that are there with their neighbours; None where none is."""
    if not mask.any():
        return None
    sides = []
    for axis in range(3):
        there = np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))
        sides.append(slice(max(0, int(there[0]) - 1), int(there[-1]) + 2))
    return tuple(sides)
