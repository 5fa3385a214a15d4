"""Tiny runs: nets of two or four channels, volumes and patches of a few voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from u2net3d.io.dataset import Dataset
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.prep.cache import PreparedCase
from u2net3d.prep.plan import domain_spec
from u2net3d.spec import DomainSpec, ModelSpec, Plan, TrainSpec, ZScoreNormalisation
from u2net3d.train.history import History
from u2net3d.train.roles import Learner, Run
from u2net3d.train.run import Request, loader_of

TINY = ModelSpec(base_channels=2, stages=3)


class Watcher:
    """Hears a run; keeps what it heard, and the weights after each step where given the net."""

    def __init__(self, stop_after=None, net=None):
        self.stop_after, self.net = stop_after, net
        self.losses, self.domains, self.weights, self.validations = [], [], [], []
        self.lines = []

    def stepped(self, at, _share, domain, loss):
        self.losses.append(loss)
        self.domains.append(domain)
        if self.net is not None:
            self.weights.append(copy_of(self.net))
        if at.step == self.stop_after:
            raise KeyboardInterrupt

    def validated(self, at, _scores, best):
        self.validations.append((at.step, best))

    def told(self, text):
        self.lines.append(text)


def copy_of(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.fixture
def watcher():
    return Watcher


@pytest.fixture
def weights_of():
    """weights_of(net): a copy of every weight by name."""
    return copy_of


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)  # NaN is the same as NaN


@pytest.fixture
def identical():
    """identical(a, b): nested dicts and lists whose tensors agree in every bit."""
    return same


@pytest.fixture
def tiny_model():
    return TINY


@pytest.fixture
def blob_case():
    """blob_case(seed): 12 voxels a side, noise with one bright ball that is the label."""

    def make(seed, size=12):
        rng = np.random.default_rng(seed)
        middle = rng.uniform(4, size - 4, 3)
        grid = np.stack(np.meshgrid(*(np.arange(size),) * 3, indexing="ij"), -1)
        label = (((grid - middle) ** 2).sum(-1) < 12).astype(np.int16)
        image = (2 * label + rng.normal(0, 0.5, label.shape)).astype(np.float32)
        foreground = {1: np.argwhere(label == 1).astype(np.int32)}
        return PreparedCase(f"case{seed}", image[None], label, foreground)

    return make


@pytest.fixture
def make_run(tmp_path, blob_case):
    """make_run({domain: stages}, **TrainSpec) -> (net of 3 stages, run without validation cases)"""

    def make(domains=None, validation=(), cases=None, **training):
        learners, spec = [], TrainSpec(**{"steps": 6, "validations": 1, **training})
        for name, stages in (domains or {"liver": 2, "heart": 3}).items():
            domain = spec_of(name, stages)
            given = cases or [blob_case(seed) for seed in range(3)]
            loader = loader_of(domain, given, spec.model_copy(update={"foreground_share": 0.5}))
            dataset = Dataset(tmp_path, name, ("MR",), domain.labels, None, (), ())
            learners.append(Learner(domain, dataset, loader, validation))
        torch.manual_seed(spec.seed)
        net = UniversalNet(base_channels=4, stages=3)
        for learner in learners:
            net.add_bank(learner.spec.name, BankShape.of(learner.spec))
        return net, Run(spec, tuple(learners), tmp_path / "run", "identity", torch.device("cpu"))

    return make


def spec_of(name, stages):
    plan = Plan(
        spacing_mm=(1, 1, 1),
        normalisation=(ZScoreNormalisation(),),
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2))[:stages],
        kernels=((3, 3, 3),) * stages,
    )
    return DomainSpec(name=name, channels=("MR",), labels=("background", "ball"), plan=plan)


@pytest.fixture
def tiny_dataset(make_dataset, tmp_path):
    """tiny_dataset(name, **make_dataset) writes a data set of small volumes; find it by name."""
    from u2net3d.io.dataset import find_dataset

    def make(name="Task03_Liver", **options):
        folder = make_dataset(tmp_path / "data", name, **{"shape": (14, 12, 10), **options})
        return find_dataset(folder.parent, f"{folder.name}={folder}")

    return make


@pytest.fixture
def request_for(tmp_path):
    """request_for(model folder, **TrainSpec): a request on the CPU with cases in memory."""

    def make(model=None, resume=False, overwrite=False, **training):
        spec = TrainSpec(**{"steps": 4, "validations": 1, "warmup_steps": 2, **training})
        command = "u2net3d train --domains liver,heart"
        where = model or tmp_path / "model"
        return Request(where, spec, torch.device("cpu"), None, resume, overwrite, command)

    return make


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes longer than these runs; where pictures matter they are asked for."""
    for place in ("run", "add_domain"):
        monkeypatch.setattr(f"u2net3d.train.{place}.draw_cases", lambda *_: None)
    monkeypatch.setattr(History, "draw", lambda _: None)


@pytest.fixture
def plan_of():
    """plan_of(dataset, cases): the domain's specification as training makes it."""
    return lambda dataset, cases: domain_spec(dataset, cases, TINY.stages)
