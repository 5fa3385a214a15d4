"""What scanners do to grey values: noise, blur, brightness, contrast, low resolution, gamma.

Every function takes and gives back one channel (D, H, W) float32 of a normalised image. All of it
is numpy (why: `interpolate`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from u2net3d.patches.interpolate import along_axis
from u2net3d.patches.sample import mirrored
from u2net3d.volume import Array, TripleF

_TINY = float(np.finfo(np.float32).tiny)


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


def change_channel(x: Array, change: Intensity) -> Array:
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


def add_noise(x: Array, std: float, seed: int) -> Array:
    """Adds independent Gaussian noise to every voxel."""
    noise: Array = np.random.default_rng(seed).standard_normal(x.shape, np.float32)
    noise *= std
    noise += x
    return noise


def blur(x: Array, sigma_voxels: TripleF) -> Array:
    """Gaussian blur, one axis after the other, with mirrored borders.

    Shifted sums instead of a convolution: seven or fewer taps are faster so, and in a fixed order.
    """
    for axis, sigma in enumerate(sigma_voxels):
        radius = math.ceil(3 * sigma)
        if not radius:
            continue
        n = x.shape[axis]
        wide = x.take(mirrored(-radius, n + 2 * radius, n), axis=axis)
        shifted = [wide[(slice(None),) * axis + (slice(k, k + n),)] for k in range(2 * radius + 1)]
        taps = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(radius + 1)]
        whole = taps[0] + 2 * sum(taps[1:])
        x = shifted[radius] * (taps[0] / whole)
        for k, tap in enumerate(taps[1:], start=1):
            pair = shifted[radius - k] + shifted[radius + k]
            pair *= tap / whole
            x += pair
    return x


def stretch_contrast(x: Array, factor: float) -> Array:
    """Multiplies the distance from the mean; stays between the old minimum and maximum."""
    mean, low, high = (float(v) for v in (x.mean(), x.min(), x.max()))
    new = x * factor
    new += mean * (1 - factor)
    return np.clip(new, low, high, out=new)


def lower_resolution(x: Array, detail: TripleF) -> Array:
    """Keeps the nearest of fewer voxels along each axis, then interpolates back linearly."""
    for axis, share in enumerate(detail):
        n = x.shape[axis]
        few = max(1, round(n * share))
        if few == n:
            continue
        kept = ((np.arange(few) + 0.5) * (n / few)).astype(np.intp)
        back = np.clip((np.arange(n) + 0.5) * (few / n) - 0.5, 0, few - 1)
        x = along_axis(x.take(kept, axis=axis), axis, back)
    return x


def bend_gamma(x: Array, exponent: float) -> Array:
    """Raises the values, brought to 0..1, to a power; mean and standard deviation stay."""
    mean, std, low, high = (float(v) for v in (x.mean(), x.std(), x.min(), x.max()))
    if high - low < 1e-6:  # one grey value: nothing to bend
        return x
    bent = x - low
    bent /= high - low
    np.clip(bent, _TINY, 1, out=bent)
    # exp and log are vectors in numpy, its power is slower than both
    np.log(bent, out=bent)
    bent *= exponent
    np.exp(bent, out=bent)
    scale = std / max(float(bent.std()), 1e-6)
    bent -= float(bent.mean())
    bent *= scale
    bent += mean
    return bent
