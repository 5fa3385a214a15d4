"""Memory: what a run will need, and where it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from u2net3d.errors import TrainingError, is_out_of_memory
from u2net3d.losses import dice_ce, supervised
from u2net3d.models import network
from u2net3d.models.network import BankShape, Network
from u2net3d.prep.plan import RUNTIME_BYTES, expected_memory_bytes
from u2net3d.spec import DomainSpec, ModelSpec
from u2net3d.train import checkpoint
from u2net3d.train.roles import Learner

IN_FLIGHT = 6  # tensors as large as the largest one, while gradients are computed


def expected_gib(learners: Sequence[Learner], model: ModelSpec) -> float:
    """Peak memory of a run in GiB: that of its largest step."""
    return max(_step_bytes(each.spec, model) for each in learners) / 2**30


def _step_bytes(spec: DomainSpec, model: ModelSpec) -> int:
    """By a formula for our own network; others run a step without memory, and what it keeps counts.

    Besides: what is in flight on the way back, convolutions' copies included (six times the largest
    tensor kept, by measuring), the weights with their gradients, the optimiser's two numbers, and
    three copies (guard and best state).
    """
    channels, classes = len(spec.channels), len(spec.labels)
    if model.family == "universal" and not model.options:
        return expected_memory_bytes(spec.plan, model, channels=channels, classes=classes)
    with torch.device("meta"):
        net = network(model)
        net.add_bank(spec.name, BankShape.of(spec))
        image = torch.empty(spec.plan.batch_size, channels, *spec.plan.seen)
    sizes = kept_bytes(net, spec.name, image)
    weights = 4 * sum(weight.numel() for weight in net.parameters())
    return RUNTIME_BYTES + sum(sizes) + IN_FLIGHT * max(sizes) + 6 * weights


def kept_bytes(net: Network, domain: str, image: Tensor) -> list[int]:
    """Of each tensor that a step on an image (B, C, D, H, W) keeps for its way back."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # views share a storage
        return tensor

    target = torch.zeros(image.shape[0], *image.shape[2:], dtype=torch.int64, device=image.device)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _ = supervised(dice_ce, net.train()(image, domain), target)
    return [tensor.untyped_storage().nbytes() for tensor in kept.values()]


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
