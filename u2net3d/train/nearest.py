"""Which bank of a model fits a new domain best: the choice of `--init nearest`.

The criterion is linear separability on patients that were held out. From each bank a start is made
as `--init DOMAIN` makes it, with the same fresh weights for what the bank does not give, and
nothing is trained. On patches of half of the training patients a linear map from the network's last
features to the labels is found by least squares, every label weighing the same however few voxels
it has. On patches of the other half it explains some share of the labels' variance (R²: 1 all of
it, 0 no more than a constant). The halves then change sides, and the mean of both is the score; the
highest is taken, of equal ones the first in the model's order.

It is kin to the H-score (Bao et al., "An information-theoretic approach to transferability in task
transfer learning", ICIP 2019), which is such a regression without anything held out. Cost: a few
passes forward for each bank. Nothing is asked of the number of channels, the depth or the kernels:
what a bank does not hold in the right shape is fresh, and counts against it as it will in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from u2net3d import files
from u2net3d.io.dataset import Case
from u2net3d.models.network import Network
from u2net3d.models.start import with_new_bank
from u2net3d.patches.loader import Batch, DomainLoader
from u2net3d.spec import DomainSpec, Frozen

BATCHES = 4  # of each half
RIDGE = 1e-4  # of the features' mean square, so that features that say the same do no harm
LEAST = -1.0  # a map that is worse than this is as bad as one that gives no number
Halves = tuple[list[Batch], list[Batch]]


class Nearest(Frozen):
    """The bank that was taken, and the score of each by domain; fresh: that of a fresh bank."""

    taken: str
    explained: dict[str, float]
    fresh: float

    @property
    def said(self) -> dict[str, Any]:
        """As run.json and the domain's card have it."""
        return {"nearest": self.model_dump(mode="json")}

    def __str__(self) -> str:
        scores = ", ".join(f"{name} {score:.3f}" for name, score in self.explained.items())
        return (
            f"begins from {self.taken}, the nearest (share of the labels that last features "
            f"explain: {scores}; of a fresh bank {self.fresh:.3f})"
        )


def nearest(
    net: Network,
    spec: DomainSpec,
    specs: Mapping[str, DomainSpec],
    candidates: Sequence[str],
    halves: Halves,
    seed: int,
) -> Nearest:
    """The one of `candidates`, domains of `specs`, whose bank fits best by the criterion above.

    The network is left with a bank for `spec` that is of no use.
    """
    # as many random heads as there are features: together they hold what the features hold
    width = net.model.base_channels << net.model.design.first_stage
    named = ("background", *(f"feature {n}" for n in range(1, width)))
    probe = spec.model_copy(update={"labels": named})
    classes = len(spec.labels)

    def score(sources: Sequence[str]) -> float:
        with_new_bank(net, probe, specs, sources, seed, ends=True)
        one, other = (moments(net, spec.name, batches, classes) for batches in halves)
        return round((explained(one, other) + explained(other, one)) / 2, 5)

    found = {name: score([name]) for name in candidates}
    return Nearest(taken=max(found, key=found.__getitem__), explained=found, fresh=score([]))


def halves_of(loader: DomainLoader, cases: Iterable[Case]) -> Halves:
    """Some batches of one half of the patients and as many of the other, as training draws them.

    cases: those of the loader. A single patient is on both sides, with other patches on each.
    """
    patient = {case.name: case.patient for case in cases}
    names = sorted({*patient.values()}, key=files.sha256_json)
    one, other = names[::2], names[1::2] or names

    def batches(side: Sequence[str], first: int) -> list[Batch]:
        own = [case for case in loader.cases if patient[case.name] in side]
        half = DomainLoader(
            loader.spec, own, loader.seed, loader.foreground_share, elastic=loader.elastic
        )
        return [half.batch(step) for step in range(first, first + BATCHES)]

    return batches(one, 0), batches(other, BATCHES)


@torch.inference_mode()
def moments(net: Network, name: str, batches: Iterable[Batch], classes: int) -> Tensor:
    """(classes, F + 1, F + 1) float64: of every label the sum of x xᵀ over its voxels.

    x: the answer of the network at a voxel and a 1 behind it, so that the last column holds the sum
    of the answers, and its end the number of voxels.
    """
    device = next(net.parameters()).device
    net.eval()
    found: Tensor | None = None
    for batch in batches:
        answer = net(batch.image.to(device), name)[0]
        label = _middle(batch.label, answer.shape[2:]).to(device)
        for x, y in zip(answer.flatten(2), label.flatten(1), strict=True):
            rows = torch.cat([x, torch.ones_like(x[:1])]).T.double()
            own = [rows[y == value] for value in range(classes)]
            sums = torch.stack([of_label.T @ of_label for of_label in own])
            found = sums if found is None else found + sums
    assert found is not None
    return found.cpu()


def explained(fit: Tensor, held: Tensor) -> float:
    """R² on `held` of the linear map to the labels that is best on `fit`, both as of `moments`.

    With the same weight for every label that is there. Between 1 and LEAST; 0 where a side has but
    one label, so that there is nothing to tell apart.
    """
    if min(int((sums[:, -1, -1] > 0).sum()) for sums in (fit, held)) < 2:
        return 0.0
    weights, judged = _even(fit), _even(held)
    total = 1 - float((judged * held[:, -1, -1]).square().sum())
    square = (weights[:, None, None] * fit).sum(0)
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    ridge[-1, -1] = 0.0  # the constant is free
    to_labels = torch.linalg.solve(square + ridge, weights * fit[:, :, -1].T)  # (F + 1, classes)
    hit = (to_labels.T * held[:, :, -1]).sum(1)  # what each label gets at its own voxels, summed
    spread = torch.einsum("fk,lfg,gk->l", to_labels, held, to_labels)
    error = float((judged * (held[:, -1, -1] - 2 * hit + spread)).sum())
    return max(LEAST, 1 - error / total)  # also for what is no number


def _even(sums: Tensor) -> Tensor:
    """The weight of a voxel of each label, so that all labels that are there weigh the same."""
    voxels = sums[:, -1, -1]
    return torch.where(voxels > 0, 1 / (voxels * (voxels > 0).sum()).clamp(min=1), 0.0)


def _middle(label: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of a label (B, D, H, W), as large as the answer of a network without padding."""
    for axis, kept in enumerate(size, start=1):
        label = label.narrow(axis, (label.shape[axis] - kept) // 2, kept)
    return label
