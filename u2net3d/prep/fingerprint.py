"""What a domain's training cases look like: the facts that its plan follows from.

Only training cases are ever read here: nothing of a validation case may shape the plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from u2net3d.errors import DataError
from u2net3d.io.dataset import Case, Dataset, LoadedCase, read_case
from u2net3d.prep.pipeline import nonzero_box
from u2net3d.spec import Frozen
from u2net3d.volume import Array, Triple, TripleF

SAMPLES_PER_CASE = 10_000

Progress = Callable[[int, int], None]


class CaseFacts(Frozen):
    """One case: shape (D, H, W) after the crop, spacing in mm, share of the voxels it keeps.

    centroids: of every label, (D, H, W) as shares of the volume; None where it is not held.
    """

    name: str
    shape: Triple
    spacing_mm: TripleF
    kept: float
    centroids: tuple[TripleF | None, ...] = ()


class Intensities(Frozen):
    """One channel within the labelled voxels, every case with the same weight."""

    mean: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float


class LabelFacts(Frozen):
    """One label: its voxels, the cases that hold it, and the mean of their centroids.

    centroid: (D, H, W) as shares of the volume, 0 to 1; None where no case holds the label.
    """

    value: int
    name: str
    voxels: int
    cases: int
    centroid: TripleF | None


class Fingerprint(Frozen):
    """The training cases of one domain; intensities by channel, labels without the background."""

    domain: str
    channels: tuple[str, ...]
    cases: tuple[CaseFacts, ...]
    intensities: tuple[Intensities, ...]
    labels: tuple[LabelFacts, ...]


@dataclass(frozen=True, eq=False)
class Reading:
    """What is kept of one case until all are read."""

    facts: CaseFacts
    samples: Array  # (C, n) float32 intensities of labelled voxels; n is 0 where there are none
    voxels: Array  # (K,) of each label value


def silent(_done: int, _total: int) -> None:
    """Progress for nobody."""


def fingerprint(
    dataset: Dataset, cases: Sequence[Case], progress: Progress = silent
) -> Fingerprint:
    """Reads the training `cases` of `dataset`, one at a time.

    progress: called with (done, total). Raises DataError when no case holds any label, and what
    `read_case` raises.
    """
    readings = []
    for done, case in enumerate(cases, start=1):
        readings.append(reading(case.name, read_case(dataset, case), dataset))
        progress(done, len(cases))
    return summary(dataset, readings)


def summary(dataset: Dataset, readings: Sequence[Reading]) -> Fingerprint:
    """The fingerprint of cases that were read. Raises DataError when none holds any label."""
    samples = np.concatenate(
        [np.zeros((len(dataset.channels), 0)), *(r.samples for r in readings)], 1
    )
    if samples.shape[1] == 0:
        raise DataError(
            dataset.domain,
            f"none of the {len(readings)} training cases holds a voxel of any label",
            "check the label files and the labels in dataset.json",
        )
    return Fingerprint(
        domain=dataset.domain,
        channels=dataset.channels,
        cases=tuple(one.facts for one in readings),
        intensities=tuple(_intensities(channel) for channel in samples),
        labels=_label_facts(dataset.labels, readings),
    )


def reading(name: str, loaded: LoadedCase, dataset: Dataset) -> Reading:
    """The facts of one case, and a sample of its labelled voxels."""
    image, label = loaded.image, loaded.label.array[0]
    start, stop = nonzero_box(image.array)
    d, h, w = (b - a for a, b in zip(start, stop, strict=True))
    masks = [label == value for value in range(1, len(dataset.labels))]
    foreground = image.array[:, np.logical_or.reduce(masks)]
    count = SAMPLES_PER_CASE if foreground.shape[1] else 0
    # with replacement, so that a case with a small organ weighs as much as the others
    chosen = seeded(name).integers(0, max(1, foreground.shape[1]), count)
    return Reading(
        facts=CaseFacts(
            name=name,
            shape=(d, h, w),
            spacing_mm=image.spacing_mm,
            kept=d * h * w / prod(image.shape),
            centroids=tuple(map(_centroid, masks)),
        ),
        samples=foreground[:, chosen],
        voxels=np.array([mask.sum() for mask in masks]),
    )


def seeded(*words: object) -> np.random.Generator:
    """Random numbers that depend on these words alone, on every machine."""
    digest = hashlib.sha256("/".join(map(str, words)).encode(errors="surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8]))


def _centroid(mask: Array) -> TripleF | None:
    """Mean place of the true voxels along each axis, as a share of the volume; None if none."""
    total = mask.sum()
    if not total:
        return None
    centroid = []
    for axis, size in enumerate(mask.shape):
        profile = mask.sum(axis=tuple(other for other in range(3) if other != axis))
        centres = (np.arange(size) + 0.5) / size
        centroid.append(float(profile @ centres / total))
    d, h, w = centroid
    return d, h, w


def _intensities(samples: Array) -> Intensities:
    low, high = np.percentile(samples, (0.5, 99.5))
    return Intensities(
        mean=float(samples.mean(dtype=np.float64)),
        std=float(samples.std(dtype=np.float64)),
        minimum=float(samples.min()),
        maximum=float(samples.max()),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )


def _label_facts(names: Sequence[str], readings: Sequence[Reading]) -> tuple[LabelFacts, ...]:
    voxels = np.array([one.voxels for one in readings])
    facts = []
    for index, name in enumerate(names[1:]):
        known = [centre for one in readings if (centre := one.facts.centroids[index])]
        d, h, w = np.mean(known, axis=0).tolist() if known else (0.0, 0.0, 0.0)
        facts.append(
            LabelFacts(
                value=index + 1,
                name=name,
                voxels=int(voxels[:, index].sum()),
                cases=len(known),
                centroid=(d, h, w) if known else None,
            )
        )
    return tuple(facts)
