"""From logits to labels: slices of a finer or coarser grid between two slices of logits.

Linear, voxels being cells (align_corners=False); the largest class wins, the first of equals. The
native kernel leaves out cells whose eight corners agree: a linear mean keeps a >= b, so nothing is
lost. Without it, and for probabilities, torch interpolates every class; no more is imported.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from u2net3d.ops.library import library, threads

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
_MARGIN = 16  # the kernel reads places of outputs by vectors of up to 16


@dataclass(frozen=True)
class Axis:
    """Where `size` new voxels of a line lie between its `old` ones.

    low: the old voxel before each new one; share (0 to 1): how far on the way to the next it lies;
    first (old + 1): the first new voxel at or behind each old one. low and share are followed by
    copies of their last.
    """

    old: int
    size: int

    @cached_property
    def _places(self) -> NDArray[np.float64]:
        centres = (np.arange(self.size) + 0.5) * self.old / self.size - 0.5
        return np.pad(centres.clip(0, self.old - 1), (0, _MARGIN), mode="edge")

    @cached_property
    def low(self) -> NDArray[np.int32]:
        """int32 (size + 16)."""
        return self._places.astype(np.int32)

    @cached_property
    def share(self) -> Floats:
        """float32 (size + 16)."""
        result: Floats = (self._places - self.low).astype(np.float32)
        return result

    @cached_property
    def first(self) -> NDArray[np.int32]:
        """int32 (old + 1)."""
        low = self.low[: self.size]
        return np.searchsorted(low, np.arange(self.old + 1)).astype(np.int32)


class Plane:
    """A slice (K, h, w) float32 of logits, and what is made of it once for the grid (H, W)."""

    def __init__(self, logits: Floats, height: Axis, width: Axis) -> None:
        dense = logits.strides[1:] == (logits.shape[2] * 4, 4)
        plain = dense and logits.dtype == np.float32 and logits.strides[0] % 4 == 0
        self.logits = logits if plain else np.ascontiguousarray(logits, dtype=np.float32)
        self.height, self.width = height, width

    @property
    def is_fine(self) -> bool:
        """Whether the slice has the grid that is asked for already."""
        return self.logits.shape[1:] == (self.height.size, self.width.size)

    @property
    def apart(self) -> int:
        """Floats from class to class."""
        return self.logits.strides[0] // 4

    @cached_property
    def largest(self) -> Bytes:
        """The first of the largest classes, uint8 (h, w)."""
        kernels = library()
        if kernels is None:
            result: Bytes = self._tensor.max(dim=0).indices.numpy().astype(np.uint8)
            return result
        classes, h, w = self.logits.shape
        label = np.empty((h, w), np.uint8)
        sizes = (ctypes.c_int64 * 3)(classes, self.apart, h * w)
        kernels.largest(sizes, self.logits.ctypes.data, label.ctypes.data, threads())
        return label

    @cached_property
    def fine(self) -> Tensor:
        """All classes on the grid (H, W), by torch."""
        from torch.nn.functional import interpolate

        size = (self.height.size, self.width.size)
        return interpolate(self._tensor[None], size=size, mode="bilinear", align_corners=False)[0]

    @property
    def _tensor(self) -> Tensor:
        import torch

        return torch.from_numpy(self.logits)


def label_between(low: Plane, high: Plane, share: float) -> Bytes:
    """uint8 (H, W) of the slice that lies `share` (0 to 1) on the way from low to high."""
    if low.is_fine and share == 0:
        return low.largest
    kernels = library()
    if kernels is None:
        import torch

        largest = torch.lerp(low.fine, high.fine, share).max(dim=0).indices
        return largest.numpy().astype(np.uint8)
    height, width, (classes, h, w) = low.height, low.width, low.logits.shape
    label = np.empty((height.size, width.size), np.uint8)
    numbers = (classes, low.apart, high.apart, h, w, height.size, width.size)
    failed = kernels.labels_between(
        (ctypes.c_int64 * 7)(*numbers), _addresses(low.logits, high.logits),
        _addresses(low.largest, high.largest), _addresses(height.low, width.low, width.first),
        _addresses(height.share, width.share), share, label.ctypes.data, threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the scratch of a kernel")
    return label


def probabilities_between(low: Plane, high: Plane, share: float) -> NDArray[np.uint16]:
    """Softmax of the interpolated logits, uint16 (K, H, W) in units of 1/65535.

    Half the bytes of float32, and 32 times as fine as float16 near 1.
    """
    import torch

    shares = torch.lerp(low.fine, high.fine, share).softmax(dim=0)
    steps = shares.mul_(np.iinfo(np.uint16).max).round_()
    result: NDArray[np.uint16] = steps.numpy().astype(np.uint16)
    return result


def between(
    slices: Iterable[Floats], old: tuple[int, int, int], new: tuple[int, int, int]
) -> Iterator[tuple[Plane, Plane, float]]:
    """For each slice of a volume of shape `new`: those before and behind it, and its share.

    slices: the `old[0]` slices (K, h, w) of logits of the shape `old`, in order; no more than two
    are held at a time. Raises ValueError where their shape is not that of `old`.
    """
    depth, height, width = (Axis(a, b) for a, b in zip(old, new, strict=True))
    planes = (Plane(logits, height, width) for logits in _of_shape(slices, old))
    low = high = next(planes)
    at = 0  # of `low`; `high` is the next one, or `low` itself before it is needed
    for z in range(new[0]):
        while at < depth.low[z]:
            low = high if high is not low else next(planes)
            high, at = low, at + 1
        share = float(depth.share[z])
        if share and high is low:
            high = next(planes)
        yield low, high, share
    for _ in planes:  # shrinking may not need the last ones; who gives them counts on being emptied
        pass


def _of_shape(slices: Iterable[Floats], shape: tuple[int, int, int]) -> Iterator[Floats]:
    count = 0
    for logits in slices:
        count += 1
        if count > shape[0] or logits.shape[1:] != shape[1:]:
            raise ValueError(f"slice {count} of {logits.shape[1:]} is not of {shape}")
        yield logits
    if count < shape[0]:
        raise ValueError(f"{count} slices are not {shape[0]}")


def _addresses(*arrays: NDArray[Any]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
