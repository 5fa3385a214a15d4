"""Runs tiles of a prepared volume through a network and joins their logits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from u2net3d.infer.scratch import DEFAULT_BYTES
from u2net3d.infer.sums import Floats, Sums
from u2net3d.infer.window import gaussian_weight, padding, tile_starts
from u2net3d.patches.sample import mirrored
from u2net3d.spec import DomainSpec, Level, Plan
from u2net3d.volume import Array, Triple

if TYPE_CHECKING:
    import torch

    from u2net3d.models.network import Network

# (1, C, D, H, W) as large as `Plan.seen` -> logits (1, K, D, H, W) of its middle, a patch at least
Engine = Callable[[Floats], Floats]


def torch_engine(
    net: Network, domain: str, device: torch.device | str, level: Level | None = None
) -> Engine:
    """The network itself as an engine; `net` is in eval() and on `device`."""
    import torch

    @torch.inference_mode()
    def run(patch: Floats) -> Floats:
        given = torch.from_numpy(np.require(patch, np.float32, ["C", "W"]))
        logits: Floats = net.answer(given.to(device), domain, level).float().cpu().numpy()
        return logits

    return run


def sliding_slices(
    engine: Engine,
    image: Array,
    spec: DomainSpec,
    *,
    overlap: float = 0.5,
    tta: bool = False,
    limit_bytes: int = DEFAULT_BYTES,
) -> Iterator[Floats]:
    """Logits of a prepared image (C, D, H, W), slice (K, H, W) after slice, as they become final.

    The weighted mean over the tiles. Borders are mirrored where the volume is smaller than the
    patch, and by the plan's margin; with a margin the answers are laid side by side (Ronneberger et
    al. 2015, figure 2). overlap: share of a patch that neighbouring tiles have in common; tta:
    average over the reflections that keep the domain's labels true, swapping left and right labels
    back (test-time augmentation); limit_bytes: what sums may take of memory, the rest lies in a
    temporary file. Tiles of one value throughout, as air that the plan clips, are computed once.
    """
    patch, margin = spec.plan.patch_size, spec.plan.margin
    before, inner = _around(image, patch)
    volume = _mirrored(image, patch, margin)
    depth, height, width = (n - 2 * m for n, m in zip(volume.shape[1:], margin, strict=True))
    sums = Sums(len(spec.labels), (depth, height, width), gaussian_weight(patch), limit_bytes)
    views = _reflections(spec) if tta else [()]
    seen = _flat_ones_once(lambda tile: _seen(engine, tile, spec, views))
    starts = tile_starts((depth, height, width), patch, overlap_of(spec, overlap))
    stops = [*(start[0] for start in starts[1:]), depth]  # below it no later tile begins
    z = -before
    for start, stop in zip(starts, stops, strict=True):
        at = tuple(slice(a, a + n) for a, n in zip(start, spec.plan.seen, strict=True))
        sums.add(start, _middle(seen(volume[(slice(None), *at)][None]), patch))
        for mean in sums.means(stop):
            if 0 <= z < image.shape[1]:
                yield mean[(slice(None), *inner)]
            z += 1


def overlap_of(spec: DomainSpec, asked: float) -> float:
    """The share of a patch that neighbouring tiles have in common: none where there is a margin."""
    return 0.0 if any(spec.plan.margin) else asked


def middle_tile(image: Array, plan: Plan) -> Floats:
    """What is seen (1, C, D, H, W) in the middle of an image (C, D, H, W), mirrored at its ends.

    Where that is of one value throughout, the first one that is not, if there is any.
    """
    volume = _mirrored(image, plan.patch_size, plan.margin)
    depth, height, width = (n - 2 * m for n, m in zip(volume.shape[1:], plan.margin, strict=True))
    middle = [(n - size) // 2 for n, size in zip(volume.shape[1:], plan.seen, strict=True)]
    for start in (middle, *tile_starts((depth, height, width), plan.patch_size, 0.0)):
        at = (slice(a, a + n) for a, n in zip(start, plan.seen, strict=True))
        tile = volume[(slice(None), *at)][None]
        if not is_flat(tile):
            break
    return tile


def is_flat(tile: Floats) -> bool:
    """Whether every channel of a tile (1, C, D, H, W) has one value throughout."""
    values = tile[0, :, :1, :1, :1]
    return not ((tile[0, :, ::8, ::8, ::8] != values).any() or (tile[0] != values).any())


def _middle(x: Floats, size: Triple) -> Floats:
    """The middle (C, *size) of (C, D, H, W)."""
    starts = [(n - kept) // 2 for n, kept in zip(x.shape[1:], size, strict=True)]
    at = (slice(a, a + kept) for a, kept in zip(starts, size, strict=True))
    return x[(slice(None), *at)]


def _flat_ones_once(see: Engine) -> Engine:
    """`see`, which is not asked again for a tile of the values of the last one without contrast."""
    known: dict[bytes, Floats] = {}

    def seen(tile: Floats) -> Floats:
        values = tile[0, :, :1, :1, :1]
        if not is_flat(tile):
            return see(tile)
        if values.tobytes() not in known:
            known.clear()
            known[values.tobytes()] = see(tile)
        return known[values.tobytes()]

    return seen


def _around(image: Array, patch: Triple) -> tuple[int, tuple[slice, slice]]:
    """Slices that are mirrored before the first, and where H and W lie in what is mirrored."""
    _, depth, height, width = image.shape
    (front, _), (top, _), (left, _) = padding((depth, height, width), patch)
    return front, (slice(top, top + height), slice(left, left + width))


def _mirrored(image: Array, patch: Triple, margin: Triple) -> Floats:
    """The image (C, D, H, W), mirrored to a patch at least, and by the margin around that.

    The image's own memory where nothing is mirrored.
    """
    _, depth, height, width = image.shape
    missing = padding((depth, height, width), patch)
    for axis, ((before, after), more) in enumerate(zip(missing, margin, strict=True), start=1):
        size, around = image.shape[axis], before + after + 2 * more
        if around:
            image = image.take(mirrored(-before - more, size + around, size), axis)
    return np.asarray(image, dtype=np.float32)


def _seen(
    engine: Engine, tile: Floats, spec: DomainSpec, views: Sequence[tuple[int, ...]]
) -> Floats:
    """The mean logits (K, D, H, W) of a tile over its reflections."""
    total = _seen_from(engine, tile, spec, views[0])
    for axes in views[1:]:
        total = total + _seen_from(engine, tile, spec, axes)
    return total / np.float32(len(views)) if len(views) > 1 else total


def _reflections(spec: DomainSpec) -> list[tuple[int, ...]]:
    axes = spec.mirroring.axes
    return [some for n in range(len(axes) + 1) for some in itertools.combinations(axes, n)]


def _seen_from(engine: Engine, tile: Floats, spec: DomainSpec, axes: tuple[int, ...]) -> Floats:
    """Logits (K, D, H, W) of a tile that the network saw reversed along `axes` of (D, H, W)."""
    flipped = tuple(axis + 2 for axis in axes)
    logits: Floats = np.flip(engine(np.flip(tile, flipped)), flipped)[0]
    if spec.mirroring.swap_axis in axes:
        order = list(range(len(spec.labels)))
        for left, right in spec.mirroring.swap:
            order[left], order[right] = right, left
        logits = logits[order]
    return logits
