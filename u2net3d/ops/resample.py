"""Images on another grid of the same box: separable cubics in numpy arrays, by a native kernel.

A new voxel is a weighted mean of its neighbours along each axis: Keys' cubic (a = -1/2; IEEE
Trans. ASSP 29, 1981, eq. 15), stretched by the factor of an axis that shrinks, so that all voxels
that merge are averaged; what would lie outside is left out, and the rest weighs 1 (as torch's
antialiased bicubic does). Where all neighbours are equal the result is exactly their value.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from u2net3d.ops.library import Kernels, library, threads

Floats = NDArray[np.float32]
Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Line:
    """What each of the new voxels of a line is made of.

    first int32 (new): the first of its `many` neighbours among the old voxels; weights float32
    (new, many); middle int32 (new): which of the neighbours its centre lies in.
    """

    first: NDArray[np.int32]
    middle: NDArray[np.int32]
    weights: Floats

    @property
    def many(self) -> int:
        """Neighbours of a new voxel; at the ends of a line some weigh nothing."""
        return int(self.weights.shape[1])


def cubic(old: int, new: int) -> Line:
    """The line of `new` voxels over the same length as `old` ones (voxels are cells)."""
    centres = (np.arange(new) + 0.5) * old / new
    stretch = max(old / new, 1.0)
    many = min(old, int(np.ceil(4 * stretch)))
    first = np.floor(centres - 2 * stretch + 0.5).clip(0, old - many).astype(np.int32)
    places = first[:, None] + np.arange(many) + 0.5
    weights = _cubic(np.abs(places - centres[:, None]) / stretch)
    middle = centres.astype(np.int32) - first
    shares = weights / weights.sum(axis=1, keepdims=True)
    return Line(first, middle, np.ascontiguousarray(shares, dtype=np.float32))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel of distances x >= 0."""
    near, far = ((1.5 * x - 2.5) * x) * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resample(image: Floats, shape: Shape) -> Floats:
    """image (C, D, H, W) float32 to a new (C, *shape), each channel kept within its own range.

    Cubics overshoot at edges. Axes that keep their size are left alone. Beside the result no more
    than one array is held that is larger than a few rows, and that only where D grows.
    """
    kernels = library()
    image = np.ascontiguousarray(image, dtype=np.float32)
    if kernels is None:
        return _plain(image, shape)
    range_ = np.empty((len(image), 2), np.float32)
    numbers = (ctypes.c_int64 * 2)(len(image), image[0].size)
    kernels.range(numbers, image.ctypes.data, range_.ctypes.data, threads())
    if shape[0] > image.shape[1] and shape[1:] != image.shape[2:]:  # growing last costs least
        image = _by_kernel(kernels, image, (image.shape[1], *shape[1:]), None)
    return _by_kernel(kernels, image, shape, range_)


def _by_kernel(kernels: Kernels, image: Floats, shape: Shape, range_: Floats | None) -> Floats:
    result = np.empty((len(image), *shape), np.float32)
    old = image.shape[1:]
    lines = [None if a == b else cubic(a, b) for a, b in zip(old, shape, strict=True)]
    sizes = [len(image)]
    places, weights = (ctypes.c_void_p * 6)(), (ctypes.c_void_p * 3)()
    for i, line in enumerate(lines):
        sizes += [old[i], shape[i], line.many if line else 0]
        if line:
            places[2 * i : 2 * i + 2] = [line.first.ctypes.data, line.middle.ctypes.data]
            weights[i] = line.weights.ctypes.data
    failed = kernels.resample(
        (ctypes.c_int64 * 10)(*sizes), image.ctypes.data, places, weights,
        None if range_ is None else range_.ctypes.data, result.ctypes.data, threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the scratch of a kernel")
    return result


def _plain(image: Floats, shape: Shape) -> Floats:
    """By numpy, an axis after the other, those that shrink most first."""
    low, high = (f(image, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    old = image.shape[1:]
    for i in sorted(range(3), key=lambda i: shape[i] / old[i]):
        if shape[i] != old[i]:
            image = _along(image, i + 1, cubic(old[i], shape[i]))
    return np.clip(image, low, high, out=image)


def _along(image: Floats, axis: int, line: Line) -> Floats:
    """One axis (1 to 3) by a plane after the other."""
    shape = list(image.shape)
    shape[axis] = len(line.first)
    result = np.empty(shape, np.float32)
    across = 2 if axis == 1 else 1
    inside = axis - 1 if axis > across else axis  # the axis within (C, plane)
    column = (-1, 1) if inside == 1 else (-1,)
    for at in range(image.shape[across]):
        plane = np.take(image, at, across)
        base = plane.take(line.first + line.middle, inside)
        total = np.zeros_like(base)
        for t in range(line.many):
            weight = line.weights[:, t].reshape(column)
            total += weight * (plane.take(line.first + t, inside) - base)
        result[(slice(None),) * across + (at,)] = base + total
    return result
