"""Small prepared cases and domains, without files."""

import numpy as np
import pytest

from u2net3d.prep.cache import PreparedCase
from u2net3d.spec import DomainSpec, Mirroring, Plan, ZScoreNormalisation


@pytest.fixture
def make_case():
    def make(image, label, name="case"):
        label = np.asarray(label, np.int16)
        values = [int(v) for v in np.unique(label) if v > 0]
        foreground = {v: np.argwhere(label == v).astype(np.int32) for v in values}
        return PreparedCase(name, np.asarray(image, np.float32), label, foreground)

    return make


@pytest.fixture
def noisy_case(make_case):
    """A case of noise with labels 0, 1, 2 in it."""

    def make(shape, name="case", channels=1, seed=0):
        rng = np.random.default_rng(seed)
        label = rng.choice(3, size=shape, p=(0.9, 0.06, 0.04))
        return make_case(rng.standard_normal((channels, *shape)), label, name)

    return make


@pytest.fixture
def make_spec():
    def make(
        patch=(8, 10, 12),
        batch=3,
        spacing=(1.0, 1.0, 1.0),
        channels=1,
        mirroring=None,
        name="liver",
        nonzero=False,
    ):
        scheme = ZScoreNormalisation(nonzero_only=nonzero)
        plan = Plan(
            spacing_mm=spacing,
            normalisation=(scheme,) * channels,
            patch_size=patch,
            batch_size=batch,
            strides=((1, 1, 1), (2, 2, 2)),
            kernels=((3, 3, 3), (3, 3, 3)),
        )
        return DomainSpec(
            name=name,
            channels=tuple(f"channel{i}" for i in range(channels)),
            labels=("background", "left", "right"),
            mirroring=mirroring or Mirroring(),
            plan=plan,
        )

    return make
