"""InstanceNorm with LeakyReLU against its formula in float64, forward and all gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from u2net3d.ops import native
from u2net3d.ops.norm import instance_norm_act

EPS = 1e-5
LAST = torch.channels_last_3d


def formula(x, weight, bias, slope):
    variance, mean = torch.var_mean(x, (2, 3, 4), correction=0, keepdim=True)
    scale, offset = (t.reshape(-1, 1, 1, 1) for t in (weight, bias))
    return F.leaky_relu((x - mean) / torch.sqrt(variance + EPS) * scale + offset, slope)


def reference(x, weight, bias, slope, gradient):
    x, weight, bias = (t.detach().double().requires_grad_() for t in (x, weight, bias))
    y = formula(x, weight, bias, slope)
    y.backward(gradient.double())
    return y.detach(), x.grad, weight.grad, bias.grad


def ours(x, weight, bias, slope, gradient):
    x, weight, bias = (t.detach().requires_grad_() for t in (x, weight, bias))
    y = instance_norm_act(x, weight, bias, slope)
    y.backward(gradient)
    return y.detach(), x.grad, weight.grad, bias.grad


def draw(batch, channels, shape, seed=0):
    """x with another mean and spread in every channel and sample; weight; bias; gradient."""
    torch.manual_seed(seed)
    spread = torch.rand(batch, channels, 1, 1, 1) + 0.5
    x = torch.randn(batch, channels, *shape) * spread + torch.randn(batch, channels, 1, 1, 1)
    return x, torch.randn(channels), torch.randn(channels), torch.randn(batch, channels, *shape)


def assert_near(got, want, tolerance=2e-5):
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert one.dtype == torch.float32
        error = (one.double() - other).abs().max().item()
        assert error <= tolerance * max(1.0, other.abs().max().item())


# 8 x 8 x 16 = 1024 voxels are one block of the native kernels; 5 x 17 x 13 = 1105 are two.
@pytest.mark.parametrize("shape", [(5, 7, 6), (1, 4, 9), (3, 1, 2), (8, 8, 16), (5, 17, 13)])
@pytest.mark.parametrize("channels", [1, 5, 16, 20, 32])
@pytest.mark.parametrize("slope", [0.01, 1.0, 0.0])
def test_result_and_gradients_agree_with_the_formula(path, slope, channels, shape):
    x, weight, bias, gradient = draw(2, channels, shape)
    want = reference(x, weight, bias, slope, gradient)
    last = x.contiguous(memory_format=LAST)
    assert_near(ours(last, weight, bias, slope, gradient), want)


@pytest.mark.parametrize("channels", [1, 5, 20])
def test_any_layout_in_memory_gives_the_same_answer(path, channels):
    x, weight, bias, gradient = draw(2, channels, (5, 6, 7))
    want = reference(x, weight, bias, 0.01, gradient)
    wide = torch.full((3, channels + 2, 6, 8, 9), float("nan"))
    wide[1:, 1:-1, 1:, 1:-1, 2:] = x
    layouts = [x, x.contiguous(memory_format=LAST), wide[1:, 1:-1, 1:, 1:-1, 2:]]
    layouts.append(x.transpose(2, 4).contiguous().transpose(2, 4))
    spread = gradient.transpose(1, 3).contiguous().transpose(1, 3)
    every_second = torch.full((2, channels), float("nan")).t().contiguous()
    every_second[:, 0] = weight
    for layout in layouts:
        assert_near(ours(layout, every_second[:, 0], bias, 0.01, spread), want)


def test_one_weight_seen_by_all_channels_is_read_rightly(path):
    x, _, bias, gradient = draw(2, 20, (4, 5, 6))
    weight = torch.tensor([1.5]).expand(20)  # one number in memory
    want = reference(x, weight, bias, 0.01, gradient)
    assert_near(ours(x, weight, bias, 0.01, gradient), want)


def test_a_gradient_that_is_one_number_everywhere_is_read_rightly(path):
    x, weight, bias, _ = draw(2, 20, (3, 5, 4))
    gradient = torch.ones(()).expand(x.shape)
    want = reference(x, weight, bias, 0.01, gradient)
    assert_near(ours(x, weight, bias, 0.01, gradient), want)


def test_a_channel_of_two_voxels_by_hand(path):
    # mean 3, variance 4, eps aside: -1 and 1; times 2, plus 1: -1 and 3; behind slope 0.1: -0.1, 3.
    x = torch.tensor([1.0, 5.0]).reshape(1, 1, 1, 1, 2)
    y = instance_norm_act(x, torch.tensor([2.0]), torch.tensor([1.0]), 0.1)
    torch.testing.assert_close(y.reshape(-1), torch.tensor([-0.1, 3.0]), atol=1e-5, rtol=0)


def test_a_single_voxel_gives_the_bias(path):
    x, weight, bias, gradient = draw(2, 20, (1, 1, 1))
    y, for_x, for_weight, _ = ours(x, weight, bias, 0.01, gradient)
    want = F.leaky_relu(bias, 0.01).expand(2, 20)
    torch.testing.assert_close(y[:, :, 0, 0, 0], want, atol=1e-3, rtol=0)
    assert for_x.abs().max() < 1e-3  # the gradient vanishes: moving one voxel moves its mean
    assert for_weight.abs().max() < 1e-3


def test_a_constant_channel_stays_finite(path):
    x, weight, bias, gradient = draw(1, 20, (4, 5, 6))
    x[:, 3:] = 7.5
    got = ours(x.contiguous(memory_format=LAST), weight, bias, 0.01, gradient)
    assert all(torch.isfinite(t).all() for t in got)
    want = F.leaky_relu(bias, 0.01)[3:, None].expand(17, 120)
    torch.testing.assert_close(got[0][0, 3:].reshape(17, -1), want, atol=1e-3, rtol=0)


@pytest.mark.parametrize("offset", [1000.0, -3000.0])
def test_a_large_common_offset_costs_little_precision(path, offset):
    # 3000 in float32 is exact to 1.2e-4 (half a step): no answer can be nearer than about that.
    x, weight, bias, gradient = draw(2, 20, (9, 12, 11))
    x = (x + offset).contiguous(memory_format=LAST)
    want = reference(x, weight, bias, 1.0, gradient)
    assert_near(ours(x, weight, bias, 1.0, gradient), want, 2e-3)


@pytest.mark.parametrize("shape", [(5, 7, 6), (1, 4, 1), (1, 1, 1)])
@pytest.mark.parametrize("channels", [1, 20])
def test_the_result_is_channels_last(path, channels, shape):
    x, weight, bias, gradient = draw(2, channels, shape)
    x, gradient = (t.contiguous(memory_format=LAST) for t in (x, gradient))
    y, for_x, _, _ = ours(x, weight, bias, 0.01, gradient)
    assert y.is_contiguous(memory_format=LAST)
    assert for_x.is_contiguous(memory_format=LAST)


def test_the_bits_do_not_depend_on_the_number_of_threads(native_path, threads):
    x, weight, bias, gradient = draw(2, 20, (13, 16, 15))
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append(ours(x, weight, bias, 0.01, gradient)[:2])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_same_input_twice_gives_the_same_bits(path, threads):
    threads(2)
    values = draw(2, 20, (9, 12, 11))
    first, second = (ours(*values[:3], 0.01, values[3]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_needs_no_gradient_gets_none(path):
    x, weight, bias, gradient = draw(1, 5, (3, 4, 5))
    moving, learning = x.clone().requires_grad_(), weight.clone().requires_grad_()
    instance_norm_act(moving, weight, bias, 0.01).backward(gradient)
    assert weight.grad is None
    assert bias.grad is None
    assert moving.grad is not None
    instance_norm_act(x, learning, bias, 0.01).backward(gradient)
    assert x.grad is None
    assert learning.grad is not None
    assert not instance_norm_act(x, weight, bias, 0.01).requires_grad


@pytest.mark.parametrize(("of_weight", "of_bias"), [(4, 5), (5, 1), (6, 6)])
def test_a_weight_of_another_length_is_refused(path, of_weight, of_bias):
    x = torch.zeros(1, 5, 2, 2, 2)
    with pytest.raises(ValueError, match=r"weight and bias must be \(5,\)"):
        instance_norm_act(x, torch.ones(of_weight), torch.zeros(of_bias), 0.01)


def test_no_voxel_and_other_types_never_reach_the_kernels(native_path):
    assert native.usable(torch.zeros(1, 5, 2, 2, 2))
    assert not native.usable(torch.zeros(2, 5, 0, 2, 2))
    assert not native.usable(torch.zeros(1, 5, 2, 2, 2, dtype=torch.float64))
    assert not native.usable(torch.zeros(1, 5, 2, 2, 2), torch.zeros(5, dtype=torch.bfloat16))
    assert not native.usable(torch.zeros(1, 5, 2, 2, 2, device="meta"))


def test_the_widest_tensor_fits_and_one_wider_goes_by_torch(native_path):
    x, weight, bias, gradient = draw(1, 2048, (1, 2, 2))
    assert native.usable(x)
    want = reference(x, weight, bias, 0.01, gradient)
    # Four voxels may lie close together: 1 / std reaches 1 / sqrt(eps), and errors grow with it.
    assert_near(ours(x, weight, bias, 0.01, gradient), want, 1e-3)
    assert not native.usable(torch.zeros(1, 2049, 1, 1, 1))


def test_float64_agrees_with_finite_differences():
    x, weight, bias, _ = (t.double().requires_grad_() for t in draw(2, 2, (2, 3, 2)))
    assert torch.autograd.gradcheck(
        lambda *values: instance_norm_act(*values, 0.01), (x, weight, bias)
    )


def test_eps_keeps_the_normaliser_below_its_limit(path):
    x = torch.tensor([0.0, 2e-6]).reshape(1, 1, 1, 1, 2)  # variance 1e-12, far below eps 1e-5
    y = instance_norm_act(x, torch.ones(1), torch.zeros(1), 1.0)
    assert y.flatten()[1].item() == pytest.approx(1e-6 / math.sqrt(EPS), rel=1e-3)
