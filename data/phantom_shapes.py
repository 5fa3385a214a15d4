"""The shapes that the phantoms are put together from.

Everything is a field over points: points (3, X, Y, Z) in mm along right, anterior, superior; a
field (X, Y, Z) is above 0 inside its shape and about the depth below its surface in mm. Organs of
one layer that overlap share the space: a point goes to the higher field, so neighbours touch along
smooth common borders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

Array = NDArray[np.float64]
Numbers = Sequence[float] | Array
Values = dict[str, tuple[float, ...]]  # tissue -> brightness in each channel
INFINITE = float("inf")
FAR = -1e3  # the field of a tube away from it


@dataclass
class Canvas:
    """Where each point's tissue is painted; `tissue` (X, Y, Z) holds positions in `names`."""

    points: Array
    names: list[str] = field(default_factory=lambda: ["outside"])
    tissue: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        self.tissue = np.zeros(self.points.shape[1:], np.uint8)

    def paint(self, layer: dict[str, Array]) -> None:
        """Covers what is there wherever a field of the layer is above 0; the highest wins."""
        best = np.zeros(self.tissue.shape)
        for name, depth in layer.items():
            if name not in self.names:
                self.names.append(name)
            inside = depth > best
            self.tissue[inside] = self.names.index(name)
            best = np.where(inside, depth, best)


def waves(points: Array, rng: Generator, sd: float, length_mm: float) -> Array:
    """A smooth random field (X, Y, Z): four plane waves about `length_mm` long, together `sd`."""
    total: Array = np.zeros(points.shape[1:])
    for _ in range(4):
        direction = rng.normal(size=3)
        direction *= 2 * np.pi / (np.linalg.norm(direction) * length_mm * rng.uniform(0.7, 1.6))
        total += np.sin(np.tensordot(direction, points, 1) + rng.uniform(0, 2 * np.pi))
    return np.asarray(total * (sd / np.sqrt(2)))


def warped(points: Array, rng: Generator, sd_mm: float, length_mm: float) -> Array:
    """The points, each moved by a smooth random displacement of `sd_mm` along every axis."""
    return points + np.stack([waves(points, rng, sd_mm, length_mm) for _ in range(3)])


def turned(points: Array, degrees: Numbers) -> Array:
    """The points after turns about the right, the anterior and the superior axis, in that order."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[b, a], turn[a, b] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return np.tensordot(matrix, points, 1)


def ellipsoid(
    points: Array,
    centre: Numbers,
    radii: Numbers,
    degrees: Numbers = (0, 0, 0),
    power: float = 2.0,
) -> Array:
    """A superellipsoid; an infinite radius makes a cylinder along that axis."""
    local = points - np.asarray(centre, float)[:, None, None, None]
    if any(degrees):
        local = turned(local, degrees)
    finite = [(p, radius) for p, radius in zip(local, radii, strict=True) if np.isfinite(radius)]
    size = float(np.prod([radius for _, radius in finite])) ** (1 / len(finite))
    if power == 2:
        away = np.sqrt(sum((p / radius) ** 2 for p, radius in finite))
    else:
        away = sum(np.abs(p / radius) ** power for p, radius in finite) ** (1 / power)
    return np.asarray((1 - away) * size)


def tube(points: Array, knots: Sequence[Numbers] | Array, radii: Numbers) -> Array:
    """A tube along the smooth curve through `knots` (n, 3), `radii` (n,) mm thick at them."""
    stops = np.linspace(0, 1, len(knots))
    reach = float(np.sum(np.linalg.norm(np.diff(np.asarray(knots, float), axis=0), axis=1)))
    along = np.linspace(0, 1, max(4, round(reach / 4)))
    curve = CubicSpline(stops, np.asarray(knots, float))(along)
    radius = np.interp(along, stops, radii)
    margin = max(radii) + 15
    low, high = curve.min(axis=0) - margin, curve.max(axis=0) + margin
    box = [(p > a) & (p < b) for p, a, b in zip(points, low, high, strict=True)]
    near = np.logical_and.reduce(box)
    close, depth = points[:, near], np.full(int(near.sum()), FAR)
    for place, thick in zip(curve, radius, strict=True):
        x, y, z = close - place[:, None]
        distance = np.sqrt(x * x + y * y + z * z)
        np.maximum(depth, thick - distance, out=depth)
    result = np.full(points.shape[1:], FAR)
    result[near] = depth
    return result


def joined(*depths: Array, round_mm: float = 6.0) -> Array:
    """One shape of several, their seams rounded."""
    result = depths[0]
    for other in depths[1:]:
        blend = np.clip(round_mm - np.abs(result - other), 0, None) ** 2 / (4 * round_mm)
        result = np.maximum(result, other) + blend
    return result


def about(rng: Generator, place: Numbers, sd_mm: float) -> Array:
    """`place`, some `sd_mm` from it in every direction (never over twice that)."""
    return np.asarray(place, float) + np.clip(
        rng.normal(0, sd_mm, len(place)), -2 * sd_mm, 2 * sd_mm
    )


def sized(rng: Generator, radii: Numbers, share: float = 0.12) -> Array:
    """`radii`, all larger or smaller by up to `share`, and each by up to half of it."""
    common = 1 + rng.uniform(-share, share)
    return np.asarray(radii, float) * common * (1 + rng.uniform(-share / 2, share / 2, len(radii)))
