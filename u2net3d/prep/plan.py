"""nnU-Net's planning rules under a budget that is the preset's, never the machine's.

Spacing, normalisation and topology follow nnU-Net v2 (Isensee et al. 2021); its memory estimate
gives way to one number: batch x patch voxels stay within the budget's, so that a step costs much
the same in every domain and a plan is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from u2net3d.io.dataset import Case, Dataset
from u2net3d.prep.fingerprint import Fingerprint, Intensities, Progress, fingerprint, silent
from u2net3d.prep.mirroring import mirroring, misplaced
from u2net3d.prep.resample import resampled_shape
from u2net3d.spec import (
    Budget,
    CtNormalisation,
    DomainSpec,
    ModelSpec,
    Normalisation,
    Plan,
    ZScoreNormalisation,
)
from u2net3d.volume import Triple, TripleF

__all__ = [
    "cubed",
    "domain_spec",
    "expected_memory_bytes",
    "make_plan",
    "mirroring",
    "spec_of",
    "topology",
]

BUDGET = Budget()
MAX_SHARE = 0.05  # of all training voxels in one step, against overfitting
ANISOTROPIC = 3  # an axis this many times coarser, and shorter, than the others is thick
MIN_EDGE = 4  # voxels per axis of the deepest stage
RUNTIME_BYTES = 400 * 2**20  # Python, torch and its buffers before the first step

Say = Callable[[str], None]


def unheard(_line: str) -> None:
    """Words for nobody."""


@dataclass(frozen=True)
class Topology:
    """patch: divisible by the product of the strides; strides and kernels as in Plan."""

    patch: Triple
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]

    @property
    def divisor(self) -> Triple:
        """What each axis of the patch is a multiple of."""
        d, h, w = (prod(axis) for axis in zip(*self.strides, strict=True))
        return d, h, w


def domain_spec(
    dataset: Dataset,
    cases: Sequence[Case],
    max_stages: int,
    *,
    budget: Budget = BUDGET,
    cube: int | None = None,
    progress: Progress = silent,
    say: Say = unheard,
) -> DomainSpec:
    """All that `cases`, the training cases of `dataset`, decide about their domain.

    cube: the edge of the cube that every patch is resized to (`cubed`), of which two are a batch,
    whatever `budget` says; None for none. say: called with a line of warning if there is a doubt.
    Raises DataError when none of them holds a label, and what `read_case` raises.
    """
    facts = fingerprint(dataset, cases, progress)
    if doubt := misplaced(facts):
        say(f"{dataset.domain}: warning: {doubt}; `u2net3d check` says what to do")
    if cube is None:
        return spec_of(dataset, facts, max_stages, budget=budget)
    least = BUDGET.least_batch
    spec = spec_of(dataset, facts, max_stages, budget=Budget(voxels=least * cube**3))
    return spec.model_copy(update={"plan": cubed(spec.plan, cube, max_stages)})


def spec_of(
    dataset: Dataset, facts: Fingerprint, max_stages: int, *, budget: Budget = BUDGET
) -> DomainSpec:
    """The same from a fingerprint of the training cases."""
    return DomainSpec(
        name=dataset.domain,
        channels=dataset.channels,
        labels=dataset.labels,
        ignore_label=dataset.ignore_label,
        mirroring=mirroring(facts),
        plan=make_plan(facts, max_stages=max_stages, budget=budget),
    )


def make_plan(facts: Fingerprint, *, max_stages: int, budget: Budget = BUDGET) -> Plan:
    """The plan of a domain with these training cases, at most `max_stages` deep.

    The patch begins proportional to 1 / spacing, no larger than the median prepared case, and is
    reduced, always along its relatively longest axis, until the least batch of it fits into the
    budget's voxels. The batch then fills these, up to the most that the budget allows and to 5 % of
    all training voxels, but never below the least.
    """
    spacing = _target_spacing(facts)
    shapes = [resampled_shape(case.shape, case.spacing_mm, spacing) for case in facts.cases]
    d, h, w = (max(1, round(size)) for size in np.median(shapes, axis=0).tolist())
    shape = _fitting(spacing, (d, h, w), max_stages, budget.voxels // budget.least_batch)
    voxels = prod(shape.patch)
    share = round(MAX_SHARE * d * h * w * len(shapes) / voxels)
    return Plan(
        spacing_mm=spacing,
        normalisation=_normalisations(facts),
        patch_size=shape.patch,
        batch_size=max(budget.least_batch, min(budget.voxels // voxels, share, budget.most_batch)),
        strides=shape.strides,
        kernels=shape.kernels,
    )


def topology(spacing_mm: TripleF, patch: Triple, max_stages: int) -> Topology:
    """nnU-Net's strides and kernels for a patch, the pools after `max_stages` dropped.

    The patch is padded to what the strides left divide. A patch too small for two stages is
    grown along its finer axes first.
    """
    from nnunetv2.experiment_planning.experiment_planners.network_topology import (
        get_pool_and_conv_props,
    )

    _, strides, kernels, _, _ = get_pool_and_conv_props(spacing_mm, patch, MIN_EDGE, 999_999)
    if len(strides) < 2:
        fine = [spacing < 2 * min(spacing_mm) for spacing in spacing_mm]
        d, h, w = (
            max(size, 3 * MIN_EDGE) if is_fine else size
            for size, is_fine in zip(patch, fine, strict=True)
        )
        return topology(spacing_mm, (d, h, w), max_stages)
    kept = Topology(patch, strides[:max_stages], kernels[:max_stages])
    d, h, w = (-(-size // by) * by for size, by in zip(patch, kept.divisor, strict=True))
    return Topology((d, h, w), kept.strides, kept.kernels)


def cubed(plan: Plan, edge: int, max_stages: int) -> Plan:
    """The plan with its patch resized to a cube of `edge` voxels, as Huang et al. 2019 do.

    To resize every patch is to prepare the volume on another grid: spacing x patch / edge. All axes
    are halved together, as long as the edge allows, with kernels of 3x3x3; the batch is two cubes.
    """
    stages = 1
    while stages < max_stages and edge % 2**stages == 0 and edge >> stages >= MIN_EDGE:
        stages += 1
    pairs = zip(plan.spacing_mm, plan.patch_size, strict=True)
    d, h, w = (mm * size / edge for mm, size in pairs)
    return Plan(
        spacing_mm=(d, h, w),
        normalisation=plan.normalisation,
        patch_size=(edge, edge, edge),
        batch_size=BUDGET.least_batch,
        strides=((1, 1, 1), *[(2, 2, 2)] * (stages - 1)),
        kernels=((3, 3, 3),) * stages,
    )


def expected_memory_bytes(plan: Plan, model: ModelSpec, *, channels: int, classes: int) -> int:
    """Peak memory of one training step: what the separable net keeps for its backward pass.

    In float32. A unit from a to b channels keeps the result of its depthwise half (a) and its own
    (b). A stage of c channels: the stem (c) or the strided unit (c / 2 + c), two units (4c) and
    their sum (c); on the way up the unit that halves 2c channels (3c, on the coarser or the finer
    grid) and two units, the first of them on 2c (3c + 2c). At each output of the decoder the
    logits, their softmax and both gradients; about 6 gradients of the finest stage in flight.
    """
    first, design = model.design.first_stage, model.design
    voxels = plan.batch_size * prod(plan.patch_size)
    floats = voxels * (channels + 4 * classes)
    finer = voxels
    for stage, stride in enumerate(plan.strides):
        voxels //= prod(stride)
        if stage < first:
            continue
        width = model.base_channels * 2**stage
        entry = width if stage == first else 3 * width // 2
        floats += voxels * (entry + (5 if design.residual else 4) * width)
        if stage == first:
            floats += voxels * 6 * width
        else:  # the level of the decoder above: its up unit, then its own two on the finer grid
            floats += (voxels if design.coarse_up else finer) * 3 * width // 2
            floats += finer * (5 * width // 2 + 4 * classes)
        finer = voxels
    return RUNTIME_BYTES + 4 * floats


def _target_spacing(facts: Fingerprint) -> TripleF:
    """The median; along a thick axis the 10th percentile, but no finer than the other axes."""
    spacings = np.array([case.spacing_mm for case in facts.cases])
    target = np.median(spacings, axis=0)
    sizes = np.median([case.shape for case in facts.cases], axis=0)
    thick = int(target.argmax())
    others = [axis for axis in range(3) if axis != thick]
    coarsest = target[others].max()
    is_coarse = target[thick] > ANISOTROPIC * coarsest
    if is_coarse and ANISOTROPIC * sizes[thick] < sizes[others].min():
        target[thick] = max(np.percentile(spacings[:, thick], 10), coarsest)
    d, h, w = target.tolist()
    return d, h, w


def _normalisations(facts: Fingerprint) -> tuple[Normalisation, ...]:
    # where cropping takes away a quarter, the images were cut out of a background of zeros
    nonzero_only = float(np.median([case.kept for case in facts.cases])) < 0.75
    pairs = zip(facts.channels, facts.intensities, strict=True)
    return tuple(
        _ct(intensities) if name.lower() == "ct" else ZScoreNormalisation(nonzero_only=nonzero_only)
        for name, intensities in pairs
    )


def _ct(intensities: Intensities) -> CtNormalisation:
    return CtNormalisation(
        lower=intensities.percentile_00_5,
        upper=intensities.percentile_99_5,
        mean=intensities.mean,
        std=max(intensities.std, 1e-8),
    )


def _fitting(spacing: TripleF, median: Triple, max_stages: int, most_voxels: int) -> Topology:
    """nnU-Net's way from a patch of the volume of 256^3 down to one of at most `most_voxels`."""
    scale = 256 * prod(spacing) ** (1 / 3)
    d, h, w = (min(round(scale / mm), size) for mm, size in zip(spacing, median, strict=True))
    fitted = topology(spacing, (max(1, d), max(1, h), max(1, w)), max_stages)
    while prod(fitted.patch) > most_voxels:
        axis = int(
            np.argmax([size / whole for size, whole in zip(fitted.patch, median, strict=True)])
        )
        # two looks, as nnU-Net does: fewer pools may allow a finer step than the present divisor
        coarse = topology(spacing, _shorter(fitted.patch, axis, fitted.divisor[axis]), max_stages)
        smaller = topology(spacing, _shorter(fitted.patch, axis, coarse.divisor[axis]), max_stages)
        if prod(smaller.patch) >= prod(fitted.patch):
            break  # as small as two stages allow
        fitted = smaller
    return fitted


def _shorter(patch: Triple, axis: int, by: int) -> Triple:
    d, h, w = (max(1, n - by) if i == axis else n for i, n in enumerate(patch))
    return d, h, w
