"""The models of several folds as one: their probabilities are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from u2net3d import files
from u2net3d.errors import ModelError, UsageError
from u2net3d.infer.cleanup import keep_largest
from u2net3d.infer.predict import Answer, Model, Options, Origin
from u2net3d.infer.scratch import Room, Scratch
from u2net3d.io.dataset import require_channels
from u2net3d.volume import Volume


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
        super().__init__(first._net, specs, folder, origins, first.max_memory)
        self._folds = tuple(folds)

    def add(self, file: str | Path, *, domain: str | None = None) -> NoReturn:
        """Is refused: a bank belongs to the trunk of one fold."""
        where = f"{domain or Path(file).name}"
        raise UsageError(where, "belongs to one fold", "load that fold's folder, and add it there")

    def answer(
        self,
        image: Volume,
        path: Path,
        domain: str,
        options: Options,
        *,
        probabilities: bool = False,
    ) -> Answer:
        """The answer to an image (C, D, H, W); `path` names it in error messages."""
        spec = self.spec(domain)
        require_channels(image, path, spec.channels)
        count = len(self._folds)
        label = np.empty(image.shape, np.uint8)
        shape = (len(spec.labels) if probabilities else 0, *image.shape)
        mean = Scratch(shape, np.uint16, Room(self.max_memory).left())
        streams = [fold.slices(image, domain, options, count) for fold in self._folds]
        for z, slices in enumerate(zip(*streams, strict=True)):
            total = np.sum([shares for _, shares in slices], axis=0, dtype=np.uint32)
            label[z] = total.argmax(0)
            if probabilities:
                mean.array[:, z] = np.rint(total / count)
                mean.hand_back()
        if options.cleanup:
            labels = self.labels(domain)
            names = self.origin(domain).largest_component
            label = keep_largest(label, [labels.index(name) for name in names])
        return Answer(label, mean.array if probabilities else None)


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
    )
