"""A model with random weights, and images that it answers in regions."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
import torch

from u2net3d import store
from u2net3d.infer.locks import Holder
from u2net3d.infer.predict import load
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import DomainSpec, ModelSpec, Plan, ZScoreNormalisation

OBLIQUE = np.array(
    [[1.2, 0.1, 0.0, -40.0], [-0.1, 1.3, 0.2, 12.0], [0.0, -0.2, 2.0, 5.0], [0, 0, 0, 1.0]]
)


@pytest.fixture(scope="session")
def save_random_model():
    """save_random_model(folder, cards, seed) writes a model whose weights are drawn.

    Its domains: liver (1 channel, 3 labels) and prostate (2 channels).
    """

    def save(folder, cards=None, seed=0):
        specs = {"liver": domain("liver"), "prostate": domain("prostate", channels=2)}
        torch.manual_seed(seed)
        net = UniversalNet(base_channels=2, stages=2)
        for name, spec in specs.items():
            net.add_bank(name, BankShape.of(spec))
        spec = ModelSpec(base_channels=2, stages=2)
        store.save_model(folder, net, spec, specs, cards or {})
        return folder

    return save


@pytest.fixture(scope="session")
def folder(tmp_path_factory, save_random_model):
    """The folder of such a model; tests must not write into it."""
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def model(folder):
    """The same, loaded."""
    return load(folder, device="cpu")


@pytest.fixture(scope="session")
def picture():
    """picture(shape, seed): smooth float32 noise, so that a random network answers in regions."""

    def draw(shape=(14, 11, 9), seed=0):
        rng = np.random.default_rng(seed)
        noise = np.fft.fftn(rng.normal(size=shape))
        radius = sum(np.fft.fftfreq(n).reshape([-1 if a == i else 1 for a in range(3)]) ** 2
                     for i, n in enumerate(shape))  # fmt: skip
        return (100 * np.fft.ifftn(noise * np.exp(-40 * radius)).real + 50).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def write():
    """write(path, array) saves an image with an oblique affine, and gives the path."""

    def save(path, array, affine=OBLIQUE):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), path)
        return path

    return save


def domain(name, channels=1, classes=3):
    """A domain of two stages with patches of 8 voxels."""
    plan = Plan(
        spacing_mm=(2.5, 1.5, 1.0),
        normalisation=(ZScoreNormalisation(),) * channels,
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
    )
    return DomainSpec(
        name=name,
        channels=tuple(f"channel {i}" for i in range(channels)),
        labels=tuple(f"label {i}" for i in range(classes)),
        plan=plan,
    )


@pytest.fixture
def dead_lock():
    """dead_lock(path) leaves the lock of a process that has ended."""

    def leave(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with subprocess.Popen(["sleep", "0"]) as process:
            holder = replace(Holder.of_this_process(), pid=process.pid, started="1")
        path.write_text(json.dumps(asdict(holder)))
        return holder

    return leave
