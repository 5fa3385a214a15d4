"""The files of one case in their places: which may be written, and in what order.

All are written beside their places first. Then old ones are removed, and the record, the
probabilities, the preview and, last, the label are renamed into place. So a label that is there is
whole and its record is beside it, whenever a run is killed; a case without its label is done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from u2net3d import files
from u2net3d.errors import DiskError
from u2net3d.infer.jobs import Job
from u2net3d.infer.locks import Lock
from u2net3d.infer.sidecar import Record, write_record

Writer = Callable[[Path], None]  # makes the file at a path


def hindrance(
    job: Job, record: Record | None, expected: Record, kinds: Sequence[str]
) -> tuple[Path, str] | None:
    """The first file that stands where a result of `kinds` belongs and is not the same, and why.

    record: what the sidecar says; expected: what it would say. None where nothing is in the way.
    """
    if record is None and job.sidecar.exists():
        return job.sidecar, "is no record of a label"
    for kind in kinds:
        path = job.place(kind)
        if not path.exists():
            continue
        if record is None or kind not in record.outputs:
            return path, "has no record beside it that names it"
        if files.sha256_file(path) != record.outputs[kind]:
            return path, "was changed since it was written"
    difference = record.difference(expected) if record else None
    return (job.output, f"was made {difference}") if difference and job.output.exists() else None


def put(job: Job, record: Record, writers: Mapping[str, Writer], lock: Lock) -> None:
    """Makes the files of `writers` and their record, all of them or none.

    A label comes first in `writers` and so last into its place. Raises DataError where the lock was
    lost, and what the writers raise; nothing is changed then.
    """
    with ExitStack() as stack:
        made = {}
        for kind, write in writers.items():
            temporary = stack.enter_context(files.replacing(job.place(kind)))
            try:
                write(temporary)
            except DiskError as error:  # it names the file beside the place
                raise DiskError(job.place(kind), error.what, error.mend) from error
            made[kind] = files.sha256_file(temporary)
        whole = record.model_copy(update={"outputs": {**record.outputs, **made}})
        write_record(stack.enter_context(files.replacing(job.sidecar)), whole)
        lock.require_held()
        for kind in writers:  # never an old result beside the new record
            job.place(kind).resolve().unlink(missing_ok=True)


def remove_stale(job: Job, before: Record | None, kinds: Sequence[str]) -> None:
    """Removes what an earlier run made beside a label that is replaced, unless it is made anew."""
    for kind, sha256 in (before.outputs if before else {}).items():
        path = job.place(kind)
        if kind not in kinds and path.is_file() and files.sha256_file(path) == sha256:
            path.unlink()
