"""Overlay pictures of the worst, median and best validation case of each domain."""

from __future__ import annotations

import math

from u2net3d import files
from u2net3d.evaluate.pictures import overlay
from u2net3d.io.dataset import read_case
from u2net3d.models.network import Network
from u2net3d.train.roles import Learner, Result, Run
from u2net3d.train.validate import DomainScore, Judged, predicted


def draw_cases(net: Network, run: Run, result: Result) -> None:
    """Writes <run>/cases/<domain>_<worst|median|best>.png, by the best state's validation."""
    net.to(run.device)
    for learner in run.learners:
        score = result.scores.get(learner.spec.name)
        for rank, judged in _chosen(score).items() if score else ():
            path = run.folder / "cases" / f"{learner.spec.name}_{rank}.png"
            files.write_bytes(path, _picture(net, run, learner, rank, judged))


def _chosen(score: DomainScore) -> dict[str, Judged]:
    ranked = sorted(
        (judged for judged in score.cases if not math.isnan(judged.mean)),
        key=lambda judged: judged.mean,
    )
    if not ranked:
        return {}
    return {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}


def _picture(net: Network, run: Run, learner: Learner, rank: str, judged: Judged) -> bytes:
    image, label, reference = predicted(net, learner.spec, learner.dataset, judged.case, run.device)
    spacing = read_case(learner.dataset, judged.case).image.spacing_mm
    title = f"{learner.spec.name}, {rank} validation case: {judged.case.name}"
    return overlay(
        image[0],
        label,
        reference,
        spacing,
        title,
        learner.spec.labels,
        ignore=learner.spec.ignore_label,
    )
