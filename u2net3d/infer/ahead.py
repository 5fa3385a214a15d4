"""A case read while the network is at the one before, and written while it is at the one after.

One thread reads and one writes, each at one case, so at most three cases are in memory. What is
read ahead is a help and no promise: its reader takes no lock and raises nothing; who wants it and
does not get it reads for himself, and meets the error there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

Job = TypeVar("Job")
Read = TypeVar("Read")
Work = TypeVar("Work")
Done = TypeVar("Done")


class Conveyor(Generic[Job, Read, Work, Done]):
    """What is done to each job: `read` and `finish` in threads, `work` where it is called.

    work: gets the job and what was read of it, or None; gives what is left to `finish`, or None for
    a job that is not to be done now. drop: gives up what `work` gave. finish and work raise nothing
    but what ends everything.
    """

    def __init__(
        self,
        read: Callable[[Job], Read | None],
        work: Callable[[Job, Read | None], Work | None],
        finish: Callable[[Work], Done],
        drop: Callable[[Work], None],
    ) -> None:
        self._read, self._work, self._finish, self._drop = read, work, finish, drop

    def run(
        self, jobs: Sequence[Job], halted: Callable[[], bool]
    ) -> Generator[Done | Job, None, None]:
        """In order: what `finish` gave for a job, or the job itself where it is not to be done now.

        halted: asked before each; True ends the iteration when what was begun is finished. One job
        alone needs no threads: a signal stops it wherever it is.
        """
        if len(jobs) > 1:
            yield from self._run(jobs, halted)
        elif jobs and not halted():
            work = self._work(jobs[0], None)
            yield jobs[0] if work is None else self._finish(work)

    def _run(self, jobs: Sequence[Job], halted: Callable[[], bool]) -> Iterator[Done | Job]:
        reader, writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        ahead: Future[Read | None] | None = None
        behind: Future[Done] | None = None
        work: Work | None = None
        try:
            for job, following in zip(jobs, [*jobs[1:], None], strict=True):
                if halted():
                    break
                read, ahead = _result(ahead), None
                if following is not None:
                    ahead = reader.submit(self._read, following)
                work = self._work(job, read)
                del read  # its memory is the next one's
                if behind is not None:
                    last, behind = behind, None
                    yield last.result()
                if work is None:
                    yield job
                    continue
                behind, work = writer.submit(self._finish, work), None
            if behind is not None:
                last, behind = behind, None
                yield last.result()
        finally:
            if work is not None:
                self._drop(work)
            reader.shutdown(wait=False, cancel_futures=True)
            writer.shutdown()  # what is being written is written whole


def _result(future: Future[Read | None] | None) -> Read | None:
    """What was read ahead; None where nothing was, or that failed."""
    if future is not None:
        with suppress(Exception):
            return future.result()
    return None
