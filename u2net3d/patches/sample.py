"""Which case, where in it, and the voxels there; each draw depends on its place in the run alone.

A patch may overhang the volume. There the image is mirrored (the border voxel is not repeated),
because that is what the network sees at borders in inference; the label there is IGNORED, because
mirrored anatomy is fiction that inference throws away: nothing is to be learnt from it.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from u2net3d.prep.cache import IGNORED, PreparedCase
from u2net3d.volume import Array, Triple

OFF_CENTRE = 4  # foreground lies within patch / 4 of the middle, unless the volume ends there


def generator(seed: int, domain: str, *place: str | int) -> np.random.Generator:
    """The random numbers of one place of a run, the same in every process and on every machine.

    SHA-256 mixes the parts: Python's own hash of a string changes with each process, and numpy's
    seed sequence takes [1] and [1, 0] for the same seed.
    """
    text = "/".join(str(part) for part in (seed, domain, *place))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "little"))


def case_of(seed: int, domain: str, draw: int, cases: int) -> int:
    """The case of a domain's draw-th sample: shuffled epochs, every case once in each."""
    epoch, position = divmod(draw, cases)
    return int(generator(seed, domain, "epoch", epoch).permutation(cases)[position])


def foreground_count(batch_size: int, share: float) -> int:
    """How many samples of a batch, its last ones, are centred on foreground: at least one."""
    return max(1, math.ceil(batch_size * share - 1e-9))  # 3 * 0.1 * 10 is 3.0000000000000004


def choose_patch(
    case: PreparedCase, patch_size: Triple, rng: np.random.Generator, foreground: bool
) -> Triple:
    """First voxel (D, H, W) of a patch; negative where the patch overhangs a smaller volume.

    Uniform over all places where the patch lies inside the volume or, along an axis where the
    volume is the smaller one, the volume inside the patch. With foreground, near a random voxel of
    a random label present in the case (each equally likely), and always holding that voxel; a case
    without foreground is drawn uniformly.
    """
    shape = case.label.shape
    first = np.array([min(0, n - p) for n, p in zip(shape, patch_size, strict=True)])
    last = np.array([max(0, n - p) for n, p in zip(shape, patch_size, strict=True)])
    present = sorted(label for label, voxels in case.foreground.items() if len(voxels))
    if foreground and present:
        voxels = case.foreground[present[rng.integers(len(present))]]
        # Not always dead in the middle: a network could learn where foreground is by place alone.
        reach = np.array(patch_size) // OFF_CENTRE
        shift = rng.integers(-reach, reach, endpoint=True)
        middle = voxels[rng.integers(len(voxels))] + shift
        start = np.clip(middle - np.array(patch_size) // 2, first, last)
    else:
        start = rng.integers(first, last, endpoint=True)
    d, h, w = (int(n) for n in start)
    return d, h, w


def mirrored(start: int, size: int, n: int) -> NDArray[np.int64]:
    """The voxels, of 0..n-1, seen from start to start + size - 1 where both ends are mirrors.

    Of three voxels the row from -2 to 4 shows 2 1 0 1 2 1 0.
    """
    period = max(1, 2 * (n - 1))
    index = np.arange(start, start + size) % period
    return np.minimum(index, period - index) if n > 1 else np.zeros(size, np.int64)


def read_patch(case: PreparedCase, start: Triple, patch_size: Triple) -> tuple[Array, Array]:
    """Image (C, *patch_size) float32 and label patch_size int16 from voxel `start` on, copied.

    Outside the volume the image is mirrored and the label is IGNORED.
    """
    rows = [mirrored(s, p, n) for s, p, n in zip(start, patch_size, case.label.shape, strict=True)]
    low = [int(row.min()) for row in rows]
    block = tuple(slice(a, int(row.max()) + 1) for a, row in zip(low, rows, strict=True))
    image = np.array(case.image[(slice(None), *block)])  # one read of the file, whatever follows
    label = np.array(case.label[block])
    for axis, n in enumerate(case.label.shape):
        place = np.arange(start[axis], start[axis] + patch_size[axis])
        outside = (place < 0) | (place >= n)
        if outside.any():
            image = image.take(rows[axis] - low[axis], axis=axis + 1)
            label = label.take(rows[axis] - low[axis], axis=axis)
            label[(slice(None),) * axis + (outside,)] = IGNORED
    return image, label
