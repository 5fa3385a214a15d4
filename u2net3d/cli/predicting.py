"""The verb `predict`."""

from __future__ import annotations

from pathlib import Path

from u2net3d import files, store
from u2net3d.cli.say import say
from u2net3d.errors import CasesFailed
from u2net3d.infer.predict import Options, jobs_of, load, run_jobs
from u2net3d.spec import domain_name


def predict(
    images: list[Path],
    output: Path,
    domain: str,
    model: Path,
    device: str,
    overlap: float,
    tta: bool,
) -> None:
    """Segments one case or a folder; CasesFailed when some of several failed."""
    name = domain_name(domain)
    record = store.require_domain(store.read_domains(model), name, model)
    jobs = jobs_of(images, output, len(record.said.domain.channels))
    files.require_writable(output, "-o")
    loaded = load(model, domains=[name], device=device)
    failed = 0
    for done, outcome in enumerate(run_jobs(loaded, jobs, name, Options(overlap, tta)), start=1):
        if outcome.error and len(jobs) == 1:
            raise outcome.error
        if outcome.error:
            failed += 1
            say(f"error: {outcome.error}")
        else:
            say(f"{done} of {len(jobs)}: {outcome.job.output} in {outcome.seconds:.1f} s")
    if failed:
        what = f"{failed} of {len(jobs)} cases failed"
        raise CasesFailed(output, what, "mend the files named above; the other labels are written")
