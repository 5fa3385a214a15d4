"""The phantoms' two scenes in MR: heart and prostate. Crude anatomy, and of no patient.

A scene paints tissues on a canvas, lower layers first, and returns how bright each tissue is in
every channel. Places are in mm (right, anterior, superior) from the scene's middle. Where the name
of a tissue is that of a label, it is that label.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from phantom_shapes import (
    INFINITE,
    Array,
    Canvas,
    Numbers,
    Values,
    about,
    ellipsoid,
    joined,
    sized,
    tube,
    warped,
    waves,
)


def heart(canvas: Canvas, rng: Generator) -> Values:
    """MR of blood: the left atrium among chambers and great vessels that are as bright."""
    canvas.points = points = warped(canvas.points, rng, 2.5, 90)
    _chest(canvas, rng)
    blood = _chambers(points, rng)
    wall = {"left atrium": 2, "left ventricle": 11, "right ventricle": 4, "right atrium": 2}
    around = [depth + wall.get(name, 1.5) for name, depth in blood.items()]
    heart_only = np.maximum.reduce([blood[name] for name in wall])
    canvas.paint({"fat": heart_only + 12 + waves(points, rng, 2, 40)})
    canvas.paint({"muscle": np.maximum.reduce(around)})
    ranked = np.sort(np.stack(list(blood.values())), axis=0)
    septum = rng.uniform(0.5, 2.2)  # mm on either side of the border; the mitral valve stays open
    open_valve = np.minimum(blood["left atrium"], blood["left ventricle"]) > -3
    thin = (ranked[-1] - ranked[-2] < septum) & ~open_valve
    canvas.paint({name: np.where(thin, -1.0, depth) for name, depth in blood.items()})
    level = rng.uniform(165, 190)
    values: Values = {name: (level + rng.uniform(-7, 7),) for name in blood}
    return values | {
        "outside": (4.0,), "lung": (26.0,), "fat": (rng.uniform(110, 150),), "bone": (75.0,),
        "muscle": (rng.uniform(80, 100),), "gullet": (rng.uniform(85, 105),), "disc": (130.0,),
    }  # fmt: skip


def _chest(canvas: Canvas, rng: Generator) -> None:
    points = canvas.points
    trunk = ellipsoid(points, (0, 6, 0), (*sized(rng, (140, 96), 0.05), INFINITE), power=2.4)
    canvas.paint({"fat": trunk})
    canvas.paint({"muscle": trunk - 8})
    canvas.paint({"lung": trunk - 22})
    middle = ellipsoid(points, (-2, 0, 0), (26, 80, INFINITE)) + waves(points, rng, 2, 40)
    canvas.paint({"fat": np.minimum(middle, trunk - 16)})
    diaphragm = -points[2] - rng.uniform(50, 62) - 0.004 * (np.abs(points[0]) - 45) ** 2
    canvas.paint({"gullet": np.minimum(diaphragm, trunk - 22)})
    canvas.paint({"bone": ellipsoid(points, (2, -74, 0), (20, 17, INFINITE), power=2.4)})
    canvas.paint({"disc": ellipsoid(points, (2, -74, rng.uniform(-40, 40)), (19, 16, 4))})
    canvas.paint({"bone": ellipsoid(points, (0, 88, 0), (18, 7, INFINITE))})
    canvas.paint({"gullet": ellipsoid(points, about(rng, (-3, -46, 0), 2), (9, 6, INFINITE))})


def _chambers(points: Array, rng: Generator) -> dict[str, Array]:
    """The bright spaces, by name; the veins belong to the left atrium for their first 9 mm."""
    middle = about(rng, (-2, -24, 14), 3)
    atrium = ellipsoid(points, middle, sized(rng, (31, 19, 24), 0.2), (0, rng.uniform(-15, 15), 0))
    ear = ellipsoid(points, middle + about(rng, (-31, 12, 6), 3), sized(rng, (12, 13, 10), 0.2))
    veins = []
    for side, level in ((1, 11), (1, -9), (-1, 13), (-1, -7)):
        root = middle + about(rng, (side * 18, -7, level), 2)
        steps = np.array([(0, 0, 0), (side * 26, -7, 0.4 * level), (side * 62, -12, 1.6 * level)])
        veins.append(tube(points, root + steps, sized(rng, (8.5, 7, 5.5))))
    vein = np.maximum.reduce(veins)
    body = joined(atrium, ear, round_mm=5)
    apex = about(rng, (-62, 40, -40), 5)
    left = tube(points, [about(rng, (-18, 6, -2), 2), (-38, 22, -20), apex], (21, 23, 8))
    right = [about(rng, p, 3) for p in ((30, 30, -26), (10, 46, -14), (-8, 46, 14))]
    trunk_end = about(rng, (-14, 22, 44), 3)
    lung_arteries: list[list[Numbers]] = [
        [trunk_end, (s * 22, -6, 46), (s * 62, -18, 40)] for s in (-1, 1)
    ]
    return {
        "left atrium": joined(body, np.minimum(vein, body + 9), round_mm=4),
        "pulmonary vein": np.minimum(vein, -(body + 9)),
        "left ventricle": left,
        "right ventricle": tube(points, right, (24, 22, 13)),
        "right atrium": ellipsoid(points, about(rng, (42, 2, -2), 3), sized(rng, (21, 25, 28))),
        "aorta": np.maximum(
            tube(points, [(-6, 8, 8), about(rng, (10, 14, 32), 2), (12, 6, 84)], (13, 15, 14)),
            ellipsoid(points, about(rng, (-22, -54, 0), 3), (11, 11, INFINITE)),
        ),
        "pulmonary artery": np.maximum.reduce(
            [tube(points, [right[2], (-14, 38, 30), trunk_end], (12, 13, 12))]
            + [tube(points, path, (11, 10, 7)) for path in lung_arteries]
        ),
        "cava": np.maximum(
            tube(points, [(40, -4, 18), (38, -4, 90)], (9, 9)),
            tube(points, [(40, -4, -20), (40, -16, -90)], (11, 12)),
        ),
    }  # fmt: skip


def prostate(canvas: Canvas, rng: Generator) -> Values:
    """MR, T2 and ADC: the two zones of the prostate between bladder and rectum."""
    canvas.points = points = warped(canvas.points, rng, 1.2, 60)
    _pelvis(canvas, rng)
    middle, radii = about(rng, (0, 0, 0), 2), sized(rng, (25, 18, 22), 0.18)
    gland = ellipsoid(points, middle, radii, power=2.2) + waves(points, rng, 0.7, 25)
    share = rng.uniform(0.55, 0.82)  # how much of the gland the transition zone fills
    shift = (0, radii[1] * (0.95 - share), radii[2] * 0.12)
    core = ellipsoid(points, middle + shift, radii * share) + waves(points, rng, 0.6, 18)
    front = points[1] - middle[1] - radii[1] * 0.45
    inner = np.maximum(core, front)
    bladder = ellipsoid(
        points, middle + about(rng, (0, 10, radii[2] + 20), 2), sized(rng, (34, 27, 24), 0.2)
    )
    side = about(rng, (24, -17, 27), 2)
    roots = np.array([0, -13, radii[2] - 3]) + middle
    vesicles = [
        tube(points, [roots + np.array([s * 3, 0, 0]), middle + side * (s, 1, 1)], (7, 8.5))
        for s in (-1, 1)
    ]
    bowel_at = middle + about(rng, (0, -radii[1] - 11, 0), 2)
    rectum = ellipsoid(points, bowel_at, (*sized(rng, (17, 14), 0.2), INFINITE))
    rectum = rectum + waves(points, rng, 1.0, 30)
    front_of = middle + np.array([0, radii[1] + 3, 2])
    plexus = ellipsoid(points, front_of, (21, 8, 16)) + waves(points, rng, 2, 14)
    canvas.paint({"muscle": bladder + 3})
    canvas.paint(
        {
            "PZ": np.minimum(gland, -inner), "TZ": np.minimum(gland, inner), "bladder": bladder,
            "rectum": rectum, "vesicle": np.maximum(*vesicles), "plexus": plexus,
        }
    )  # fmt: skip
    canvas.paint({"lumen": rectum - 5})
    return _prostate_values(rng)


def _pelvis(canvas: Canvas, rng: Generator) -> None:
    points = canvas.points
    canvas.paint({"fat": np.ones(points.shape[1:])})
    inward = np.abs(points[0])
    aside = np.stack([inward, points[1], points[2]])  # both sides at once
    canvas.paint({"muscle": ellipsoid(aside, about(rng, (52, 4, 0), 2), (15, 26, INFINITE))})
    canvas.paint({"bone": ellipsoid(aside, (70, 6, 0), (13, 30, INFINITE))})
    canvas.paint({"bone": ellipsoid(aside, about(rng, (8, 42, -8), 2), (14, 10, 26))})
    sling = 2.2 - np.abs(inward - 31 - 0.25 * points[2]) - 0.02 * (points[1] + 8) ** 2 / 4
    canvas.paint({"muscle": sling})
    canvas.paint({"muscle": ellipsoid(points, about(rng, (0, 4, -36), 2), (14, 14, 16))})


def _prostate_values(rng: Generator) -> Values:
    outer, inner = rng.uniform(150, 178), rng.uniform(98, 122)
    wet = rng.uniform(138, 156)
    return {
        "outside": (4.0, 2.0), "fat": (rng.uniform(125, 150), 14.0), "bone": (85.0, 22.0),
        "muscle": (58.0, 114.0), "PZ": (outer, wet), "TZ": (inner, 118.0),
        "bladder": (outer + rng.uniform(0, 30), wet + rng.uniform(0, 20)),
        "rectum": (inner - 8, 116.0), "lumen": (rng.uniform(25, 170), rng.uniform(90, 160)),
        "vesicle": (outer + rng.uniform(-8, 8), wet + 4), "plexus": (outer - 5, wet - 5),
    }  # fmt: skip
