"""Runs tiles of a prepared volume through a network and joins their logits."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from u2net3d.infer.window import gaussian_weight, padding, tile_starts
from u2net3d.models.universal import UniversalNet
from u2net3d.patches.sample import mirrored
from u2net3d.spec import DomainSpec
from u2net3d.volume import Array

Engine = Callable[[Tensor], Tensor]  # (1, C, D, H, W) patch -> (1, K, D, H, W) logits


def torch_engine(net: UniversalNet, domain: str, device: torch.device) -> Engine:
    """The network itself as an engine; `net` is in eval() and on `device`."""

    def run(patch: Tensor) -> Tensor:
        logits = net(patch.to(device), domain)[0]
        assert isinstance(logits, Tensor)
        return logits.float().cpu()

    return run


@torch.inference_mode()
def sliding_logits(
    engine: Engine, image: Array, spec: DomainSpec, *, overlap: float = 0.5, tta: bool = False
) -> Tensor:
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
    volume = torch.from_numpy(np.array(padded, dtype=np.float32))
    total = torch.zeros(len(spec.labels), *volume.shape[1:])
    weights = torch.zeros(volume.shape[1:])
    weight = torch.from_numpy(gaussian_weight(patch))
    views = _reflections(spec) if tta else [()]
    depth, height, width = volume.shape[1:]
    for start in tile_starts((depth, height, width), patch, overlap):
        at = tuple(slice(a, a + n) for a, n in zip(start, patch, strict=True))
        tile = volume[(slice(None), *at)][None]
        logits = torch.stack([_seen_from(engine, tile, spec, axes) for axes in views]).mean(0)
        total[(slice(None), *at)] += logits * weight
        weights[at] += weight
    total /= weights
    inner = tuple(
        slice(before, before + n) for (before, _), n in zip(around, image.shape[1:], strict=True)
    )
    return total[(slice(None), *inner)]


def _reflections(spec: DomainSpec) -> list[tuple[int, ...]]:
    axes = spec.mirroring.axes
    return [some for n in range(len(axes) + 1) for some in itertools.combinations(axes, n)]


def _seen_from(engine: Engine, tile: Tensor, spec: DomainSpec, axes: tuple[int, ...]) -> Tensor:
    """Logits (K, D, H, W) of a tile that the network saw reversed along `axes` of (D, H, W)."""
    flipped = [axis + 2 for axis in axes]
    logits = engine(tile.flip(flipped)).flip(flipped)[0]
    if spec.mirroring.swap_axis in axes:
        order = list(range(len(spec.labels)))
        for left, right in spec.mirroring.swap:
            order[left], order[right] = right, left
        logits = logits[order]
    return logits
