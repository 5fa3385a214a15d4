"""Batches of a domain as pure functions of the step, several domains in turn, read ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from u2net3d.errors import DataError, U2Net3dError, is_out_of_memory
from u2net3d.patches.augment import augmented_patch, draw
from u2net3d.patches.border import border_weights
from u2net3d.patches.sample import case_of, choose_patch, foreground_count, generator
from u2net3d.prep.cache import PreparedCase
from u2net3d.spec import DomainSpec
from u2net3d.volume import Array


@dataclass(frozen=True)
class Batch:
    """image (B, C, D, H, W) float32 in channels_last_3d; label (B, D, H, W) int64, ignored -1.

    Both with the plan's margins around the patch.

    cases: the names of those that the samples were cut from, each once. border: the weights
    (B, D, H, W) float32 of `border_weights`, for the losses that take them.
    """

    image: Tensor
    label: Tensor
    domain: str
    cases: tuple[str, ...] = ()
    border: Tensor | None = None


class DomainLoader:
    """Training batches of one domain; `batch(step)` depends on seed, domain and step alone."""

    def __init__(
        self,
        spec: DomainSpec,
        cases: Sequence[PreparedCase],
        seed: int,
        foreground_share: float,
        *,
        border: bool = False,
        elastic: bool = False,
    ) -> None:
        """border: batches bring border weights; elastic: every patch is deformed as for U-Net.

        Raises DataError where there is no case to learn from.
        """
        if not cases:
            raise DataError(spec.name, "no case to learn from", "add labelled cases to imagesTr")
        self.spec = spec
        self.cases = tuple(cases)
        self.seed = seed
        self.foreground_share = foreground_share
        self.border, self.elastic = border, elastic

    def batch(self, step: int) -> Batch:
        """The batch of the domain's own step number, from 0 on, in any order and any thread.

        Raises DataError naming the case where a patch cannot be read.
        """
        plan = self.spec.plan
        shape = (plan.batch_size, len(self.spec.channels), *plan.seen)
        image = torch.empty(shape, memory_format=torch.channels_last_3d)
        label = torch.empty((plan.batch_size, *plan.seen), dtype=torch.int64)
        cases = [self._case(step, sample) for sample in range(plan.batch_size)]
        for sample, case in enumerate(cases):
            self._fill(image[sample].numpy(), label[sample].numpy(), case, step, sample)
        names = dict.fromkeys(case.name for case in cases)
        border = None
        if self.border:
            border = torch.from_numpy(np.stack([border_weights(one) for one in label.numpy()]))
        return Batch(image, label, self.spec.name, tuple(names), border)

    def _case(self, step: int, sample: int) -> PreparedCase:
        draw = step * self.spec.plan.batch_size + sample
        return self.cases[case_of(self.seed, self.spec.name, draw, len(self.cases))]

    def _fill(self, image: Array, label: Array, case: PreparedCase, step: int, sample: int) -> None:
        spec, size = self.spec, self.spec.plan.batch_size
        rng = generator(self.seed, spec.name, "patch", step, sample)
        foreground = sample >= size - foreground_count(size, self.foreground_share)
        try:
            d, h, w = choose_patch(case, spec.plan.patch_size, rng, foreground)
            start = (d - spec.plan.margin[0], h - spec.plan.margin[1], w - spec.plan.margin[2])
            drawn = draw(rng, spec, elastic=self.elastic)
            image[...], label[...] = augmented_patch(case, start, spec, drawn)
        except U2Net3dError:
            raise
        except Exception as error:
            raise _broken(f"{spec.name}, case {case.name}", error) from error


def _broken(where: str, error: Exception) -> DataError:
    """What is wrong with a case of which no patch could be cut, and the likely cause."""
    if is_out_of_memory(error):
        what = "memory ran out while a patch was cut from it"
        mend = "end other programs or take a larger machine; --resume goes on"
        return DataError(where, what, mend)
    reason = " ".join(str(error).split()) or type(error).__name__  # torch writes several lines
    what = f"no patch could be cut from the prepared case ({reason})"
    return DataError(where, what, "empty the cache, so that the case is prepared again")


def round_robin(
    loaders: Sequence[DomainLoader], first_step: int, last_step: int
) -> Iterator[Batch]:
    """The batches of steps first_step <= t < last_step: loader t % n gives its batch t // n."""
    for step in range(first_step, last_step):
        turn, which = divmod(step, len(loaders))
        yield loaders[which].batch(turn)


class Prefetcher:
    """Iterates over `batches` in their order, made ahead of time in one background thread.

    An error in the thread is raised here once the batches before it are through. Use it with
    `with`, or call `close()`: it stops the thread.
    """

    def __init__(self, batches: Iterable[Batch], ahead: int = 4) -> None:
        """ahead: how many batches may lie ready."""
        self._ready: queue.SimpleQueue[Batch | BaseException] = queue.SimpleQueue()
        self._room = threading.Semaphore(ahead)
        self._stop = threading.Event()
        self._over = False
        self._thread = threading.Thread(
            target=self._work, args=(iter(batches),), name="u2net3d-patches", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._over:
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, Batch):
            self._room.release()
            return item
        self._over = True
        self._thread.join()
        raise item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops the thread, at the latest when the batch in work is done; can be called twice."""
        self._over = True
        self._stop.set()
        self._room.release()
        self._thread.join()

    def _work(self, batches: Iterator[Batch]) -> None:
        end: BaseException = StopIteration()
        try:
            while self._room.acquire() and not self._stop.is_set():
                batch = next(batches, None)
                if batch is None:
                    break
                self._ready.put(batch)
        except BaseException as error:  # whatever it is belongs to the thread that trains
            end = error
        self._ready.put(end)
