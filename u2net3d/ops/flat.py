"""What an operator with a flat schema takes and gives (`compiled.py`), and what stands for it.

Results with voxels are dense in channels-last order, all others contiguous, and no two share
memory; a fake has shape, strides and type of what it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from u2net3d.ops.computing import Gradients, Layout
from u2net3d.ops.pending import Triple

# A layout in words of a schema; a slope says nothing where its source is not `normed`.
LAYOUT = "bool[] normed, float[] slopes, SymInt[] ups, SymInt[] stride, SymInt[] grid, float slope"
NO_GRADIENTS = (None,) * 6  # of the arguments of LAYOUT


def flattened(layout: Layout) -> tuple[Any, ...]:
    """The layout as the arguments of `LAYOUT`."""
    normed = [slope is not None for slope in layout.slopes]
    slopes = [1.0 if slope is None else slope for slope in layout.slopes]
    ups = [n for up in layout.ups for n in up]
    return normed, slopes, ups, layout.stride, layout.grid, layout.slope


def layout_of(
    normed: Sequence[bool], slopes: Sequence[float], ups: Sequence[int], stride: Sequence[int],
    grid: Sequence[int], slope: float,
) -> Layout:  # fmt: skip
    """The inverse of `flattened`."""
    each = zip(normed, slopes, strict=True)
    return Layout(
        tuple(slope if pending else None for pending, slope in each),
        tuple(triple(ups[i : i + 3]) for i in range(0, len(ups), 3)),
        triple(stride),
        triple(grid),
        slope,
    )


def triple(numbers: Sequence[int]) -> Triple:
    """Three numbers that came as a list. Raises ValueError for more or fewer."""
    d, h, w = numbers
    return d, h, w


def dense(x: Tensor) -> Tensor:
    """The voxels (B, C, D, H, W) in channels-last order; a copy only where they are not."""
    return x.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)


def apart(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors; those that share memory with one before them as copies."""
    found: list[Tensor] = []
    taken: set[int] = set()
    for tensor in tensors:
        address = tensor.untyped_storage().data_ptr()
        found.append(tensor.clone() if address in taken else tensor)
        taken.add(address)
    return found


def present(weights: Gradients, features: Gradients) -> list[Tensor]:
    """The gradients that there are: of an operator's own weights, and of its sources' tensors."""
    own = [g.contiguous() for g in weights if g is not None]
    others = [dense(g) if g.dim() == 5 else g.contiguous() for g in features if g is not None]
    return apart([*own, *others])


def in_place(found: Sequence[Tensor], given: Sequence[bool]) -> Gradients:
    """The gradients of `present` again with a None for each that is not `given`."""
    gradients = iter(found)
    return [next(gradients) if there else None for there in given]


def fake_present(weights: Iterable[Tensor | None], features: Iterable[Tensor]) -> list[Tensor]:
    """Stands for what `present` gives where these have gradients."""
    own = [w.new_empty(w.shape) for w in weights if w is not None]
    others = [
        fake_voxels(t, t.shape[1], t.shape[2:]) if t.dim() == 5 else t.new_empty(t.shape)
        for t in features
    ]
    return [*own, *others]


def fake_voxels(x: Tensor, channels: int, space: Iterable[int]) -> Tensor:
    """Stands for (B, channels, *space) in channels-last order, of the type of x (B, ...)."""
    return x.new_empty(x.shape[0], *space, channels).permute(0, 4, 1, 2, 3)


def fake_features(
    x: Tensor, channels: int, grid: Iterable[int], stride: Iterable[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Stands for a convolution of x read on `grid`, with its mean and 1/std."""
    space = [-(-n // s) for n, s in zip(grid, stride, strict=True)]
    mean, rstd = (x.new_empty(x.shape[0], channels) for _ in (0, 1))
    return fake_voxels(x, channels, space), mean, rstd
