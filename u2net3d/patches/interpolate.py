"""Linear interpolation between voxels, in numpy alone.

torch spreads such work over a team of threads, and a thread that reads ahead would get a team of
its own beside that of the network. numpy stays in the thread that calls it, so its bits do not
depend on a number of threads either; and eight plain gathers are faster than torch's grid_sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from u2net3d.volume import Array

Index = NDArray[np.intp]


def at_points(image: Array, points: Array) -> Array:
    """The image (C, D, H, W) between its voxels, trilinear, at points (3, ...): (C, ...).

    points: positions (D, H, W) in voxels, within 0..n-1 of each axis.
    """
    shape = image.shape[1:]
    cells = [np.minimum(np.floor(x), max(0, n - 2)) for x, n in zip(points, shape, strict=True)]
    shares = [x - cell for x, cell in zip(points, cells, strict=True)]
    index = flat_index(cells, shape)
    # To the next voxel along each axis; an axis of one voxel has none.
    steps = [int(np.prod(shape[axis + 1 :])) if shape[axis] > 1 else 0 for axis in range(3)]

    def between(voxels: Array, axis: int) -> Array:
        if axis == 3:
            return voxels.take(index)
        return _mixed(
            between(voxels, axis + 1), between(voxels[steps[axis] :], axis + 1), shares[axis]
        )

    return np.stack([between(channel.reshape(-1), 0) for channel in image])


def along_axis(x: Array, axis: int, positions: Array) -> Array:
    """x between its voxels along one axis, at positions (n,) within 0..n-1 of it."""
    last = x.shape[axis] - 1
    cell = np.minimum(positions.astype(np.intp), max(0, last - 1))
    low = x.take(cell, axis=axis)
    if last == 0:
        return low
    share = (positions - cell).astype(x.dtype)
    wide = [1] * x.ndim
    wide[axis] = len(positions)
    return _mixed(low, x.take(cell + 1, axis=axis), share.reshape(wide))


def flat_index(voxels: list[Array], shape: tuple[int, ...]) -> Index:
    """Where whole voxel positions (one array an axis) lie in a volume of `shape` laid out flat."""
    index = voxels[0].astype(np.int32)  # a block of 2^31 voxels would not fit into memory
    for position, n in zip(voxels[1:], shape[1:], strict=True):
        index *= n
        index += position.astype(np.int32)
    return index.astype(np.intp)


def fold(x: Array, n: int) -> Array:
    """Positions folded into 0..n-1 as between two mirrors, as `sample.mirrored` does with voxels.

    x itself may be written over.
    """
    last = n - 1
    if last == 0:
        return np.zeros_like(x)
    if x.min() < -2 * last or x.max() > 2 * last:
        x %= 2 * last
    np.abs(x, out=x)  # the mirror at 0, then the one at the other end
    x -= last
    np.abs(x, out=x)
    return np.subtract(last, x, out=x)


def _mixed(low: Array, high: Array, share: Array) -> Array:
    """low + share (high - low), written over `high`."""
    high -= low
    high *= share
    high += low
    return high
