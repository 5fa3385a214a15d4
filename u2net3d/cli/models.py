"""The verb `models`: what each preset costs for a patch of a domain."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from u2net3d import store
from u2net3d.cli.places import to_read
from u2net3d.errors import UsageError
from u2net3d.spec import PRESETS, DomainSpec, ModelSpec, Plan, ZScoreNormalisation, domain_name
from u2net3d.volume import Triple

if TYPE_CHECKING:
    from u2net3d.models.count import Cost
    from u2net3d.models.network import BankShape

ISOTROPIC_MM = (1.0, 1.0, 1.0)


def models(
    preset: str | None,
    patch: str,
    channels: int,
    classes: int,
    domain: str | None,
    named: Path | None,
    json: bool,
) -> None:
    """Prints a row per preset, or JSON."""
    from u2net3d.models.named import model_of

    asked = PRESETS if preset is None else {preset: model_of(preset)}
    size = _triple(patch)
    said = None if domain is None else _domain(domain_name(domain), to_read(named))
    rows = {}
    for name, spec in asked.items():
        rows[name] = _row(name, spec, *_asked(spec, size, channels, classes, said))
    if json:
        print(json_format.dumps(rows, indent=2))  # noqa: T201
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(_table(rows))


def _triple(text: str) -> Triple:
    """`128,128,128`. Raises UsageError."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UsageError("--patch", f"'{text}' is no patch", "write D,H,W in voxels: 96,128,128")
    d, h, w = map(int, parts)
    return d, h, w


def _domain(name: str, model: Path) -> DomainSpec:
    part = store.models_in(model)[0]  # the folds of a model have the same domains
    return store.require_domain(store.read_domains(part), name, model).said.domain


def _asked(
    spec: ModelSpec, patch: Triple, channels: int, classes: int, said: DomainSpec | None
) -> tuple[BankShape, Plan]:
    """The bank and the plan that a domain of a model, or one of cubic voxels, has under a preset.

    A patch grows to what the strides divide.
    """
    from u2net3d.models import FAMILIES
    from u2net3d.models.network import BankShape
    from u2net3d.prep.plan import topology

    if said is None:
        found = topology(ISOTROPIC_MM, patch, spec.stages)
        plan = Plan(
            spacing_mm=ISOTROPIC_MM,
            normalisation=(ZScoreNormalisation(),) * channels,
            patch_size=found.patch,
            batch_size=1,
            strides=found.strides,
            kernels=found.kernels,
        )
    else:
        channels, classes, plan = len(said.channels), len(said.labels), said.plan
        kept = {"strides": plan.strides[: spec.stages], "kernels": plan.kernels[: spec.stages]}
        plan = plan.model_copy(update=kept)
    margin = FAMILIES[spec.family].margin(spec, plan)
    shape = BankShape(
        channels=channels, classes=classes, strides=plan.strides, kernels=plan.kernels
    )
    return shape, plan.model_copy(update={"margin": margin})


def _row(preset: str, spec: ModelSpec, shape: BankShape, plan: Plan) -> dict[str, Any]:
    from u2net3d.models.count import cost

    try:
        found = cost(spec, shape, plan.seen)
    except ValueError as error:
        raise UsageError("--patch", f"{preset}: {error}", "choose a larger patch") from error
    return {
        "family": spec.family,
        "base_channels": spec.base_channels,
        **shape.model_dump(mode="json"),
        "stages": shape.stages,
        "patch": list(plan.patch_size),
        "seen": list(plan.seen),
        "trunk_weights": found.trunk_weights,
        "bank_weights": found.bank_weights,
        "adapter_weights": found.adapters,
        "multiply_adds": found.multiply_adds,
        "flops": 2 * found.multiply_adds,
        "multiply_adds_by_kind": dict(found.by_kind),
        "pointwise_share": found.pointwise_share,
        "separable": _separable(found),
    }


def _separable(found: Cost) -> dict[str, Any] | None:
    if found.separable is None:
        return None
    return {**asdict(found.separable), "ratio": found.separable.ratio}


def _table(rows: dict[str, dict[str, Any]]) -> Table:
    table = Table()
    for name in ("preset", "family", "patch"):
        table.add_column(name)
    numbers = (
        "stages",
        "channels",
        "trunk",
        "bank",
        "multiply-adds",
        "pointwise",
        "of dense",
        "1/N + 1/k",
    )
    for name in numbers:
        table.add_column(name, justify="right")
    for preset, row in rows.items():
        share = row["separable"]
        ratios = (f"{share['ratio']:.4f}", f"{share['analytic']:.4f}") if share else ("–", "–")
        table.add_row(
            preset,
            row["family"],
            "×".join(map(str, row["patch"])),
            str(row["stages"]),
            str(row["base_channels"]),
            f"{row['trunk_weights']:,}",
            f"{row['bank_weights']:,}",
            f"{row['multiply_adds'] / 1e9:,.2f} G",
            f"{row['pointwise_share']:.1%}",
            *ratios,
        )
    table.caption = (
        "channels: of the full resolution, twice as many at each halving; trunk and bank: weights;"
        " multiply-adds of one patch, half its FLOPs, and their pointwise share; of dense:"
        " separable units against dense convolutions, counted and analytic"
    )
    return table
