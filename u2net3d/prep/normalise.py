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
_PIECE = 65_536  # voxels that are worked on while they are in the cache


def normalise(image: Array, schemes: tuple[Normalisation, ...]) -> Array:
    """image (C, D, H, W) to the same shape as a new float32 array; one scheme per channel.

    nonzero_only schemes share one mask: the voxels that are not 0 in every channel, and the holes
    they enclose (a dark ventricle stays dark). Raises ValueError when the numbers of channels and
    schemes differ.
    """
    body = body_mask(image) if any(map(_wants_body, schemes)) else None
    result = np.empty(image.shape, np.float32)
    for channel, scheme, to in zip(image, schemes, result, strict=True):
        _channel(channel, scheme, body, to)
    return result


def body_mask(image: Array) -> Array:
    """image (C, D, H, W) to a boolean (D, H, W): not 0 in some channel, or enclosed by such.

    Outside is what is connected, face to face, with a border of the volume.
    """
    from scipy.ndimage import label

    empty = ~(image != 0).any(axis=0)
    parts, count = label(empty)
    enclosed = np.ones(count + 1, bool)
    for axis in range(3):
        for end in (0, -1):
            enclosed[parts.take(end, axis)] = False
    enclosed[0] = True  # the body itself
    mask: Array = enclosed[parts]
    return mask


def _wants_body(scheme: Normalisation) -> bool:
    return isinstance(scheme, ZScoreNormalisation) and scheme.nonzero_only


def _channel(channel: Array, scheme: Normalisation, body: Array | None, to: Array) -> None:
    """One channel (D, H, W), written to `to`."""
    if isinstance(scheme, CtNormalisation):
        for old, new in zip(channel, to, strict=True):
            np.clip(old.astype(np.float32, copy=False), scheme.lower, scheme.upper, out=new)
        _scale(to.reshape(-1), scheme.mean, scheme.std)
    elif isinstance(scheme, PercentileNormalisation):
        to[...] = channel
        _by_percentiles(to, scheme)
    elif body is None or not scheme.nonzero_only:
        to[...] = channel
        _zscore(to.reshape(-1))
    else:
        to[...] = 0
        if body.any():
            values = channel[body].astype(np.float32, copy=False)
            _zscore(values)
            to[body] = values


def _by_percentiles(values: Array, scheme: PercentileNormalisation) -> None:
    """values (D, H, W) float32 by the percentiles and the mean above 0, in place."""
    np.maximum(values, np.float32(scheme.lowest), out=values)
    lower, upper = np.percentile(values, (scheme.lower_percent, scheme.upper_percent))
    np.clip(values, np.float32(lower), np.float32(upper), out=values)
    empty = values == 0
    above = values[values > 0]
    if not above.size:
        values[...] = 0
        return
    mean, std = float(above.mean(dtype=np.float64)), float(above.std(dtype=np.float64))
    _scale(values.reshape(-1), mean, std)
    values[empty] = 0


def _zscore(values: Array) -> None:
    """values (n) float32 to mean 0 and standard deviation 1, in place."""
    # float64 sums: intensities reach millions, and float32 would lose the small voxels
    mean = float(values.mean(dtype=np.float64))
    squares = _squares(values, mean, np.empty(min(len(values), _PIECE)))
    _scale(values, mean, float(np.sqrt(squares / len(values))))


def _squares(values: Array, mean: float, room: Array) -> float:
    """Sum of the squared distances from the mean, in float64; room (_PIECE) is written over.

    Halved as numpy halves a long sum: the bits are those of `values.std`, which would make an
    array of float64 as large as the volume.
    """
    count = len(values)
    if count <= _PIECE:
        distance = room[:count]
        distance[...] = values
        distance -= mean
        distance *= distance
        return float(np.add.reduce(distance))
    half = count // 2 - count // 2 % 8
    return _squares(values[:half], mean, room) + _squares(values[half:], mean, room)


def _scale(values: Array, mean: float, std: float) -> None:
    """values (n) float32 less the mean, by the standard deviation; in place."""
    for begin in range(0, len(values), _PIECE):
        piece = values[begin : begin + _PIECE]
        piece -= np.float32(mean)
        piece /= np.float32(max(std, STD_FLOOR))
