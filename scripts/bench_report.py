"""What a run of scripts/bench found: rows, medians and ratios, as a table and as JSON.

docs/bench.md describes the JSON; a test holds the two together.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.table import Table

Section = Literal["forward", "step", "memory", "operators", "domains"]
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


class Row(_Said):
    """One contender at one setting; docs/bench.md says what each field is."""

    section: Section
    setting: str
    contender: str
    family: Literal["ours", "nnunet", "dense", "dense-paper", "monai", "torch"]
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

    A family has a best form where it was measured in more than one; ours is no form of itself.
    """
    if not rows:
        return []
    ours = rows[0].values
    best = {id(row) for row in _best_forms(rows[1:])}
    return [
        row.model_copy(
            update={"times_ours": ratios(row.values, ours), "best_form": id(row) in best}
        )
        for row in rows
    ]


def _best_forms(rows: Iterable[Row]) -> list[Row]:
    families: dict[str, list[Row]] = {}
    for row in rows:
        if row.spread is not None and row.family != "ours":
            families.setdefault(row.family, []).append(row)
    return [
        min(family, key=lambda row: row.spread.median if row.spread else 0.0)
        for family in families.values()
        if len(family) > 1
    ]


def tables(report: Report) -> list[Table]:
    """One table per section and setting."""
    settings: dict[tuple[str, str], list[Row]] = {}
    for row in report.rows:
        title = row.setting if row.section != "operators" else ""
        settings.setdefault((row.section, title), []).append(row)
    return [_table(f"{a}: {b}" if b else a, rows) for (a, b), rows in settings.items()]


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    operators = rows[0].section == "operators"
    first = ("operator", "of") if operators else ("contender",)
    columns = (*first, "form", "median", "lowest to highest", "× ours", "note")
    for column in columns:
        table.add_column(column)
    for row in rows:
        named = (row.setting, row.contender) if operators else (row.contender,)
        table.add_row(*named, form(row), *_numbers(row), _remarks(row))
    return table


def form(row: Row) -> str:
    """`fp32, channels-last, eager, thresholds raised`."""
    compiled = "compiled" if row.compiled else "eager"
    allocator = f"allocator {row.allocator}"
    return ", ".join((row.precision, row.memory_format, compiled, allocator))


def _numbers(row: Row) -> tuple[str, str, str]:
    if row.spread is None:
        return "-", "-", "-"
    found, times = row.spread, row.times_ours
    ratio = f"{times.median:.2f} ({times.low:.2f} to {times.high:.2f})" if times else "-"
    return (
        f"{_short(found.median)} {row.unit}",
        f"{_short(found.low)} to {_short(found.high)}, n {len(row.values)}",
        ratio,
    )


def _short(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def _remarks(row: Row) -> str:
    said = [
        "as its users run it" if row.as_users_run_it else "",
        "best form" if row.best_form else "",
        f"{row.share_of_bandwidth:.0%} of the bandwidth" if row.share_of_bandwidth else "",
        f"{row.share_of_product:.0%} of the product" if row.share_of_product else "",
        row.note,
    ]
    return "; ".join(text for text in said if text)


def header(report: Report) -> str:
    """The lines above the tables: where, when and with what."""
    machine = report.machine
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    lines = [
        f"{report.date}, {machine.processor}, {machine.cores} cores, {machine.memory_gib:.1f} GiB, "
        f"{machine.system}" + (f", {machine.gpu}" if machine.gpu else ""),
        f"{versions}; native kernels: {report.native_kernels or 'none'}",
        f"{report.device}, {report.threads} threads, {report.rounds} rounds"
        + (", tiny shapes (--quick)" if report.quick else ""),
    ]
    if report.limits is not None:
        found = report.limits
        lines.append(
            f"memory: copy {found.copy_gb_s:.1f}, triad {found.triad_gb_s:.1f} GB/s; matrix "
            f"product {found.product_gmac_s:.1f} GMAC/s"
        )
    return "\n".join(lines)
