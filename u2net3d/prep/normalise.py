"""Intensities of all scanners brought to one scale: CT by the training set, the rest by volume."""

from __future__ import annotations

import numpy as np

from u2net3d.spec import (
    CtNormalisation,
    Normalisation,
    PercentileNormalisation,
    ZScoreNormalisation,
)
from u2net3d.volume import Array

STD_FLOOR = 1e-8  # a constant channel becomes 0, not infinite


def normalise(image: Array, schemes: tuple[Normalisation, ...]) -> Array:
    """image (C, D, H, W) to the same shape as a new float32 array; one scheme per channel.

    nonzero_only schemes share one mask: the voxels that are not 0 in every channel, and the holes
    they enclose (a dark ventricle stays dark). Raises ValueError when the numbers of channels and
    schemes differ.
    """
    body = body_mask(image) if any(map(_wants_body, schemes)) else None
    channels = zip(image, schemes, strict=True)
    return np.stack([_channel(channel, scheme, body) for channel, scheme in channels])


def body_mask(image: Array) -> Array:
    """image (C, D, H, W) to a boolean (D, H, W): not 0 in some channel, or enclosed by such."""
    from scipy.ndimage import binary_fill_holes

    filled: Array = binary_fill_holes((image != 0).any(axis=0))
    return filled


def _wants_body(scheme: Normalisation) -> bool:
    return isinstance(scheme, ZScoreNormalisation) and scheme.nonzero_only


def _channel(channel: Array, scheme: Normalisation, body: Array | None) -> Array:
    if isinstance(scheme, CtNormalisation):
        clipped = np.clip(channel.astype(np.float32), scheme.lower, scheme.upper)
        return _scaled(clipped, scheme.mean, scheme.std)
    if isinstance(scheme, PercentileNormalisation):
        return _by_percentiles(channel, scheme)
    if body is None or not scheme.nonzero_only:
        return _zscore(channel)
    result = np.zeros(channel.shape, np.float32)
    if body.any():
        result[body] = _zscore(channel[body])
    return result


def _by_percentiles(channel: Array, scheme: PercentileNormalisation) -> Array:
    values = np.maximum(channel.astype(np.float32), np.float32(scheme.lowest))
    lower, upper = np.percentile(values, (scheme.lower_percent, scheme.upper_percent))
    clipped = np.clip(values, np.float32(lower), np.float32(upper))
    above = clipped[clipped > 0]
    if not above.size:
        return np.zeros(channel.shape, np.float32)
    mean, std = float(above.mean(dtype=np.float64)), float(above.std(dtype=np.float64))
    scaled = _scaled(clipped, mean, std)
    scaled[clipped == 0] = 0
    return scaled


def _zscore(values: Array) -> Array:
    # float64 sums: intensities reach millions, and float32 would lose the small voxels
    return _scaled(
        values, float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    )


def _scaled(values: Array, mean: float, std: float) -> Array:
    scaled = values.astype(np.float32) - np.float32(mean)
    scaled /= np.float32(max(std, STD_FLOOR))
    return scaled
