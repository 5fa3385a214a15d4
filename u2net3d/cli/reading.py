"""The verbs that read: `evaluate`, `domains`, `verify`; none of them needs torch."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from u2net3d import files, store
from u2net3d.cli.places import to_read
from u2net3d.cli.say import say
from u2net3d.errors import CasesFailed, ModelError, UsageError
from u2net3d.spec import domain_name

if TYPE_CHECKING:
    from u2net3d.evaluate.report import Report


def evaluate(
    pred: Path | None,
    ref: Path | None,
    domain: str | None,
    named: Path | None,
    tolerance_mm: float,
    json: Path | None,
    csv: Path | None,
    metrics: str | None = None,
) -> None:
    """Prints the table of a folder's scores, writes JSON and CSV where asked."""
    from u2net3d.evaluate.report import evaluate_folder

    if pred is None or ref is None:
        mend = "give both folders, or --cross-validated with --domain"
        raise UsageError("--pred" if pred is None else "--ref", "is missing", mend)
    name, labels, ignore = None, None, None
    if domain is not None:
        name, model = domain_name(domain), to_read(named)
        part = store.models_in(model)[0]  # the folds of a model have the same domains
        record = store.require_domain(store.read_domains(part), name, model)
        labels, ignore = record.said.domain.labels, record.said.domain.ignore_label
    _require_tables(json, csv)
    more = _metrics(metrics)
    report = evaluate_folder(
        pred, ref, labels, tolerance_mm, _counted, ignore=ignore, domain=name, metrics=more
    )
    _tell(report, pred, json, csv)


def _metrics(text: str | None) -> list[str]:
    """`pixel,rand`. Raises UsageError for a word that is no metric."""
    from u2net3d.evaluate.objects import METRICS

    words = [word.strip() for word in text.split(",")] if text is not None else []
    for word in words:
        if word not in METRICS:
            raise UsageError("--metrics", f"there is no '{word}'", f"use {', '.join(METRICS)}")
    return list(dict.fromkeys(words))


def cross_validated(
    domain: str | None,
    data: Path,
    model: Path,
    device: str,
    tolerance_mm: float,
    json: Path | None,
    csv: Path | None,
) -> None:
    """Prints the table of all validation cases of a model's folds, as `evaluate` does."""
    from u2net3d.io.dataset import find_dataset
    from u2net3d.train import cross_validate

    if domain is None:
        raise UsageError("--domain", "is missing", "name the domain to cross-validate")
    _require_tables(json, csv)
    report = cross_validate.cross_validated(
        model,
        find_dataset(data, domain),
        device=device,
        tolerance_mm=tolerance_mm,
        progress=_counted,
    )
    _tell(report, model, json, csv)


def _require_tables(json: Path | None, csv: Path | None) -> None:
    for path, option in ((json, "--json"), (csv, "--csv")):
        if path is not None and path.is_dir():
            raise UsageError(option, f"{path} is a folder", "name a file in it")
        if path is not None:
            files.require_writable(path, option)


def _tell(report: Report, where: Path, json: Path | None, csv: Path | None) -> None:
    _console().print(report.to_table())
    if json is not None:
        files.write_json(json, report.to_json())
    if csv is not None:
        files.write_text(csv, report.to_csv())
    if report.failures:
        for failure in report.failures:
            say(f"error: {failure.case}: {failure.why}")
        what = f"{len(report.failures)} cases could not be scored"
        raise CasesFailed(where, what, "mend the files named above")
    if report.without_prediction:
        missing = len(report.without_prediction)
        what = f"{missing} of {missing + len(report.cases)} references have no prediction"
        raise CasesFailed(where, what, "predict them too: the means above are over the others")


def domains(model: Path, json: bool) -> None:
    """Lists trunk and domains of a model, or of each of its folds."""
    parts = store.models_in(model)
    if json:
        told = {part.name: _told(part) for part in parts}
        content = {"folds": told} if store.read_folds(model) else _told(model)
        print(json_format.dumps(content, indent=2))  # noqa: T201
        return
    for part in parts:
        _console().print(_table(part))


def verify(model: Path) -> None:
    """Says that every hash is right; ModelError on any difference, all of them printed."""
    faults, whole = 0, []
    for part in store.models_in(model):
        differences = store.verify(part)
        for line in differences:
            say(line if part == model else f"{part.name}: {line}")
        faults += len(differences)
        if not differences:
            whole.append(_whole(part))
    if faults:
        raise ModelError(
            model, f"{faults} differences", "restore the files named above from a copy"
        )
    for line in whole:
        print(line)  # noqa: T201


def _whole(model: Path) -> str:
    for line in store.remarks(model):
        say(line)
    records = store.read_domains(model)
    unlisted = [name for name, record in records.items() if not record.listed]
    note = f"; put in by hand, on the same trunk: {', '.join(unlisted)}" if unlisted else ""
    return f"{model}: trunk and {len(records)} domains are whole{note}"


def _told(model: Path) -> dict[str, Any]:
    manifest, records = store.read_manifest(model), store.read_domains(model)
    trunk = {
        "id": manifest.trunk_id,
        "weights": manifest.trunk_weights,
        "bytes": store.place_of(model, manifest.trunk).stat().st_size,
        "sha256": manifest.trunk.sha256,
        **manifest.model.model_dump(mode="json"),
    }
    return {
        "trunk": trunk,
        "domains": {name: _row(record, manifest) for name, record in records.items()},
    }


def _table(model: Path) -> Table:
    """A row per domain; names go in as `Text`: brackets in them are no markup."""
    manifest, records = store.read_manifest(model), store.read_domains(model)
    table = Table(title=Text(f"{model}: trunk {manifest.trunk_id[:12]}, {_trunk(manifest)}"))
    for column in ("domain", "labels", "spacing mm (D×H×W)", "stages", "weights", "bytes", "Dice"):
        table.add_column(column)
    for name, record in records.items():
        row = _row(record, manifest)
        spacing = "×".join(f"{value:.3g}" for value in row["spacing_mm"])
        dice = ", ".join(
            f"{label} {value:.3f}" if isinstance(value, float) else f"{label} -"
            for label, value in row["card"].get("validation_dice", {}).items()
        )
        cells = (row["stages"], f"{row['weights']:,} ({row['adapters']:,})", f"{row['bytes']:,}")
        labels = Text(", ".join(row["labels"][1:]))
        table.add_row(name, labels, spacing, *map(str, cells), Text(dice))
    table.caption = "weights: the whole bank (without stem and heads); Dice: validation cases"
    return table


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
