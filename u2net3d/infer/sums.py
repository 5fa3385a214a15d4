"""Weighted sums of tiles, over a window of slices that moves along D.

Tiles come in order along D. As soon as no later one touches a slice, its mean is final, is given
out and forgotten; so no more slices are kept than a patch has. Every voxel's sum is added in the
order of its tiles, whatever is kept where: the bits are those of sums over the whole volume.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from u2net3d.infer.scratch import Scratch
from u2net3d.ops.tiles import add_tile
from u2net3d.volume import Triple

Floats = NDArray[np.float32]


class Sums:
    """Sums of K classes over a volume of `shape`, of tiles that are weighted by weight (d, h, w).

    limit_bytes: what they may take of memory; where they need more they lie in a file, and take
    that or as much as one class. Raises DataError where there is no room for that.
    """

    def __init__(self, classes: int, shape: Triple, weight: Floats, limit_bytes: int) -> None:
        self._depth, self._weight = len(weight), weight
        self._sums = Scratch((classes, self._depth, *shape[1:]), np.float32, limit_bytes)
        self._weights = np.zeros((self._depth, *shape[1:]), np.float32)
        self._done = 0  # slices that were given out
        # Of a file the system takes what lies around into memory, too: in the end all of a class.
        fitting = max(1, limit_bytes // max(1, self._sums.array[0].nbytes))
        at_once = fitting if self._sums.in_file else classes
        self._groups = [slice(k, k + at_once) for k in range(0, classes, at_once)]

    def add(self, start: Triple, logits: Floats) -> None:
        """Adds the logits (K, d, h, w) of the tile at `start`; no slice of it is given out yet."""
        first, top, left = start
        _, height, width = self._weight.shape
        rows, columns = slice(top, top + height), slice(left, left + width)
        turn = self._depth - first % self._depth  # slices lie in a ring: slice z at z % depth
        for part in (slice(0, turn), slice(turn, self._depth)):
            count = len(range(*part.indices(self._depth)))
            if count:
                begin = (first + part.start) % self._depth
                at = (slice(begin, begin + count), rows, columns)
                weight = self._weight[part]
                for some in self._groups:
                    add_tile(self._sums.array[(some, *at)], logits[some, part], weight)
                    self._sums.hand_back()
                self._weights[at] += weight

    def means(self, stop: int) -> Iterator[Floats]:
        """The weighted means (K, H, W) of the slices below `stop` that were not given out yet.

        No later tile may begin below `stop`.
        """
        for z in range(self._done, stop):
            slot = z % self._depth
            mean: Floats = self._sums.array[:, slot] / self._weights[slot]
            self._sums.array[:, slot] = 0
            self._weights[slot] = 0
            self._sums.hand_back()
            self._done = z + 1
            yield mean
