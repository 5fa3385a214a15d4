"""What a run leaves behind while it goes on: history.jsonl and progress.png."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from u2net3d import files
from u2net3d.evaluate.pictures import progress
from u2net3d.train.validate import DomainScore


class History:
    """One JSON line per step and per validated domain, appended as they happen."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "history.jsonl"
        self._picture = folder / "progress.png"

    def step(self, step: int, domain: str, loss: float, rate: float, seconds: float) -> None:
        """Adds a training step; `seconds` since the run began."""
        self._add(
            kind="train", step=step, domain=domain, loss=loss, learning_rate=rate, seconds=seconds
        )

    def skipped(self, step: int, domain: str, loss: float, rate: float, seconds: float) -> None:
        """Adds a step that moved nothing; a loss that is no number is null."""
        self._add(
            kind="skipped",
            step=step,
            domain=domain,
            loss=loss if math.isfinite(loss) else None,
            learning_rate=rate,
            seconds=seconds,
        )

    def returned(self, step: int, domain: str, to_step: int, scale: float, seconds: float) -> None:
        """Adds that after this step the weights of an earlier one were restored.

        scale: what the learning rate is multiplied with from now on.
        """
        self._add(
            kind="returned",
            step=step,
            domain=domain,
            to_step=to_step,
            scale=scale,
            seconds=seconds,
        )

    def validation(self, step: int, domain: str, score: DomainScore, seconds: float) -> None:
        """Adds a domain's validation."""
        self._add(
            kind="validation",
            step=step,
            seconds=seconds,
            domain=domain,
            dice=score.per_label(),
            mean_dice=score.mean,
            cases=len(score.cases),
        )

    def rows(self) -> list[dict[str, Any]]:
        """All lines so far; a last line that was cut off by a kill is left out."""
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text(errors="replace").splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def forget_after(self, step: int) -> None:
        """Drops what happened after the checkpoint that a run goes on from."""
        kept = [
            row
            for row in self.rows()
            if row["step"] < step or (row["kind"] == "validation" and row["step"] == step)
        ]
        files.write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))

    def draw(self) -> None:
        """Draws loss and validation Dice per domain."""
        files.write_bytes(self._picture, progress(self.rows()))

    def _add(self, **row: Any) -> None:
        files.append_line(self._path, json.dumps(row))
