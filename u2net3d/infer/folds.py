"""The models of several folds as one: their probabilities are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from u2net3d import files
from u2net3d.errors import ModelError, UsageError
from u2net3d.infer.predict import DEFAULT, Model, Options, Origin
from u2net3d.infer.restore import Slices
from u2net3d.volume import Array, TripleF, Volume


class FoldedModel(Model):
    """Answers with the mean of its folds' probabilities on the image's own grid.

    Not of their logits: every fold has a plan of its own, and with it a grid of its own. Labels are
    cleaned up where every fold's validation says that it helps.
    """

    def __init__(self, folds: Sequence[Model], folder: Path) -> None:
        first = folds[0]
        for other in folds[1:]:
            for name in first.domains:
                if name not in other.domains or other.labels(name) != first.labels(name):
                    what = f"has another {name} than {first.folder.name}, or none"
                    raise ModelError(other.folder, what, "add it to every fold with --resume")
        specs = {name: first.spec(name) for name in first.domains}
        origins = {name: _joined([fold.origin(name) for fold in folds]) for name in specs}
        super().__init__(first._engines, specs, folder, origins, first.max_memory)
        self._folds = tuple(folds)

    def engine(self, domain: str, options: Options = DEFAULT) -> str:
        """Which engines answer for a domain in the folds, each named once."""
        return ", ".join(sorted({fold.engine(domain, options) for fold in self._folds}))

    def packages(self, domain: str, options: Options = DEFAULT) -> tuple[str, ...]:
        """Those of the folds, and torch, which makes probabilities of the logits."""
        every = (fold.packages(domain, options) for fold in self._folds)
        return tuple(sorted({"torch"}.union(*every)))

    def engine_note(self, domain: str, options: Options = DEFAULT) -> str | None:
        """Of the folds, each said once."""
        notes = [fold.engine_note(domain, options) for fold in self._folds]
        return "; ".join(sorted({note for note in notes if note})) or None

    def add(self, file: str | Path, *, domain: str | None = None) -> NoReturn:
        """Is refused: a bank belongs to the trunk of one fold."""
        where = f"{domain or Path(file).name}"
        raise UsageError(where, "belongs to one fold", "load that fold's folder, and add it there")

    def slices(self, image: Volume, domain: str, options: Options, streams: int = 1) -> Slices:
        """As of one model: mean probabilities, and the first of their largest as label."""
        count = len(self._folds)
        found = [fold.slices(image, domain, options, streams * count) for fold in self._folds]
        for pairs in zip(*found, strict=True):
            total = np.sum([shares for _, shares in pairs], axis=0, dtype=np.uint32)
            yield total.argmax(0).astype(np.uint8), np.rint(total / count).astype(np.uint16)

    def _label(self, image: Volume, domain: str, options: Options) -> Array:
        return np.stack([label for label, _ in self.slices(image, domain, options)])


def _joined(origins: Sequence[Origin]) -> Origin:
    """One origin that changes when any of the folds does."""
    everywhere = [
        name
        for name in origins[0].largest_component
        if all(name in origin.largest_component for origin in origins)
    ]
    return Origin(
        files.sha256_json([origin.trunk_id for origin in origins]),
        files.sha256_json([origin.domain_sha256 for origin in origins]),
        tuple(everywhere),
        largest_image_mm=_largest(origins),
    )


def _largest(origins: Sequence[Origin]) -> TripleF | None:
    """Of all folds together; None where one does not know."""
    known = [origin.largest_image_mm for origin in origins]
    if any(each is None for each in known):
        return None
    depth, height, width = np.max(np.array(known, float), axis=0).tolist()
    return depth, height, width
