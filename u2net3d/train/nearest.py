"""Which bank of a model fits a new domain best: the choice of `--init nearest`.

The criterion is linear separability on patients that were held out. From each bank a start is made
as `--init DOMAIN` makes it, and what it gives stays as it is. Where it leaves something before the
heads fresh (a stem of other channels, kernels it does not hold), that and the heads learn for
`STEPS` steps on patches of one half of the training patients: through a random stem no bank shows
what it can do. Then a linear map from what the heads read to the labels is found on these patches
by least squares, every label weighing the same however few voxels it has. The score is the share
of the labels' variance that it explains on patches of the other half (R²: 1 all of it, 0 no more
than a constant). The highest is taken, of equal ones the first in the model's order.

It is kin to the H-score (Bao et al., "An information-theoretic approach to transferability in task
transfer learning", ICIP 2019), such a regression without anything held out. Every start has the
same patches, and the same fresh weights where it has any, by the seed. Nothing is asked of the
number of channels, the depth or the kernels of a bank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from u2net3d import files
from u2net3d.io.dataset import Case
from u2net3d.losses import LOSSES, supervised
from u2net3d.losses.supervision import middle, on_grid
from u2net3d.models.blocks import value
from u2net3d.models.network import Network
from u2net3d.models.start import with_new_bank
from u2net3d.models.units import Head
from u2net3d.patches.loader import Batch, DomainLoader
from u2net3d.spec import BANK_LEARNING_RATE, DomainSpec, Frozen

BATCHES = 3  # of each half
STEPS = 6
RIDGE = 1e-4  # of the features' mean square, so that features that say the same do no harm
LEAST = -1.0  # a map that is worse than this is as bad as one that gives no number
Halves = tuple[list[Batch], list[Batch]]


class Nearest(Frozen):
    """The bank that was taken, and the score of each by domain."""

    taken: str
    explained: dict[str, float]

    @property
    def said(self) -> dict[str, Any]:
        """As run.json and the domain's card have it."""
        return {"nearest": self.model_dump(mode="json")}

    def __str__(self) -> str:
        scores = ", ".join(f"{name} {score:.3f}" for name, score in self.explained.items())
        return f"begins from {self.taken}, the nearest (of the labels explained: {scores})"


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
    fit, held = halves
    with_new_bank(net, spec, specs, [], seed, ends=True)
    blank = {name: weight.clone() for name, weight in net.bank(spec.name).named_parameters()}
    found = {}
    for name in candidates:
        with_new_bank(net, spec, specs, [name], seed, ends=True)
        _learn_what_is_fresh(net, spec.name, blank, fit)
        both = [moments(net, spec.name, batches, len(spec.labels)) for batches in (fit, held)]
        found[name] = round(explained(*both), 5)
    return Nearest(taken=max(found, key=found.__getitem__), explained=found)


def _learn_what_is_fresh(
    net: Network, name: str, blank: Mapping[str, Tensor], batches: Sequence[Batch]
) -> None:
    """Some steps of what is as in a fresh bank (`blank`), and of the heads; of heads alone none."""
    bank = net.bank(name)
    heads = {id(weight) for head in _heads(net, name) for weight in head.parameters()}
    fresh = [w for part, w in bank.named_parameters() if torch.equal(w, blank[part])]
    if all(id(weight) in heads for weight in fresh):
        return
    learning = [w for w in bank.parameters() if id(w) in heads or any(w is one for one in fresh)]
    bank.requires_grad_(False)
    for weight in learning:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(learning, BANK_LEARNING_RATE)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, STEPS)
    device = next(bank.parameters()).device
    net.train()
    for step in range(STEPS):
        batch = batches[step % len(batches)]
        optimiser.zero_grad(set_to_none=True)
        outputs = net(batch.image.to(device), name)
        loss = supervised(LOSSES["dice_ce"], outputs, batch.label.to(device), balance=1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        falling.step()


def _heads(net: Network, name: str) -> list[Head]:
    return [part for part in net.bank(name).modules() if isinstance(part, Head)]


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

    x: what the heads that give the answer read, and a 1 behind it, so that the last column holds
    the sum of the features, and its end the number of voxels. Where they read a coarser grid than
    the label's, that one counts.
    """
    device = next(net.parameters()).device
    found = torch.zeros(0, device=device)
    for batch in batches:
        features, answered = _read(net, name, batch.image.to(device))
        label = on_grid(middle(batch.label, answered), features.shape[2:]).to(device)
        rows = torch.cat([features, torch.ones_like(features[:, :1])], 1).movedim(1, -1).double()
        own = [rows[label == k] for k in range(classes)]
        sums = torch.stack([of_label.T @ of_label for of_label in own])
        found = found + sums if len(found) else sums
    return found.cpu()


def _read(net: Network, name: str, image: Tensor) -> tuple[Tensor, Sequence[int]]:
    """What the heads that give the answer read (B, F, d, h, w), on the finest of their grids.

    And the grid (D, H, W) of the answer.
    """
    read: list[Tensor] = []

    def listen(_: nn.Module, given: tuple[Any, ...]) -> None:
        read.append(value(given[0]))

    hooks = [head.register_forward_pre_hook(listen) for head in _heads(net, name)]
    try:
        answered = net.eval()(image, name)[0].shape[2:]
    finally:
        for hook in hooks:
            hook.remove()
    grid = max((x.shape[2:] for x in read), key=math.prod)
    return torch.cat([_repeated(x, grid) for x in read], 1), answered


def _repeated(x: Tensor, grid: Sequence[int]) -> Tensor:
    """On a finer grid (D, H, W), each voxel as often as it takes; what lies beyond is cropped."""
    for axis, size in enumerate(grid, start=2):
        x = x.repeat_interleave(-(-size // x.shape[axis]), axis).narrow(axis, 0, size)
    return x


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
