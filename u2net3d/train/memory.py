"""Memory: what a run will need, and where it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from u2net3d.errors import TrainingError, is_out_of_memory
from u2net3d.prep.plan import expected_memory_bytes
from u2net3d.spec import ModelSpec
from u2net3d.train import checkpoint
from u2net3d.train.roles import Learner


def expected_gib(learners: Sequence[Learner], model: ModelSpec) -> float:
    """Peak memory of a run in GiB: that of its largest step."""
    return (
        max(
            expected_memory_bytes(
                each.spec.plan,
                model,
                channels=len(each.spec.channels),
                classes=len(each.spec.labels),
            )
            for each in learners
        )
        / 2**30
    )


@contextmanager
def named(folder: Path, work: str) -> Iterator[None]:
    """Turns memory that ran out inside, in `work`, into a TrainingError that says so."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        what = f"memory ran out in {work}"
        mend = f"end other programs or take a larger machine; {checkpoint.how_to_go_on(folder)}"
        raise TrainingError(folder, what, mend) from error
