"""The separable unit and its parts, against torch's own layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from u2net3d.models.units import Head, NormAct, Pointwise, Stem, UnitBank
from u2net3d.ops.pending import Features
from u2net3d.ops.plain import activated


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("slope", [0.01, 1.0])
def test_a_unit_is_depthwise_norm_activation_pointwise_norm(stride, slope):
    torch.manual_seed(0)
    unit, pointwise = UnitBank(6, 4, (3, 3, 3), stride), Pointwise(6, 4)
    for norm in (unit.inner, unit.outer):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 7, 8, 9)
    y = F.conv3d(x, unit.weight, None, stride, 1, groups=6)
    y = F.leaky_relu(F.instance_norm(y, weight=unit.inner.weight, bias=unit.inner.bias), 0.01)
    y = F.conv3d(y, pointwise.weight[:, :, None, None, None])
    y = F.leaky_relu(F.instance_norm(y, weight=unit.outer.weight, bias=unit.outer.bias), slope)
    ours = unit([Features(x, None)], pointwise, x.shape[2:], slope)
    torch.testing.assert_close(activated(ours), y, atol=1e-4, rtol=1e-4)


def test_a_stem_is_a_dense_convolution_norm_activation():
    torch.manual_seed(0)
    stem, x = Stem(2, 5, (1, 3, 3)), torch.randn(1, 2, 3, 8, 9)
    y = F.leaky_relu(F.instance_norm(F.conv3d(x, stem.weight, padding=(0, 1, 1))), 0.01)
    torch.testing.assert_close(activated(stem(x)), y, atol=1e-4, rtol=1e-4)


def test_a_head_by_hand():
    head = Head(2, 1)
    head.load_state_dict({"weight": torch.tensor([[2.0, -1.0]]), "bias": torch.tensor([0.5])})
    source = Features(torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1, 1), None)
    assert head(source, (1, 1, 1)).item() == 2.5


def test_a_norm_is_left_pending_with_its_slope():
    norm = NormAct(3)
    assert norm.pending(0.5) == (norm.weight, norm.bias, 0.5)
