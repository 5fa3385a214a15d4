"""Every fault of a data set at once, and what its cases will need: what `u2net3d check` does.

No plan of training follows from it, so unlike there every case is read, whatever side it is on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

from u2net3d.errors import DataError, UsageError
from u2net3d.io.dataset import Case, Dataset, split
from u2net3d.io.examine import examine
from u2net3d.io.findings import Finding, fault, kept, some, warning
from u2net3d.io.survey import survey
from u2net3d.prep.cache import MAX_POSITIONS
from u2net3d.prep.fingerprint import Fingerprint, Progress, Reading, reading, silent, summary
from u2net3d.prep.mirroring import misplaced
from u2net3d.prep.resample import resampled_shape
from u2net3d.spec import DomainSpec
from u2net3d.volume import Triple

READERS = 2  # cases in memory at a time; decompression and hashing run side by side


@dataclass(frozen=True)
class Checked:
    """A data set that was looked at.

    facts: of all cases without a fault; training: of those to learn from in fold 0. Both are None
    where no such case holds a label.
    """

    dataset: Dataset
    findings: tuple[Finding, ...]
    facts: Fingerprint | None
    training: Fingerprint | None

    @property
    def faults(self) -> int:
        """How many findings must be mended."""
        return sum(finding.kind == "fault" for finding in self.findings)


@dataclass(frozen=True, eq=False)
class _Looked:
    """What is kept of a case once its voxels are let go."""

    case: Case
    findings: tuple[Finding, ...]
    reading: Reading | None
    image_id: str | None


def check(domain: str, folder: Path, progress: Progress = silent) -> Checked:
    """Looks at all that `folder` says and holds; nothing that is wrong with it is raised.

    progress: called with (done, total) after each case. Cases without a label are looked at too.
    """
    seen = survey(domain, folder)
    dataset, findings = seen.dataset, [*seen.findings]
    cases = [*dataset.cases, *dataset.unlabelled]
    looked = []
    for done, one in enumerate(_look_at(dataset, cases), start=1):
        looked.append(one)
        findings.extend(one.findings)
        progress(done, len(cases))
    findings.extend(_duplicates(looked))
    readings = [one.reading for one in looked if one.reading is not None]
    facts = None
    if readings:
        with kept(findings):
            facts = summary(dataset, readings)
    if facts is not None:
        findings.extend(_absent_labels(dataset, facts))
        findings.extend(_misplaced_labels(dataset, facts))
    return Checked(dataset, tuple(findings), facts, _training(dataset, readings))


def prepared_shapes(facts: Fingerprint, spec: DomainSpec) -> list[Triple]:
    """(D, H, W) of each case on the plan's grid."""
    return [
        resampled_shape(case.shape, case.spacing_mm, spec.plan.spacing_mm) for case in facts.cases
    ]


def cache_bytes(facts: Fingerprint, spec: DomainSpec) -> int:
    """The most that the cache will hold of these cases: image, label, places of the labels."""
    places = MAX_POSITIONS * (len(spec.labels) - 1) * 3 * 4
    shapes = prepared_shapes(facts, spec)
    return sum(prod(shape) * (4 * len(spec.channels) + 2) + places for shape in shapes)


def _look_at(dataset: Dataset, cases: Sequence[Case]) -> Iterator[_Looked]:
    """The cases in their order, a few read at a time; none but these is in memory."""
    pool = ThreadPoolExecutor(READERS)
    try:
        waiting = [pool.submit(_look, dataset, case) for case in cases[:READERS]]
        for following in range(READERS, READERS + len(cases)):
            yield waiting.pop(0).result()
            if following < len(cases):
                waiting.append(pool.submit(_look, dataset, cases[following]))
    finally:
        pool.shutdown(cancel_futures=True)


def _look(dataset: Dataset, case: Case) -> _Looked:
    try:
        seen = examine(dataset, case)
        is_named = bool(dataset.channels and dataset.labels)
        facts = reading(case.name, seen.loaded, dataset) if seen.loaded and is_named else None
    except MemoryError:
        what = "does not fit into the memory of this machine"
        found = fault(case.images[0], what, "give it to a machine with more, or crop it")
        return _Looked(case, (found,), None, None)
    return _Looked(case, seen.findings, facts, seen.image_id)


def _duplicates(looked: Sequence[_Looked]) -> Iterator[Finding]:
    """Images of the same voxels under two names: a validation case that was learnt from."""
    first: dict[str, Case] = {}
    for one in looked:
        twin = first.setdefault(one.image_id, one.case) if one.image_id else one.case
        if twin is not one.case:
            what = f"has the same voxels as {twin.images[0].name}"
            yield warning(one.case.images[0], what, "keep one of the two")


def _absent_labels(dataset: Dataset, facts: Fingerprint) -> Iterator[Finding]:
    absent = [label.name for label in facts.labels if not label.cases]
    if absent:
        what = f"no case holds {some(absent)}"
        yield warning(dataset.root, what, "label it, or take it out of dataset.json")


def _misplaced_labels(dataset: Dataset, facts: Fingerprint) -> Iterator[Finding]:
    if what := misplaced(facts):
        mend = "turn the affines as the body lies, or images that lie rightly are not understood"
        yield warning(dataset.root, what, mend)


def _training(dataset: Dataset, readings: Sequence[Reading]) -> Fingerprint | None:
    """The facts that a training on fold 0 would plan by; all cases where there is no such fold."""
    try:
        names = {case.name for case in split(dataset, 0).training}
    except (DataError, UsageError):
        names = {case.name for case in dataset.cases}
    try:
        return summary(dataset, [one for one in readings if one.facts.name in names])
    except DataError:
        return None
