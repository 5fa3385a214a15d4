"""Whether a domain's labels are better without their strays: decided once, by its validation.

The rule, per label: only the largest component is kept where that raises the label's Dice by more
than GAIN in the mean over the validation cases, lowers it by more than LOSS in none of them, and at
least CASES of them hold the label. What is removed becomes background, so no other label changes.
With fewer cases, or none, nothing is ever removed. The best state's validation Dice on the card
stays that of the network's own answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from u2net3d.evaluate.metrics import dice
from u2net3d.infer.cleanup import keep_largest
from u2net3d.models.network import Network
from u2net3d.train.roles import Learner
from u2net3d.train.validate import predicted
from u2net3d.volume import Array

GAIN = 0.002
LOSS = 0.002  # a case may lose this much: some strays are right by chance
CASES = 3


def decide_cleanup(
    pairs: Iterable[tuple[Array, Array]], labels: Sequence[str], ignore: int | None = None
) -> list[str]:
    """Names of the labels of which only the largest component is worth keeping, by the rule above.

    pairs: predicted and reference label (D, H, W) of each validation case; labels: names by value,
    labels[0] the background; ignore: the reference's value for voxels that nobody judged.
    """
    gains = []
    for prediction, reference in pairs:
        cleaned = keep_largest(prediction, range(1, len(labels)))
        before, after = (
            dice(label, reference, len(labels), ignore) for label in (prediction, cleaned)
        )
        gains.append(after - before)  # NaN where neither side has the label
    chosen = []
    for name, column in zip(
        labels[1:], np.array(gains).reshape(-1, len(labels) - 1).T, strict=True
    ):
        known = column[~np.isnan(column)]
        if known.size >= CASES and known.mean() > GAIN and known.min() >= -LOSS:
            chosen.append(name)
    return chosen


def helpful_cleanup(net: Network, learner: Learner, device: torch.device) -> list[str]:
    """`decide_cleanup` of what a trained network says of a domain's validation cases."""
    spec, dataset = learner.spec, learner.dataset
    net.to(device)
    pairs = (predicted(net, spec, dataset, case, device)[1:] for case in learner.validation)
    return decide_cleanup(pairs, spec.labels, dataset.ignore_label)
