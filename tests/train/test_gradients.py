"""A loss that is finite with a gradient that is not."""

from __future__ import annotations

import pytest
import torch

from u2net3d.errors import TrainingError
from u2net3d.train import loop
from u2net3d.train.loop import train


def test_a_gradient_that_is_not_finite_moves_no_weight(make_run, watcher, monkeypatch, weights_of):
    net, run = make_run(steps=3)
    before = weights_of(net)
    supervised = loop.supervised

    def exploding(loss, outputs, *more):
        root = (outputs[0] - outputs[0].detach()).sum().sqrt()  # value 0, gradient infinite
        return supervised(loss, outputs, *more) + root

    monkeypatch.setattr(loop, "supervised", exploding)
    with pytest.raises(TrainingError, match="no step of liver could be learnt from"):
        train(net, run, watcher(), resume=False)
    assert all(torch.equal(before[name], weight) for name, weight in net.state_dict().items())
