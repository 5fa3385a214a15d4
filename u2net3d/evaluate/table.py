"""A report as a table for the terminal."""

from __future__ import annotations

from math import nan

from rich.table import Table
from rich.text import Text

from u2net3d.evaluate.metrics import LabelScore
from u2net3d.evaluate.report import Means, Report, some


def table(report: Report) -> Table:
    """A row per case and label, then the mean per label and over labels; "–" where not defined.

    Names go in as `Text`: brackets in them are no markup.
    """
    title, caption = Text(_title(report)), Text(_caption(report))
    drawn = Table(title=title, caption=caption, caption_justify="left")
    for name in ("case", "label"):
        drawn.add_column(name, overflow="fold")
    nsd = f"NSD {report.tolerance_mm:g} mm"
    errors = [name.replace("_", " ") for name in report.errors]
    for name in ("Dice", "IoU", "HD95 mm", nsd, *errors, "predicted ml", "reference ml"):
        drawn.add_column(name, justify="right")
    drawn.add_column("outcome")
    for case in report.cases:
        drawn.add_section()
        for n, score in enumerate(case.scores):
            volumes = f"{score.predicted_ml:.2f}", f"{score.reference_ml:.2f}"
            remark = "" if score.outcome == "found" else score.outcome
            names = Text(case.case if n == 0 else ""), Text(score.label)
            drawn.add_row(*names, *_figures(score, report), *volumes, remark)
    drawn.add_section()
    for n, (label, means) in enumerate(report.label_means().items()):
        names = Text("mean" if n == 0 else ""), Text(label)
        drawn.add_row(*names, *_figures(means, report), "", "", _counts(means))
    if len(report.labels) > 1:
        drawn.add_section()
        over_labels = _figures(report.mean(), report)
        drawn.add_row("mean", "over labels", *over_labels, "", "", "", style="bold")
    return drawn


def _title(report: Report) -> str:
    cases = f"{len(report.cases)} case{'' if len(report.cases) == 1 else 's'}"
    return f"{report.domain}: {cases}" if report.domain else cases


def _caption(report: Report) -> str:
    """What the errors were measured on, and what did not enter the table, a line each."""
    lines = []
    if report.errors:
        used = f"{len(report.with_probabilities)} of {len(report.cases)} cases"
        lines.append(f"errors at the best threshold of the probabilities beside: {used}")
    lines += [f"failed: {failure.case}: {failure.why}" for failure in report.failures]
    for what, names in (
        ("without a prediction", report.without_prediction),
        ("without a reference", report.without_reference),
    ):
        if names:
            lines.append(f"{what}: {some(names)}")
    return "\n".join(lines)


def _figures(row: LabelScore | Means, report: Report) -> list[str]:
    texts = [f"{row.dice:.3f}", f"{row.iou:.3f}", f"{row.hd95_mm:.1f}", f"{row.nsd:.3f}"]
    texts += [_error(row.errors.get(name, nan)) for name in report.errors]
    return [text.replace("nan", "–") for text in texts]


def _error(value: float) -> str:
    """To five digits behind the point; what is not 0 does not look like it."""
    return "<0.00001" if 0 < value < 5e-6 else f"{value:.5f}"


def _counts(means: Means) -> str:
    parts = [f"{means.counted} counted"]
    for number, what in ((means.missed, "missed"), (means.false_alarms, "false alarms")):
        if number:
            parts.append(f"{number} {what}")
    return ", ".join(parts)
