"""How far the answers of a bank in half precision are from those of the bank itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from u2net3d import store
from u2net3d.evaluate.metrics import dice
from u2net3d.infer.predict import Options, logits_of
from u2net3d.infer.restore import restore
from u2net3d.io import read_image
from u2net3d.io.dataset import require_channels
from u2net3d.store.domains import halved


def parity(folder: Path, name: str, images: Sequence[Path]) -> dict[str, Any]:
    """Both banks on one image: the largest difference of logits, and how the labels differ.

    images: one file, or one per channel. equal_labels: share of all voxels with the same label;
    dice: per label, between the two answers, None where neither has it.
    """
    net, _, specs = store.load(folder, [name])
    spec = specs[name]
    image, source = read_image(images)
    require_channels(image, source.path, spec.channels)
    cpu, logits, labels = torch.device("cpu"), [], []
    for half in (False, True):
        if half:
            bank = net.bank(name)
            bank.load_state_dict(halved(source.path, bank.state_dict())[0])
        answer, preparation = logits_of(net, spec, image, cpu, Options())
        logits.append(answer)
        labels.append(restore(answer.swapaxes(0, 1), preparation))
    scores = dice(labels[1], labels[0], len(spec.labels), None)
    return {
        "largest_logit_difference": float(np.abs(logits[1] - logits[0]).max()),
        "equal_labels": float(np.mean(labels[0] == labels[1])),
        "dice": {
            label: None if np.isnan(value) else float(value)
            for label, value in zip(spec.labels[1:], scores, strict=True)
        },
    }
