"""A classifier of windows against the same one as a convolution, on one patch of noise.

Prints a line per way: windows, CPU seconds, and the ratio. Both give the same scores; a difference
is an error.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from u2net3d.models.fcn import as_convolution

FEATURES = (4, 4, 4)  # that the classifier reads: of four times as many voxels an axis
POOLED = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patch", type=int, default=64, help="voxels along each axis")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--classes", type=int, default=2)
    given = parser.parse_args()
    torch.manual_seed(0)
    # without padding: every cell sees its own voxels alone, in a window as in the whole image
    features = nn.Sequential(nn.Conv3d(1, given.channels, POOLED, POOLED), nn.ReLU())
    classifier = nn.Linear(given.channels * 4**3, given.classes)
    whole = as_convolution(classifier, FEATURES)
    image = torch.randn(1, 1, *(given.patch,) * 3)
    with torch.inference_mode():
        one, seconds = measured(lambda: by_window(features, classifier, image))
        other, at_once = measured(lambda: whole(features(image)))
    if not torch.allclose(one, other, atol=1e-4):
        raise SystemExit("error: the two ways give different scores")
    print(f"window by window  {one[0, 0].numel():6d} windows  {seconds:8.4f} s of CPU")
    print(f"one convolution   {one[0, 0].numel():6d} windows  {at_once:8.4f} s of CPU")
    print(f"ratio             {seconds / at_once:6.1f}")


def by_window(features: nn.Module, classifier: nn.Module, image: Tensor) -> Tensor:
    """Scores (1, K, d, h, w) of every window that begins at a multiple of POOLED."""
    side = POOLED * FEATURES[0]
    places = range((image.shape[2] - side) // POOLED + 1)
    scores = []
    for d, h, w in itertools.product(places, repeat=3):
        at = (slice(POOLED * n, POOLED * n + side) for n in (d, h, w))
        scores.append(classifier(features(image[(..., *at)]).flatten(1)))
    return torch.stack(scores, -1).unflatten(-1, (len(places),) * 3)


def measured(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What it gives, and its CPU seconds the second time."""
    work()
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


if __name__ == "__main__":
    main()
