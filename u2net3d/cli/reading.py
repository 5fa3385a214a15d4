"""The verbs that read: `evaluate`, `domains`, `verify`; none of them needs torch."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from u2net3d import files, store
from u2net3d.cli.say import say
from u2net3d.errors import CasesFailed, ModelError, UsageError
from u2net3d.spec import domain_name


def evaluate(
    pred: Path,
    ref: Path,
    domain: str | None,
    model: Path,
    tolerance_mm: float,
    json: Path | None,
    csv: Path | None,
) -> None:
    """Prints the table of a folder's scores, writes JSON and CSV where asked."""
    from u2net3d.evaluate.report import evaluate_folder

    name, labels, ignore = None, None, None
    if domain is not None:
        name = domain_name(domain)
        record = store.require_domain(store.read_domains(model), name, model)
        labels, ignore = record.said.domain.labels, record.said.domain.ignore_label
    for path, option in ((json, "--json"), (csv, "--csv")):
        if path is not None and path.is_dir():
            raise UsageError(option, f"{path} is a folder", "name a file in it")
        if path is not None:
            files.require_writable(path, option)
    report = evaluate_folder(pred, ref, labels, tolerance_mm, _counted, ignore=ignore, domain=name)
    _console().print(report.to_table())
    if json is not None:
        files.write_json(json, report.to_json())
    if csv is not None:
        files.write_text(csv, report.to_csv())
    if report.failures:
        for failure in report.failures:
            say(f"error: {failure.case}: {failure.why}")
        what = f"{len(report.failures)} cases could not be scored"
        raise CasesFailed(pred, what, "mend the files named above")
    if report.without_prediction:
        missing = len(report.without_prediction)
        what = f"{missing} of {missing + len(report.cases)} references have no prediction"
        raise CasesFailed(pred, what, "predict them too: the means above are over the others")


def domains(model: Path, json: bool) -> None:
    """Lists trunk and domains of a model."""
    manifest, records = store.read_manifest(model), store.read_domains(model)
    if json:
        rows = {name: _row(record, manifest) for name, record in records.items()}
        trunk = {
            "id": manifest.trunk_id,
            "weights": manifest.trunk_weights,
            "bytes": (model / manifest.trunk.file).stat().st_size,
            "sha256": manifest.trunk.sha256,
            **manifest.model.model_dump(mode="json"),
        }
        print(json_format.dumps({"trunk": trunk, "domains": rows}, indent=2))  # noqa: T201
        return
    table = Table(title=f"{model}: trunk {manifest.trunk_id[:12]}, {_trunk(manifest)}")
    for column in ("domain", "labels", "spacing mm (D×H×W)", "stages", "weights", "bytes", "Dice"):
        table.add_column(column)
    for name, record in records.items():
        row = _row(record, manifest)
        spacing = "×".join(f"{value:.3g}" for value in row["spacing_mm"])
        dice = ", ".join(
            f"{label} {value:.3f}" if value is not None else f"{label} -"
            for label, value in row["card"].get("validation_dice", {}).items()
        )
        cells = (row["stages"], f"{row['weights']:,} ({row['adapters']:,})", f"{row['bytes']:,}")
        table.add_row(name, ", ".join(row["labels"][1:]), spacing, *map(str, cells), dice)
    table.caption = "weights: the whole bank (without stem and heads); Dice: validation cases"
    _console().print(table)


def verify(model: Path) -> None:
    """Says that every hash is right; ModelError on the first difference, all of them printed."""
    differences = store.verify(model)
    for line in differences:
        say(line)
    if differences:
        what = f"{len(differences)} differences"
        raise ModelError(model, what, "restore the files named above from a copy")
    records = store.read_domains(model)
    unlisted = [name for name, record in records.items() if not record.listed]
    note = f"; put in by hand, on the same trunk: {', '.join(unlisted)}" if unlisted else ""
    print(f"{model}: trunk and {len(records)} domains are whole{note}")  # noqa: T201


def _row(record: store.DomainRecord, manifest: store.Manifest) -> dict[str, Any]:
    said, name = record.said, record.said.domain.name
    listed = manifest.domains.get(name)
    return {
        "labels": list(said.domain.labels),
        "channels": list(said.domain.channels),
        "spacing_mm": list(said.domain.plan.spacing_mm),
        "patch_size": list(said.domain.plan.patch_size),
        "stages": said.domain.plan.stages,
        "weights": said.weights,
        "adapters": said.adapters,
        "bytes": record.path.stat().st_size,
        "sha256": listed.sha256 if listed else files.sha256_file(record.path),
        "listed": record.listed,
        "card": said.card,
    }


def _trunk(manifest: store.Manifest) -> str:
    return f"{manifest.trunk_weights:,} shared weights in {manifest.model.stages} stages"


def _counted(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\rcase {done} of {total} ", file=sys.stderr, end=end)  # noqa: T201


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160)
