"""Runs tiles of a prepared volume through a network and joins their logits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from u2net3d.infer.window import gaussian_weight, padding, tile_starts
from u2net3d.patches.sample import mirrored
from u2net3d.spec import DomainSpec
from u2net3d.volume import Array

if TYPE_CHECKING:
    import torch

    from u2net3d.models.universal import UniversalNet

Floats = NDArray[np.float32]
Engine = Callable[[Floats], Floats]  # (1, C, D, H, W) patch -> (1, K, D, H, W) logits


def torch_engine(net: UniversalNet, domain: str, device: torch.device | str) -> Engine:
    """The network itself as an engine; `net` is in eval() and on `device`."""
    import torch

    @torch.inference_mode()
    def run(patch: Floats) -> Floats:
        given = torch.from_numpy(np.ascontiguousarray(patch, dtype=np.float32))
        logits: Floats = net(given.to(device), domain)[0].float().cpu().numpy()
        return logits

    return run


def sliding_logits(
    engine: Engine, image: Array, spec: DomainSpec, *, overlap: float = 0.5, tta: bool = False
) -> Floats:
    """Logits (K, D, H, W) of a prepared image (C, D, H, W), the weighted mean over its tiles.

    Borders are mirrored where the volume is smaller than the patch. overlap: share of a patch that
    neighbouring tiles have in common; tta: average over the reflections that keep the domain's
    labels true, swapping left and right labels back (test-time augmentation).
    """
    patch = spec.plan.patch_size
    depth, height, width = image.shape[1:]
    around = padding((depth, height, width), patch)
    padded = image
    for axis, (before, after) in enumerate(around, start=1):
        if before or after:
            size = image.shape[axis]
            padded = padded.take(mirrored(-before, before + size + after, size), axis)
    volume: Floats = np.asarray(padded, dtype=np.float32)
    total: Floats = np.zeros((len(spec.labels), *volume.shape[1:]), np.float32)
    weights = np.zeros(volume.shape[1:], np.float32)
    weight = gaussian_weight(patch)
    views = _reflections(spec) if tta else [()]
    depth, height, width = volume.shape[1:]
    for start in tile_starts((depth, height, width), patch, overlap):
        at = tuple(slice(a, a + n) for a, n in zip(start, patch, strict=True))
        tile = volume[(slice(None), *at)][None]
        logits = _seen_from(engine, tile, spec, views[0])
        for axes in views[1:]:
            logits = logits + _seen_from(engine, tile, spec, axes)
        total[(slice(None), *at)] += logits * (weight / np.float32(len(views)))
        weights[at] += weight
    total /= weights
    inner = tuple(
        slice(before, before + n) for (before, _), n in zip(around, image.shape[1:], strict=True)
    )
    result: Floats = total[(slice(None), *inner)]
    return result


def _reflections(spec: DomainSpec) -> list[tuple[int, ...]]:
    axes = spec.mirroring.axes
    return [some for n in range(len(axes) + 1) for some in itertools.combinations(axes, n)]


def _seen_from(engine: Engine, tile: Floats, spec: DomainSpec, axes: tuple[int, ...]) -> Floats:
    """Logits (K, D, H, W) of a tile that the network saw reversed along `axes` of (D, H, W)."""
    flipped = [axis + 2 for axis in axes]
    logits: Floats = np.flip(engine(np.flip(tile, flipped)), flipped)[0]
    if spec.mirroring.swap_axis in axes:
        order = list(range(len(spec.labels)))
        for left, right in spec.mirroring.swap:
            order[left], order[right] = right, left
        logits = logits[order]
    return logits
