"""What a domain costs on this machine, from a trial step and a trial patch."""

from __future__ import annotations

import time
from math import prod

import numpy as np
import torch

from u2net3d.infer.engine import overlap_of, torch_engine
from u2net3d.infer.predict import Options
from u2net3d.infer.window import padding, tile_starts
from u2net3d.losses import LOSSES, supervised
from u2net3d.models import network
from u2net3d.models.network import BankShape, Network
from u2net3d.ops.memory import keep_freed_memory
from u2net3d.prep.check import cache_bytes, prepared_shapes
from u2net3d.prep.fingerprint import Fingerprint
from u2net3d.prep.plan import RUNTIME_BYTES, expected_memory_bytes
from u2net3d.spec import (
    DEFAULT_PRESET,
    PRESETS,
    STEPS_PER_DOMAIN,
    DomainSpec,
    Frozen,
    ModelSpec,
    TrainSpec,
)
from u2net3d.volume import Triple


class Estimate(Frozen):
    """What to expect of a domain alone, with the budget of the preset named.

    Memory in bytes: of a training step (without the prepared cases, which lie on the disk), and of
    predicting the largest case. cache_bytes: the most that its prepared training cases take there.
    Seconds: of one step, of all steps, of one validation of `validation_cases`, and of the network
    on a case of median size (resampling comes on top).
    """

    preset: str
    device: str
    training_memory_bytes: int
    prediction_memory_bytes: int
    cache_bytes: int
    steps: int
    step_seconds: float
    training_seconds: float
    validations: int
    validation_cases: int
    validation_seconds: float
    prediction_seconds: float


def estimate(
    spec: DomainSpec,
    training: Fingerprint,
    every: Fingerprint,
    validation_cases: int,
    device: torch.device,
) -> Estimate:
    """Of the default preset, alone planned for here: measures one step and one patch untrained.

    `every` holds all cases' facts.
    """
    keep_freed_memory()
    model, recipe = PRESETS[DEFAULT_PRESET], TrainSpec()
    net = network(model.model_copy(update={"stages": spec.plan.stages}))
    net.add_bank(spec.name, BankShape.of(spec))
    net.to(device)
    step_s = step_seconds(net, spec, recipe.loss, device)
    patch_s = patch_seconds(net, spec, device)
    tiles = float(np.median([tiles_of(shape, spec) for shape in prepared_shapes(every, spec)]))
    return Estimate(
        preset=model.preset,
        device=str(device),
        training_memory_bytes=expected_memory_bytes(
            spec.plan,
            model,
            channels=len(spec.channels),
            classes=len(spec.labels),
        ),
        prediction_memory_bytes=_prediction_bytes(spec, every, model),
        cache_bytes=cache_bytes(training, spec),
        steps=STEPS_PER_DOMAIN,
        step_seconds=step_s,
        training_seconds=step_s * STEPS_PER_DOMAIN,
        validations=recipe.validations,
        validation_cases=validation_cases,
        validation_seconds=patch_s * tiles * validation_cases,
        prediction_seconds=patch_s * tiles,
    )


def step_seconds(net: Network, spec: DomainSpec, loss: str, device: torch.device) -> float:
    """Seconds of one training step of a domain, on zeros; no weight is changed."""
    net.train()
    shape = (spec.plan.batch_size, len(spec.channels), *spec.plan.seen)
    before = {name: tensor.clone() for name, tensor in net.named_buffers()}
    image = torch.zeros(shape, device=device)
    target = torch.zeros(shape[0], *shape[2:], dtype=torch.int64, device=device)
    last = 0.0
    for _ in range(2):  # the first one pays for memory
        began = time.perf_counter()
        value = supervised(LOSSES[loss], net(image, spec.name), target)
        value.backward()  # type: ignore[no-untyped-call]
        value.item()  # waits for a GPU
        last = time.perf_counter() - began
    net.zero_grad(set_to_none=True)
    net.load_state_dict(before, strict=False)  # running statistics, where a norm has them
    return last


@torch.inference_mode()
def patch_seconds(net: Network, spec: DomainSpec, device: torch.device) -> float:
    """Seconds of one patch of a domain in prediction, on zeros."""
    net.eval()
    engine = torch_engine(net, spec.name, device)
    patch = np.zeros((1, len(spec.channels), *spec.plan.seen), np.float32)
    last = 0.0
    for _ in range(2):
        began = time.perf_counter()
        engine(patch)
        last = time.perf_counter() - began
    return last


def tiles_of(shape: Triple, spec: DomainSpec) -> int:
    """Patches of a prepared case, at the overlap of `predict` as it comes."""
    patch = spec.plan.patch_size
    around = padding(shape, patch)
    d, h, w = (n + before + after for n, (before, after) in zip(shape, around, strict=True))
    return len(tile_starts((d, h, w), patch, overlap_of(spec, Options().overlap)))


def _prediction_bytes(spec: DomainSpec, every: Fingerprint, model: ModelSpec) -> int:
    """Peak memory of predicting the largest case, in float32.

    The image as stored and normalised, the prepared one with its padded copies, logits, weights and
    the numbers of the largest logits (64 bit); of the patch on its way through the network its
    skips (two outputs a stage) and what the widest unit holds at once.
    """
    channels, classes = len(spec.channels), len(spec.labels)
    pairs = zip(every.cases, prepared_shapes(every, spec), strict=True)
    volumes = max(
        2 * channels * prod(case.shape) / case.kept + prod(shape) * (3 * channels + classes + 3)
        for case, shape in pairs
    )
    strides = spec.plan.strides[: model.design.first_stage + 1]
    voxels = prod(spec.plan.patch_size) // prod(n for stride in strides for n in stride)
    width = model.base_channels << model.design.first_stage
    patch = voxels * width * 12
    return RUNTIME_BYTES + 4 * round(volumes + patch)
