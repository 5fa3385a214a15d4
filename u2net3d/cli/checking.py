"""The verb `check`: every fault of the data sets, and what training on them will need here."""

from __future__ import annotations

import json as json_format
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2net3d.cli.countdown import clock, countdown, size
from u2net3d.cli.say import say
from u2net3d.errors import DataError, UsageError
from u2net3d.io.dataset import list_domains, locate
from u2net3d.io.findings import Finding, warning
from u2net3d.io.stream import memory_bytes
from u2net3d.prep.cache import default_cache
from u2net3d.prep.check import Checked, check

if TYPE_CHECKING:
    from u2net3d.train.estimate import Estimate


def check_data(data: Path, domains: list[str] | None, cache: Path | None, json: bool) -> None:
    """Prints findings and a summary per data set; DataError, after all of them, for faults."""
    places = [locate(data, text) for text in _named(data, domains)]
    rows: dict[str, Any] = {}
    faults = warnings = 0
    for name, folder in places:
        checked = check(name, folder, countdown(f"{name}: case"))
        if not json:
            _print(*checked.findings)
        expected, tight = _expected(checked, cache or default_cache())
        findings = (*checked.findings, *tight)
        rows[name] = _row(checked, findings, expected)
        faults += checked.faults
        warnings += len(findings) - checked.faults
        if not json:
            _print(*tight, *_summary(name, checked, expected))
    if json:
        content = {"faults": faults, "warnings": warnings, "domains": rows}
        _print(json_format.dumps(content, indent=2))
    if faults:
        what = f"{_many(faults, 'fault')} in {_many(len(places), 'data set')}"
        raise DataError(data, what, "mend what the lines above name, then check again")


def _named(data: Path, domains: list[str] | None) -> list[str]:
    """The domains asked for, or all there are. Raises UsageError where there is none."""
    names = list_domains(data) if domains is None else domains
    if not names:
        mend = "put TaskNN_Name folders in it, or write --domains name=PATH"
        raise UsageError("--data", f"{data} holds no data set", mend)
    if not all(name.strip() for name in names):
        raise UsageError("--domains", f"'{','.join(names)}' holds an empty name", "write a,b,c")
    return list(names)


def _expected(checked: Checked, cache: Path) -> tuple[Estimate | None, list[Finding]]:
    """What the domain costs here, and whether this machine has it; None without a whole case."""
    if checked.training is None or checked.facts is None:
        return None, []
    say(f"{checked.dataset.domain}: measuring a training step")
    from u2net3d.infer.predict import choose_device
    from u2net3d.prep.plan import spec_of
    from u2net3d.spec import DEFAULT_PRESET, PRESETS
    from u2net3d.train.estimate import estimate

    dataset, stages = checked.dataset, PRESETS[DEFAULT_PRESET].stages
    spec = spec_of(dataset, checked.training, stages)
    judged = len(dataset.cases) - len(checked.training.cases)
    device = choose_device("auto")
    expected = estimate(spec, checked.training, checked.facts, judged, device)
    return expected, list(_tight(expected, cache))


def _tight(expected: Estimate, cache: Path) -> list[Finding]:
    """Warnings about memory and disk that this machine does not have."""
    found = []
    here = memory_bytes()
    needs = {
        "training": expected.training_memory_bytes if expected.device == "cpu" else 0,
        "predicting the largest case": expected.prediction_memory_bytes,
    }
    for what, count in needs.items():
        if count > here:
            text = f"{what} takes about {size(count)}, there are {size(here)}"
            found.append(warning("memory", text, "use a machine with more"))
    free = shutil.disk_usage(_existing(cache)).free
    if expected.cache_bytes > free:
        text = f"prepared cases take up to {size(expected.cache_bytes)}, {size(free)} are free"
        found.append(warning(cache, text, "make room, or name another place with --cache"))
    return found


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _row(
    checked: Checked, findings: tuple[Finding, ...], expected: Estimate | None
) -> dict[str, Any]:
    lines: dict[str, list[dict[str, str]]] = {"fault": [], "warning": []}
    for one in findings:
        lines[one.kind].append({"where": one.where, "what": one.what, "mend": one.mend})
    return {
        "cases": len(checked.dataset.cases),
        "without_label": len(checked.dataset.unlabelled),
        "faults": lines["fault"],
        "warnings": lines["warning"],
        "facts": checked.facts.model_dump(mode="json") if checked.facts else None,
        "expected": expected.model_dump(mode="json") if expected else None,
    }


def _summary(name: str, checked: Checked, expected: Estimate | None) -> list[str]:
    dataset, facts = checked.dataset, checked.facts
    more = f", {len(dataset.unlabelled)} without a label" if dataset.unlabelled else ""
    found = len(checked.findings) - checked.faults
    counts = f"{_many(checked.faults, 'fault')}, {_many(found, 'warning')}"
    lines = [f"{name}: {_many(len(dataset.cases), 'case')}{more}; {counts}"]
    if facts is not None:
        labels = ", ".join(f"{label.name} in {label.cases}" for label in facts.labels)
        lines.append(f"{name}: {', '.join(facts.channels)}; {labels} of {len(facts.cases)} cases")
    if expected is not None:
        lines += [
            f"{name}: training takes about {size(expected.training_memory_bytes)} of memory, up to "
            f"{size(expected.cache_bytes)} of disk and {clock(expected.training_seconds)} for "
            f"{expected.steps} steps of preset {expected.preset} on {expected.device}, "
            f"{clock(expected.validation_seconds)} for each of {expected.validations} validations",
            f"{name}: prediction takes up to {size(expected.prediction_memory_bytes)} of memory "
            f"and about {expected.prediction_seconds:.1f} s a volume, resampling not counted",
        ]
    return lines


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _print(*lines: object) -> None:
    for line in lines:
        print(line)  # noqa: T201
