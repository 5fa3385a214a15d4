"""The phantoms' abdomen in CT: scenes of liver and pancreas. Crude anatomy, and of no patient.

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
    Values,
    about,
    ellipsoid,
    joined,
    sized,
    tube,
    warped,
    waves,
)


def liver(canvas: Canvas, rng: Generator) -> Values:
    """CT: the liver with one to four faint tumours, beside spleen, stomach and muscle."""
    abdomen(canvas, rng)
    middle = canvas.points[:, canvas.tissue == canvas.names.index("liver")]
    tumours = []
    for _ in range(int(rng.integers(1, 5))):
        place = middle[:, rng.integers(middle.shape[1])]
        tumours.append(ellipsoid(canvas.points, place, sized(rng, (15, 15, 15), 0.35)))
    _grow_tumour(canvas, "liver", np.maximum.reduce(tumours), rng)
    values = _abdomen_values(rng)
    values["tumour"] = (values["liver"][0] - rng.uniform(34, 54),)
    return values


def pancreas(canvas: Canvas, rng: Generator) -> Values:
    """CT: the pancreas with one tumour, beside duodenum, stomach and bowel of nearly its HU."""
    curve = abdomen(canvas, rng)
    place = curve[int(rng.integers(len(curve)))]
    tumour = ellipsoid(canvas.points, place, sized(rng, (13, 13, 13), 0.3))
    _grow_tumour(canvas, "pancreas", tumour, rng)
    values = _abdomen_values(rng)
    values["tumour"] = (values["pancreas"][0] - rng.uniform(34, 54),)
    return values


def _grow_tumour(canvas: Canvas, organ: str, depth: Array, rng: Generator) -> None:
    """A tumour bulges into fat, but into no other organ."""
    depth = depth + waves(canvas.points, rng, 1.0, 25)
    inside = np.isin(canvas.tissue, [canvas.names.index(name) for name in (organ, "fat")])
    canvas.paint({"tumour": np.where(inside, depth, -1.0)})


def abdomen(canvas: Canvas, rng: Generator) -> Array:
    """Paints the upper belly; returns places (n, 3) on the pancreas's centre line."""
    canvas.points = points = warped(canvas.points, rng, 2.5, 120)
    cavity = _trunk_wall(canvas, rng)
    right, _, up = points
    organs = _big_organs(points, rng)
    gut, centre = _gut_and_pancreas(points, rng)
    organs |= gut
    rim = 0.6 + waves(points, rng, 1.4, 32)  # mm of fat round the pancreas; below 0 they touch
    for name in organs.keys() - {"pancreas"}:
        organs[name] = np.minimum(organs[name], -organs["pancreas"] - rim)
    canvas.paint({name: np.minimum(depth, cavity) for name, depth in organs.items()})
    gas = ellipsoid(points, about(rng, (-46, 60, 28), 4), sized(rng, (22, 12, 24), 0.3))
    canvas.paint({"gas": np.minimum(gas, organs["stomach"] - 4)})
    top = rng.uniform(70, 86) - 0.004 * (np.abs(right) - 52) ** 2 - 0.003 * points[1] ** 2
    heart = ellipsoid(points, about(rng, (-18, 28, 108), 4), sized(rng, (52, 42, 34)))
    lung = np.minimum(up - top, cavity - 1)
    canvas.paint({"heart": np.minimum(heart, cavity), "lung": np.minimum(lung, 2 - heart)})
    aorta = ellipsoid(points, about(rng, (-9, -27, 0), 2), (10, 10, INFINITE))
    cava = ellipsoid(points, about(rng, (22, -22, 0), 2), (12, 10, INFINITE))
    canvas.paint({"vessel": np.maximum(aorta, cava)})
    return centre


def _trunk_wall(canvas: Canvas, rng: Generator) -> Array:
    """Skin, fat, muscle, ribs and spine; returns the field of the cavity within."""
    points = canvas.points
    size = sized(rng, (128, 90), 0.05)
    trunk = ellipsoid(points, (0, 0, 0), (*size, INFINITE), power=2.4)
    fat, muscle = rng.uniform(7, 16), rng.uniform(8, 12)
    cavity = trunk - fat - muscle
    canvas.paint({"fat": trunk})
    canvas.paint({"muscle": trunk - fat})
    canvas.paint({"fat": cavity})
    _, front, up = points
    slant = np.sin(2 * np.pi * (up - 0.45 * front + rng.uniform(0, 26)) / 26) - 0.55
    shell = 4 - np.abs(cavity + muscle / 2)
    canvas.paint({"bone": np.minimum(np.minimum(slant * 6, shell), up - 0.5 * np.abs(front) + 30)})
    back = [ellipsoid(points, (side * 33, -68, 0), (27, 19, INFINITE)) for side in (-1, 1)]
    psoas = [tube(points, [(s * 24, -46, 20), (s * 40, -42, -120)], (5, 22)) for s in (-1, 1)]
    canvas.paint({"muscle": np.maximum.reduce([*back, *psoas])})
    body = ellipsoid(points, (0, -50, 0), (21, 17, INFINITE), power=2.4)
    disc = np.sin(2 * np.pi * (up + rng.uniform(0, 36)) / 36) - 0.75
    spike = ellipsoid(points, (0, -78, 0), (6, 16, INFINITE))
    canvas.paint({"bone": np.maximum(body, spike)})
    canvas.paint({"muscle": np.minimum(body, disc * 9)})
    canvas.paint({"cord": ellipsoid(points, (0, -71, 0), (8, 7, INFINITE))})
    return cavity


def _big_organs(points: Array, rng: Generator) -> dict[str, Array]:
    right_lobe = ellipsoid(points, about(rng, (67, -2, 26), 5), sized(rng, (54, 64, 70)), power=2.3)
    left_lobe = ellipsoid(
        points, about(rng, (2, 40, 42), 6), sized(rng, (58, 28, 33), 0.2), (0, 12, 0)
    )
    result = {
        "liver": joined(right_lobe, left_lobe, round_mm=14) + waves(points, rng, 2.0, 60),
        "spleen": ellipsoid(points, about(rng, (-88, -26, 34), 5), sized(rng, (28, 40, 48), 0.2)),
        "kidney": np.maximum(
            ellipsoid(points, about(rng, (58, -42, -18), 5), sized(rng, (27, 25, 52))),
            ellipsoid(points, about(rng, (-58, -42, -6), 5), sized(rng, (27, 25, 52))),
        ),
    }
    result["spleen"] = result["spleen"] + waves(points, rng, 1.5, 50)
    return result


def _gut_and_pancreas(points: Array, rng: Generator) -> tuple[dict[str, Array], Array]:
    """Stomach, duodenum, bowel, pancreas, and the pancreas's centre line (n, 3)."""
    fundus = ellipsoid(points, about(rng, (-50, 32, 44), 5), sized(rng, (36, 34, 40), 0.2))
    antrum = [about(rng, place, 3) for place in ((-48, 38, 6), (-12, 52, -8), (36, 38, 2))]
    stomach = joined(fundus, tube(points, antrum, (22, 19, 13)), round_mm=12)
    loop = [(36, 38, 4), (64, 12, -6), (58, 2, -46), (24, -2, -58), (-14, 6, -48)]
    duodenum = tube(points, [about(rng, p, 4) for p in loop], sized(rng, (13, 14, 13, 13, 13)))
    line = [
        (38, 12, -40),
        (36, 14, -14),
        (10, 24, 2),
        (-24, 10, 10),
        (-54, -10, 18),
        (-78, -22, 28),
    ]
    knots = np.array([about(rng, p, 4) for p in line]) + rng.normal(0, 3, 3)
    thick = sized(rng, (15, 19, 12, 14, 13, 10), 0.16)
    gland = tube(points, knots, thick) + waves(points, rng, 0.9, 30)
    bowel = []
    for _ in range(6):
        start = rng.uniform((-85, 8, -75), (75, 62, -30))
        turns = np.cumsum([start, *rng.normal(0, 26, (3, 3))], axis=0)
        turns[:, 2] = np.minimum(turns[:, 2], -26)
        bowel.append(tube(points, turns, rng.uniform(10, 15, 4)))
    organs = {
        "stomach": stomach,
        "duodenum": np.where(duodenum > 0, duodenum + 6, duodenum),  # pushes thicker organs aside
        "pancreas": gland,
        "bowel": np.maximum.reduce(bowel),
    }
    return organs, knots[[0, 1, 3, 4]]


def _abdomen_values(rng: Generator) -> Values:
    """HU; `phase` 0 is a scan without contrast medium, 1 one with much of it."""
    phase = rng.uniform(0.2, 1)
    gland = 46 + 30 * phase + rng.uniform(-5, 5)
    values = {
        "outside": -1000.0, "lung": -830.0, "gas": -900.0, "fat": -100 + rng.uniform(-8, 8),
        "muscle": 56 + 12 * phase, "bone": rng.uniform(210, 300), "cord": 30.0,
        "heart": 50 + 90 * phase, "vessel": 50 + 110 * phase, "kidney": 45 + 105 * phase,
        "liver": 58 + 32 * phase + rng.uniform(-5, 5), "pancreas": gland,
    }  # fmt: skip
    values["spleen"] = values["liver"] + rng.uniform(-8, 8)
    for name in ("stomach", "duodenum", "bowel"):
        values[name] = gland + rng.uniform(-9, 9)
    return {name: (value,) for name, value in values.items()}
