"""The whole network through torch.compile and torch.export: one graph, the same numbers."""

from __future__ import annotations

import shutil

import pytest
import torch

from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import PRESETS

SHAPE = BankShape(
    channels=1,
    classes=2,
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
)

OURS = [(name, model) for name, model in PRESETS.items() if model.family == "universal"]
UNIVERSAL = [*{model.design: name for name, model in reversed(OURS)}.values()]  # one a design


@pytest.fixture(autouse=True)
def _forgets_what_it_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def small(preset):
    torch.manual_seed(0)
    net = UniversalNet(2, 3, PRESETS[preset].design)
    net.add_bank("a", SHAPE)
    return net


def learned(net, call, x):
    """The logits of `call`, and what every weight of the network learns from them."""
    logits = call(x, "a")
    loss = sum(each.square().mean() for each in logits)
    return logits, torch.autograd.grad(loss, list(net.parameters()))


def same(preset, backend):
    net, x = small(preset), torch.randn(2, 1, 3, 7, 6)
    ours = torch.compile(net, backend=backend, fullgraph=True)
    torch.testing.assert_close(learned(net, ours, x), learned(net, net, x))


@pytest.mark.parametrize("preset", UNIVERSAL)
def test_a_network_compiles_as_one_graph_and_learns_the_same(preset):
    same(preset, "aot_eager")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor imports torch's own old parts
@pytest.mark.skipif(shutil.which("gcc") is None, reason="inductor needs a C compiler at run time")
def test_inductor_learns_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    same("base", "inductor")


@pytest.mark.parametrize("preset", UNIVERSAL)
def test_an_exported_network_gives_the_same_logits(preset):
    net, x = small(preset).eval(), torch.randn(1, 1, 3, 7, 6)
    exported = torch.export.export(net, (x, "a")).module()
    torch.testing.assert_close(exported(x, "a"), net(x, "a"))
