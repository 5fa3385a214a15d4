"""What scanners do to grey values: noise, blur, brightness, contrast, low resolution, gamma.

Every function takes and gives back one channel (D, H, W) float32 of a normalised image. Sums and
extremes come from numpy, whose bits do not depend on the number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from u2net3d.patches.sample import mirrored
from u2net3d.volume import TripleF


@dataclass(frozen=True)
class Intensity:
    """What is done to one channel; the default is nothing.

    noise_std: Gaussian noise, noise_seed its random numbers; blur_voxels: sigma along D, H, W;
    brightness and contrast: factors; detail: share of the voxels kept along D, H, W before they
    are interpolated back; inverted_gamma and gamma: exponents.
    """

    noise_std: float = 0.0
    noise_seed: int = 0
    blur_voxels: TripleF = (0.0, 0.0, 0.0)
    brightness: float = 1.0
    contrast: float = 1.0
    detail: TripleF = (1.0, 1.0, 1.0)
    inverted_gamma: float = 1.0
    gamma: float = 1.0


def change_channel(x: Tensor, change: Intensity) -> Tensor:
    """Applies, in this order, what differs from nothing; x itself is never written to."""
    if change.noise_std:
        x = add_noise(x, change.noise_std, change.noise_seed)
    if any(change.blur_voxels):
        x = blur(x, change.blur_voxels)
    if change.brightness != 1:
        x = x * change.brightness
    if change.contrast != 1:
        x = stretch_contrast(x, change.contrast)
    if change.detail != (1, 1, 1):
        x = lower_resolution(x, change.detail)
    if change.inverted_gamma != 1:
        x = -bend_gamma(-x, change.inverted_gamma)
    if change.gamma != 1:
        x = bend_gamma(x, change.gamma)
    return x


def add_noise(x: Tensor, std: float, seed: int) -> Tensor:
    """Adds independent Gaussian noise to every voxel."""
    noise = np.random.default_rng(seed).standard_normal(tuple(x.shape), np.float32)
    return x.add(torch.from_numpy(noise), alpha=std)


def blur(x: Tensor, sigma_voxels: TripleF) -> Tensor:
    """Gaussian blur, one axis after the other, with mirrored borders.

    Shifted sums instead of a convolution: seven or fewer taps are faster so, and in a fixed order.
    """
    for axis, sigma in enumerate(sigma_voxels):
        radius = math.ceil(3 * sigma)
        if not radius:
            continue
        n = x.shape[axis]
        wide = x.index_select(axis, torch.from_numpy(mirrored(-radius, n + 2 * radius, n)))
        taps = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
        x = wide.narrow(axis, 0, n) * (taps[0] / sum(taps))
        for k, tap in enumerate(taps[1:], start=1):
            x.add_(wide.narrow(axis, k, n), alpha=tap / sum(taps))
    return x


def stretch_contrast(x: Tensor, factor: float) -> Tensor:
    """Multiplies the distance from the mean; stays between the old minimum and maximum."""
    values = x.numpy()
    mean, low, high = (float(v) for v in (values.mean(), values.min(), values.max()))
    return (x * factor).add_(mean * (1 - factor)).clamp_(low, high)


def lower_resolution(x: Tensor, detail: TripleF) -> Tensor:
    """Keeps the nearest of fewer voxels along each axis, then interpolates back linearly."""
    small = [max(1, round(n * share)) for n, share in zip(x.shape, detail, strict=True)]
    few = F.interpolate(x[None, None], small, mode="nearest-exact")
    return F.interpolate(few, x.shape, mode="trilinear")[0, 0]


def bend_gamma(x: Tensor, exponent: float) -> Tensor:
    """Raises the values, brought to 0..1, to a power; mean and standard deviation stay."""
    values = x.numpy()
    mean, std, low, high = (
        float(v) for v in (values.mean(), values.std(), values.min(), values.max())
    )
    if high - low < 1e-6:  # one grey value: nothing to bend
        return x
    share = ((x - low) / (high - low)).clamp_(0, 1)
    # torch's power differs in the last bit with the number of threads, numpy's does not
    bent = np.power(share.numpy(), np.float32(exponent))
    scale = std / max(float(bent.std()), 1e-6)
    return torch.from_numpy(bent).sub_(float(bent.mean())).mul_(scale).add_(mean)
