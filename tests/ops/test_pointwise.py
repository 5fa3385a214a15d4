"""The pointwise convolution against torch's 1x1x1 convolution in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from u2net3d.ops.pointwise import pointwise_conv3d

LAST = torch.channels_last_3d


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 7, 6), (1, 4, 1), (1, 1, 1)])
@pytest.mark.parametrize(("channels_in", "channels_out"), [(1, 5), (5, 1), (16, 32), (20, 3)])
def test_result_and_gradients_agree_with_torch(channels_in, channels_out, shape, with_bias):
    torch.manual_seed(0)
    x = torch.randn(2, channels_in, *shape)
    weight = torch.randn(channels_out, channels_in)
    bias = torch.randn(channels_out) if with_bias else None
    inputs = [x, weight] if bias is None else [x, weight, bias]
    gradient = torch.randn(2, channels_out, *shape)

    exact = [t.double().requires_grad_() for t in inputs]
    want = F.conv3d(exact[0], exact[1][:, :, None, None, None], *exact[2:])
    want.backward(gradient.double())
    ours = [t.clone().requires_grad_() for t in inputs]
    got = pointwise_conv3d(*ours)
    got.backward(gradient)

    torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-5)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, atol=1e-3, rtol=1e-5)


def test_two_channels_by_hand():
    x = torch.tensor([2.0, 3.0]).reshape(1, 2, 1, 1, 1)
    weight, bias = torch.tensor([[1.0, 10.0], [0.0, -1.0]]), torch.tensor([0.5, 0.0])
    assert pointwise_conv3d(x, weight, bias).flatten().tolist() == [32.5, -3.0]


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_the_result_is_channels_last(layout):
    x = torch.randn(2, 5, 3, 4, 6).contiguous(memory_format=layout)
    assert pointwise_conv3d(x, torch.randn(7, 5)).is_contiguous(memory_format=LAST)


def test_a_frozen_weight_gets_no_gradient():
    x, weight = torch.randn(1, 3, 2, 2, 2).requires_grad_(), torch.randn(4, 3)
    pointwise_conv3d(x, weight).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
