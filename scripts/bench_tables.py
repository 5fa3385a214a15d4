"""A report of scripts/bench as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from bench_report import Agreement, Report, Row, Spread
from rich.table import Table


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
    columns = (*first, "form", "median", "lowest to highest", "× ours", "× ours alike", "note")
    for column in columns:
        table.add_column(column)
    for row in rows:
        named = (row.setting, row.contender) if operators else (row.contender,)
        table.add_row(*named, form(row), *_numbers(row), _remarks(row))
    return table


def form(row: Row) -> str:
    """`fp32, channels-last, eager, thresholds raised`, or `fp32, OpenVINO`."""
    if row.engine == "openvino":
        return f"{row.precision}, OpenVINO"
    compiled = "compiled" if row.compiled else "eager"
    allocator = f"allocator {row.allocator}"
    return ", ".join((row.precision, row.memory_format, compiled, allocator))


def _numbers(row: Row) -> tuple[str, str, str, str]:
    if row.spread is None:
        return "-", "-", "-", "-"
    found = row.spread
    return (
        f"{_short(found.median)} {row.unit}",
        f"{_short(found.low)} to {_short(found.high)}, n {len(row.values)}",
        _ratio(row.times_ours),
        _ratio(row.times_ours_alike),
    )


def _ratio(times: Spread | None) -> str:
    return f"{times.median:.2f} ({times.low:.2f} to {times.high:.2f})" if times else "-"


def _short(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def _remarks(row: Row) -> str:
    said = [
        "as its users run it" if row.as_users_run_it else "",
        "best form" if row.best_form else "",
        f"{row.share_of_bandwidth:.0%} of the bandwidth" if row.share_of_bandwidth else "",
        f"{row.share_of_product:.0%} of the product" if row.share_of_product else "",
        _agrees(row.agreement) if row.agreement else "",
        _per_megavoxel(row),
        row.note,
    ]
    return "; ".join(text for text in said if text)


def _agrees(found: Agreement) -> str:
    same = f"{found.equal:.5%} of {found.voxels} voxels as ours"
    if not found.differing:
        return same
    return f"{same}; the other {found.differing} within {found.widest_gap:.1e} of the largest logit"


def _per_megavoxel(row: Row) -> str:
    if row.spread is None or not row.megavoxels:
        return ""
    said = f"{_short(row.spread.median / row.megavoxels)} s a megavoxel"
    return f"{said}, {row.tiles} tiles" if row.tiles else said


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
    if report.scaling is not None:
        grown = report.scaling
        lines.append(
            f"scaling: seconds grow as voxels^{grown.exponent:.3f}, "
            f"tiles^{grown.tiles_exponent:.3f}"
        )
    return "\n".join(lines)
