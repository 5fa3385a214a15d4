"""Simple voxels: those that can change sides without changing how anything hangs together.

In three dimensions objects hang together by faces, edges and corners (26 neighbours) and what
surrounds them by faces (6). A voxel is simple where one component of the object's voxels among its
26 neighbours touches it, and one component, within the 18 that share a face or an edge with it, of
the surroundings' voxels touches it with a face (Bertrand and Malandain, "A new characterization of
three-dimensional simple points", Pattern Recognition Letters 1994). Turning it over then neither
joins nor parts, opens nor closes anything: no object, no hole, no tunnel.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

AT_ONCE = 2**15  # voxels that are looked at together
_STEPS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]  # to neighbours
_NEAR = [i for i, step in enumerate(_STEPS) if sum(map(abs, step)) < 3]  # no corner in common
_FACES = [i for i, step in enumerate(_STEPS) if sum(map(abs, step)) == 1]


def warped(source: Mask, target: Mask) -> Mask:
    """The mask `source` (D, H, W), voxels turned over where `target` differs and they are simple.

    Until none is left that may: the topology stays that of the source. Which voxel goes first can
    matter; here those of even places do, so the result has as few differences as this order finds,
    not always as few as there could be. Beyond the volume is no object. Voxels whose places differ
    by an even number along each axis are no neighbours: they are turned over together.
    """
    now, goal = np.pad(source, 1), np.pad(target, 1)
    flat, places = now.reshape(-1), np.argwhere(now != goal)
    strides = np.array([now.shape[1] * now.shape[2], now.shape[2], 1])
    around = (np.array(_STEPS) * strides).sum(1)
    index = (places * strides).sum(1)
    kind = (places % 2 * [4, 2, 1]).sum(1)
    groups = [index[kind == k] for k in range(8)]
    moved = True
    while moved:
        moved = False
        for k, some in enumerate(groups):
            can = np.zeros(len(some), bool)
            for first in range(0, len(some), AT_ONCE):
                part = slice(first, first + AT_ONCE)
                can[part] = is_simple(flat[some[part, None] + around])
            flat[some[can]] ^= True
            groups[k] = some[~can]
            moved |= bool(can.any())
    return now[1:-1, 1:-1, 1:-1]


def is_simple(neighbours: Mask) -> Mask:
    """(n, 26) neighbours of n voxels, in the object or not, D slowest -> (n,)."""
    inside, outside = neighbours, ~neighbours[:, _NEAR]
    all_faces = np.isin(_NEAR, _FACES)
    object_is_one = _is_one(inside, np.ones(len(_STEPS), bool), _joined(_STEPS, 3))
    around = _joined([_STEPS[i] for i in _NEAR], 1)
    found: Mask = object_is_one & _is_one(outside, all_faces, around)
    return found


def _is_one(there: Mask, counted: Mask, joined: NDArray[np.float32]) -> Mask:
    """Whether all places that are there and counted hang together, and there is one at all."""
    wanted = there & counted
    reached = np.zeros_like(there)
    some = wanted.any(1)
    reached[np.arange(len(there)), wanted.argmax(1)] = some
    while True:
        further = (reached.astype(np.float32) @ joined > 0) & there
        if np.array_equal(further, reached):
            break
        reached = further
    lost: Mask = np.any(wanted & ~reached, axis=1)
    found: Mask = some & ~lost
    return found


def _joined(steps: list[tuple[int, ...]], most: int) -> NDArray[np.float32]:
    """(n, n): 1 where two places are neighbours whose steps differ in `most` axes, or the same."""
    places = np.array(steps)
    apart = np.abs(places[:, None] - places)
    near: Mask = (apart.max(2) <= 1) & (apart.sum(2) <= most)
    return near.astype(np.float32)
