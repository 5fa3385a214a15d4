"""What a run of scripts/bench found: rows, medians and ratios, as JSON.

docs/bench.md describes the JSON; a test holds the two together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

Section = Literal[
    "forward",
    "step",
    "memory",
    "operators",
    "domains",
    "predict",
    "export",
    "scaling",
    "start",
]
SCHEMA_VERSION = 1


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Said):
    """Median, least and greatest of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no values at all."""
        if not values:
            return None
        return cls(median=statistics.median(values), low=min(values), high=max(values))


class Agreement(_Said):
    """How two labels of the same logits agree, nnU-Net's and ours.

    widest_gap: at the voxels where they differ, how far the worse answer's logit lies below the
    largest one at most, both interpolated in float64.
    """

    voxels: int
    differing: int
    equal: float
    widest_gap: float


class Row(_Said):
    """One contender at one setting; docs/bench.md says what each field is."""

    section: Section
    setting: str
    contender: str
    family: Literal["ours", "nnunet", "dense", "dense-paper", "monai", "torch"]
    engine: Literal["torch", "openvino"]
    precision: Literal["fp32", "bf16", "fp16"]
    memory_format: Literal["contiguous", "channels-last"]
    compiled: bool
    allocator: Literal["as it comes", "thresholds raised"]
    as_users_run_it: bool
    best_form: bool
    weights: int | None
    unit: Literal["s", "GiB"]
    repeats: int
    values: tuple[float, ...]
    spread: Spread | None
    times_ours: Spread | None
    times_ours_alike: Spread | None
    agreement: Agreement | None
    megavoxels: float | None
    tiles: int | None
    least_bytes: int | None
    share_of_bandwidth: float | None
    macs: int | None
    share_of_product: float | None
    note: str


class Limits(_Said):
    """GB/s of main memory and 10⁹ multiply-adds a second of a matrix product, medians over the
    rounds; bandwidth is the greater of copy and triad."""

    copy_gb_s: float
    triad_gb_s: float
    bandwidth_gb_s: float
    product_gmac_s: float


class Scaling(_Said):
    """Straight lines by least squares through the logarithms of the medians of `scaling`.

    exponent: of the seconds in the voxels of the volume (1: a straight line through 0);
    tiles_exponent: in the tiles that the network saw.
    """

    exponent: float
    tiles_exponent: float


class Machine(_Said):
    """Where the run took place."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    gpu: str | None


class Report(_Said):
    """A whole run."""

    schema_version: Literal[1] = SCHEMA_VERSION
    date: str
    command: str
    machine: Machine
    versions: dict[str, str]
    native_kernels: str | None
    device: str
    threads: int
    rounds: int
    quick: bool
    seconds: float
    limits: Limits | None
    scaling: Scaling | None
    rows: tuple[Row, ...]


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> Spread | None:
    """How many times ours theirs is, round by round; rounds that one of them missed do not count.

    Contenders leave for good, so the values of both begin with the same round.
    """
    return Spread.of([a / b for a, b in zip(theirs, ours, strict=False)])


def share_of(limit_g_s: float, least: int, seconds: float) -> float:
    """Part of a limit (10⁹ a second) that an operator reached, which has `least` to do."""
    return least / seconds / 1e9 / limit_g_s


def compared(rows: Sequence[Row]) -> list[Row]:
    """The rows of one setting with their ratio to the first, and each family's best form marked.

    A family has a best form in an engine where it was measured in more than one; ours is no form of
    itself. The second ratio is to our first row of the same engine and precision.
    """
    if not rows:
        return []
    best = {id(row) for row in _best_forms(rows[1:])}
    alike = {(row.engine, row.precision): row for row in reversed(rows) if row.family == "ours"}
    found = []
    for row in rows:
        like = alike.get((row.engine, row.precision))
        changes = {
            "times_ours": ratios(row.values, rows[0].values),
            "times_ours_alike": ratios(row.values, like.values) if like else None,
            "best_form": id(row) in best,
        }
        found.append(row.model_copy(update=changes))
    return found


def scaling_of(rows: Sequence[Row]) -> Scaling | None:
    """How the cost grows with the volume; None of fewer than two sizes."""
    points = [
        (row.megavoxels, row.tiles, row.spread.median)
        for row in rows
        if row.section == "scaling" and row.spread and row.megavoxels and row.tiles
    ]
    if len({voxels for voxels, _, _ in points}) < 2:
        return None
    voxels, tiles, seconds = (
        [math.log(value) for value in each] for each in zip(*points, strict=True)
    )
    slope = statistics.linear_regression(voxels, seconds).slope
    if len(set(tiles)) < 2:
        return Scaling(exponent=slope, tiles_exponent=slope)
    by_tiles = statistics.linear_regression(tiles, seconds).slope
    return Scaling(exponent=slope, tiles_exponent=by_tiles)


def _best_forms(rows: Iterable[Row]) -> list[Row]:
    families: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.spread is not None and row.family != "ours":
            families.setdefault((row.family, row.engine), []).append(row)
    return [
        min(family, key=lambda row: row.spread.median if row.spread else 0.0)
        for family in families.values()
        if len(family) > 1
    ]
