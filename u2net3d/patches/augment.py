"""Augmentation: parameters are drawn first, as plain numbers, then applied; so a patch replays.

Probabilities and ranges are about those of nnU-Net v2, plus a gentle bend of some patches or, where
it is asked for, the elastic deformation of every patch that U-Net was published with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from u2net3d.patches.intensity import Intensity, change_channel
from u2net3d.patches.sample import read_patch
from u2net3d.patches.spatial import Spatial, mirror, resample_patch
from u2net3d.prep.cache import PreparedCase
from u2net3d.spec import DomainSpec, Plan, ZScoreNormalisation
from u2net3d.volume import Array, Triple, TripleF

P_TURN, P_ZOOM, P_BEND, P_MIRROR = 0.2, 0.2, 0.1, 0.5
P_NOISE, P_BLUR, P_BRIGHTNESS, P_CONTRAST = 0.1, 0.2, 0.15, 0.15
P_LOW_RESOLUTION, P_INVERTED_GAMMA, P_GAMMA = 0.25, 0.1, 0.3
P_CHANNEL = 0.5  # blur and low resolution reach each channel with this probability

TURN_RAD = math.radians(30)
ZOOM = (0.7, 1.4)
BEND = (0.1, 0.4)  # of an elastic cell
NOISE_STD = (0.0, 0.1)  # of a normalised image
BLUR_VOXELS = (0.5, 1.0)
FACTOR = (0.75, 1.25)
DETAIL = (0.5, 1.0)
GAMMA = (0.7, 1.5)

THICK = 3.0  # beyond this ratio of spacings or patch sizes an axis is thick


@dataclass(frozen=True)
class Augmentation:
    """Everything drawn for one patch; the default leaves it as it is, bit for bit.

    mirror: axes (0 D, 1 H, 2 W) to reverse; intensity: one entry a channel, or none at all.
    """

    spatial: Spatial = field(default_factory=Spatial)
    mirror: tuple[int, ...] = ()
    intensity: tuple[Intensity, ...] = ()


def draw(rng: np.random.Generator, spec: DomainSpec, *, elastic: bool = False) -> Augmentation:
    """Parameters for one patch of a domain; elastic: as for U-Net, in place of the bend."""
    thick = thick_axis(spec.plan)
    return Augmentation(
        spatial=_draw_spatial(rng, spec, thick, elastic),
        mirror=tuple(axis for axis in spec.mirroring.axes if rng.random() < P_MIRROR),
        intensity=_draw_intensity(rng, len(spec.channels), thick),
    )


def augmented_patch(
    case: PreparedCase, start: Triple, spec: DomainSpec, augmentation: Augmentation
) -> tuple[Array, Array]:
    """Image (C, D, H, W) float32 and label (D, H, W) int16 (ignored -1), `Plan.seen` large."""
    plan = spec.plan
    if augmentation.spatial.is_identity:
        image, label = read_patch(case, start, plan.seen)
    else:
        image, label = resample_patch(case, start, plan.seen, plan.spacing_mm, augmentation.spatial)
    for channel, change in enumerate(augmentation.intensity):
        changed = change_channel(image[channel], change)
        scheme = plan.normalisation[channel]
        if isinstance(scheme, ZScoreNormalisation) and scheme.nonzero_only:
            changed = changed * (image[channel] != 0)  # 0 is outside a skull-stripped brain
        image[channel] = changed
    return mirror(image, label, augmentation.mirror, spec.mirroring)


def thick_axis(plan: Plan) -> int | None:
    """The axis with over 3 times the finest spacing, or under a third of the longest patch side.

    Turned into another axis its slices would show as blocks: patches turn in the other plane.
    """
    ratios = [
        max(spacing / min(plan.spacing_mm), max(plan.patch_size) / size)
        for spacing, size in zip(plan.spacing_mm, plan.patch_size, strict=True)
    ]
    return ratios.index(max(ratios)) if max(ratios) > THICK else None


def _draw_spatial(
    rng: np.random.Generator, spec: DomainSpec, thick: int | None, elastic: bool
) -> Spatial:
    turn: TripleF = (0.0, 0.0, 0.0)
    if rng.random() < P_TURN:
        free = set(spec.mirroring.axes) - {spec.mirroring.swap_axis, thick}
        # Half a turn is two mirrorings: a plane that may be mirrored both ways may turn freely.
        most = math.pi if thick is not None and len(free) == 2 else TURN_RAD
        angles = [
            float(rng.uniform(-most, most)) if thick in (None, axis) else 0.0 for axis in range(3)
        ]
        turn = angles[0], angles[1], angles[2]
    zoom = float(rng.uniform(*ZOOM)) if rng.random() < P_ZOOM else 1.0
    if elastic:
        return Spatial(turn, zoom, 0.0, _draw_seed(rng), thick, elastic=True)
    bend = float(rng.uniform(*BEND)) if rng.random() < P_BEND else 0.0
    return Spatial(turn, zoom, bend, _draw_seed(rng) if bend else 0, thick)


def _draw_intensity(
    rng: np.random.Generator, channels: int, thick: int | None
) -> tuple[Intensity, ...]:
    """Whether a change happens is drawn for the patch, how strong it is for each channel."""
    chances = (P_NOISE, P_BLUR, P_BRIGHTNESS, P_CONTRAST)
    noise, blur, brightness, contrast = (rng.random() < p for p in chances)
    chances_after = (P_LOW_RESOLUTION, P_INVERTED_GAMMA, P_GAMMA)
    coarse, inverted_gamma, gamma = (rng.random() < p for p in chances_after)
    noise_std = float(rng.uniform(*NOISE_STD)) if noise else 0.0
    drawn = []
    for _ in range(channels):
        detail = float(rng.uniform(*DETAIL)) if coarse and rng.random() < P_CHANNEL else 1.0
        blurred = blur and rng.random() < P_CHANNEL
        sigma = [float(rng.uniform(*BLUR_VOXELS)) if blurred else 0.0 for _ in range(3)]
        drawn.append(
            Intensity(
                noise_std=noise_std,
                noise_seed=_draw_seed(rng) if noise else 0,
                blur_voxels=_except(thick, (sigma[0], sigma[1], sigma[2]), 0.0),
                brightness=_draw_about_one(rng, FACTOR) if brightness else 1.0,
                contrast=_draw_about_one(rng, FACTOR) if contrast else 1.0,
                detail=_except(thick, (detail, detail, detail), 1.0),
                inverted_gamma=_draw_about_one(rng, GAMMA) if inverted_gamma else 1.0,
                gamma=_draw_about_one(rng, GAMMA) if gamma else 1.0,
            )
        )
    return tuple(drawn)


def _except(thick: int | None, values: TripleF, neutral: float) -> TripleF:
    """Spares the thick axis: its voxels are coarse and blurred as they are."""
    d, h, w = (neutral if axis == thick else value for axis, value in enumerate(values))
    return d, h, w


def _draw_about_one(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """Below 1 as often as above, each half uniform."""
    low, high = (limits[0], 1.0) if rng.random() < 0.5 else (1.0, limits[1])
    return float(rng.uniform(low, high))


def _draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))
