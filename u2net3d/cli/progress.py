"""Progress on stderr: live bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from u2net3d.cli.countdown import clock
from u2net3d.cli.say import say
from u2net3d.train.roles import Listener
from u2net3d.train.schedule import Progress
from u2net3d.train.validate import DomainScore

LINE_EVERY_S = 30.0
_SMOOTHING = 0.05  # share of the newest loss in the one shown


def show_prepared(domain: str, what: str, done: int, total: int) -> None:
    """Counts cases: measured for the plan, then prepared. On a terminal on one line."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{domain}: {done} of {total} cases {what} ", file=sys.stderr, end=end)  # noqa: T201
    elif done == total:
        say(f"{domain}: {total} cases {what}")


@contextmanager
def listener(domains: Sequence[str]) -> Iterator[Listener]:
    """Somebody who shows how a run goes on."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    bars = Bars(*columns, console=Console(stderr=True))
    tasks = {name: bars.add_task(name, total=1.0, state="") for name in domains}
    try:
        yield LiveBars(bars, tasks)
    finally:
        bars.stop()


class _Watch:
    """What both kinds of listener keep: smoothed losses, steps and Dice per domain."""

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}
        self.steps: dict[str, int] = {}
        self.dice: dict[str, float] = {}

    def add(self, domain: str, loss: float) -> None:
        """Takes in the loss of one step."""
        before = self.losses.get(domain, loss)
        self.losses[domain] = (1 - _SMOOTHING) * before + _SMOOTHING * loss
        self.steps[domain] = self.steps.get(domain, 0) + 1

    def state(self, domain: str, at: Progress, share: float) -> str:
        """What there is to say about a domain, with the time left."""
        left = at.elapsed_s * (1 - share) / share if share > 0 else 0.0
        dice = f", Dice {self.dice[domain]:.3f}" if domain in self.dice else ""
        loss = f"loss {self.losses[domain]:+.3f}" if domain in self.losses else "waiting"
        steps = self.steps.get(domain, 0)
        return f"{loss}{dice}, {steps} steps, {clock(left)} left"


class Lines(_Watch):
    """A line per domain twice a minute, and one per validation."""

    def __init__(self) -> None:
        super().__init__()
        self._said = time.perf_counter()

    def stepped(self, at: Progress, share: float, domain: str, loss: float) -> None:
        """See `Listener`."""
        self.add(domain, loss)
        if time.perf_counter() - self._said >= LINE_EVERY_S:
            self._said = time.perf_counter()
            for name in self.losses:
                say(f"{share:4.0%}  {name}: {self.state(name, at, share)}")

    def validated(self, at: Progress, scores: dict[str, DomainScore], best: bool) -> None:
        """See `Listener`."""
        self.dice = {name: score.mean for name, score in scores.items()}
        values = ", ".join(f"{name} {value:.3f}" for name, value in self.dice.items())
        mark = " (best so far)" if best else ""
        say(f"step {at.step}, {clock(at.elapsed_s)}: validation Dice {values or 'none'}{mark}")

    def told(self, text: str) -> None:
        """See `Listener`."""
        say(text)


class LiveBars(_Watch):
    """One bar per domain."""

    def __init__(self, bars: Any, tasks: dict[str, Any]) -> None:
        super().__init__()
        self._bars, self._tasks = bars, tasks

    def stepped(self, at: Progress, share: float, domain: str, loss: float) -> None:
        """See `Listener`."""
        self._bars.start()  # not before: cases are counted on the same lines
        self.add(domain, loss)
        for name, task in self._tasks.items():
            self._bars.update(task, completed=share, state=self.state(name, at, share))

    def validated(self, at: Progress, scores: dict[str, DomainScore], best: bool) -> None:
        """See `Listener`."""
        self.dice = {name: score.mean for name, score in scores.items()}
        values = ", ".join(f"{name} {value:.3f}" for name, value in self.dice.items())
        mark = " (best so far)" if best else ""
        self._bars.console.print(f"step {at.step}: validation Dice {values or 'none'}{mark}")

    def told(self, text: str) -> None:
        """See `Listener`."""
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
