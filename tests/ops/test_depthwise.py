"""The depthwise convolution against torch's own in float64, forward and both gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from u2net3d.ops.depthwise import depthwise_conv3d

SHAPES = [(5, 7, 6), (1, 4, 9), (3, 1, 1), (1, 1, 1), (2, 3, 1), (4, 2, 2)]
STRIDES = list(itertools.product((1, 2), repeat=3))
LAST = torch.channels_last_3d


def reference(x, weight, stride, gradient=None):
    """result and gradients for x and weight, by torch in float64."""
    x, weight = (t.detach().double().requires_grad_() for t in (x, weight))
    padding = tuple(n // 2 for n in weight.shape[2:])
    y = F.conv3d(x, weight, None, stride, padding, groups=x.shape[1])
    y.backward(torch.ones_like(y) if gradient is None else gradient.double())
    return y.detach(), x.grad, weight.grad


def ours(x, weight, stride, gradient):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = depthwise_conv3d(x, weight, stride)
    y.backward(gradient)
    return y.detach(), x.grad, weight.grad


def draw(batch, channels, shape, kernel, stride, seed=0):
    torch.manual_seed(seed)
    x = torch.randn(batch, channels, *shape)
    coarse = [-(-n // s) for n, s in zip(shape, stride, strict=True)]
    return x, torch.randn(channels, 1, *kernel), torch.randn(batch, channels, *coarse)


def assert_near(got, want, tolerance=1e-5):
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert one.dtype == torch.float32
        error = (one.double() - other).abs().max().item()
        assert error <= tolerance * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("channels", [1, 5, 16, 20, 32])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (3, 1, 3), (3, 3, 1), (1, 1, 1)])
def test_every_kernel_stride_and_size_agrees_with_torch(path, kernel, channels):
    strides = STRIDES if kernel in {(3, 3, 3), (1, 3, 3)} else [(1, 1, 1), (2, 2, 2)]
    for stride, shape in itertools.product(strides, SHAPES):
        x, weight, gradient = draw(2, channels, shape, kernel, stride)
        want = reference(x, weight, stride, gradient)
        x = x.contiguous(memory_format=LAST)
        assert_near(ours(x, weight, stride, gradient), want)


@pytest.mark.parametrize("channels", [1, 5, 20])
def test_any_layout_in_memory_gives_the_same_answer(path, channels):
    x, weight, gradient = draw(2, channels, (5, 6, 7), (3, 3, 3), (1, 2, 2))
    want = reference(x, weight, (1, 2, 2), gradient)
    wide = torch.full((3, channels + 2, 6, 8, 9), float("nan"))
    wide[1:, 1:-1, 1:, 1:-1, 2:] = x
    layouts = [x, x.contiguous(memory_format=LAST), wide[1:, 1:-1, 1:, 1:-1, 2:]]
    layouts.append(x.transpose(2, 4).contiguous().transpose(2, 4))
    turned = weight.transpose(2, 4).contiguous().transpose(2, 4)
    spread = gradient.transpose(1, 3).contiguous().transpose(1, 3)
    for layout in layouts:
        assert_near(ours(layout, turned, (1, 2, 2), spread), want)


def test_a_gradient_that_is_one_number_everywhere_is_read_rightly(path):
    # y.sum().backward() sends back an expanded tensor: one number in memory, all strides 0.
    x, weight, _ = draw(2, 20, (3, 5, 4), (3, 3, 3), (1, 1, 1))
    want = reference(x, weight, (1, 1, 1))[1:]
    x, weight = x.requires_grad_(), weight.requires_grad_()
    depthwise_conv3d(x, weight).sum().backward()
    assert_near((x.grad, weight.grad), want)


def test_one_voxel_in_the_middle_by_hand(path):
    x = torch.zeros(1, 1, 3, 3, 3)
    x[0, 0, 1, 1, 1] = 2
    kernel = torch.arange(27.0).reshape(1, 1, 3, 3, 3)
    y, _, for_weight = ours(x, kernel, (1, 1, 1), torch.ones(1, 1, 3, 3, 3))
    assert torch.equal(y, 2 * kernel.flip(2, 3, 4))
    assert torch.equal(for_weight, torch.full((1, 1, 3, 3, 3), 2.0))


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
def test_channels_last_stays_channels_last(path, stride):
    x, weight, gradient = draw(2, 20, (5, 7, 6), (3, 3, 3), stride)
    x = x.contiguous(memory_format=LAST)
    gradient = gradient.contiguous(memory_format=LAST)
    y, for_x, _ = ours(x, weight, stride, gradient)
    assert y.is_contiguous(memory_format=LAST)
    assert for_x.is_contiguous(memory_format=LAST)


def test_the_same_input_twice_gives_the_same_bits(path, threads):
    threads(2)
    x, weight, gradient = draw(2, 36, (9, 10, 11), (3, 3, 3), (1, 1, 1))
    first, second = (ours(x, weight, (1, 1, 1), gradient) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_more_threads_than_rows_lose_nothing(native_path, threads):
    threads(7)
    x, weight, gradient = draw(1, 20, (1, 3, 5), (1, 3, 3), (1, 1, 1))
    want = reference(x, weight, (1, 1, 1), gradient)
    assert_near(ours(x, weight, (1, 1, 1), gradient), want)


def test_what_needs_no_gradient_gets_none(path):
    x, weight, gradient = draw(1, 5, (3, 4, 5), (3, 3, 3), (1, 1, 1))
    frozen, moving = weight.clone(), x.clone().requires_grad_()
    depthwise_conv3d(moving, frozen).backward(gradient)
    assert frozen.grad is None
    assert moving.grad is not None
    still, learning = x.clone(), weight.clone().requires_grad_()
    depthwise_conv3d(still, learning).backward(gradient)
    assert still.grad is None
    assert learning.grad is not None
    assert not depthwise_conv3d(x, weight).requires_grad


def test_kernels_of_five_go_by_torch(path):
    x, weight, gradient = draw(1, 5, (6, 7, 8), (5, 3, 3), (1, 1, 1))
    want = reference(x, weight, (1, 1, 1), gradient)
    assert_near(ours(x, weight, (1, 1, 1), gradient), want)


def test_float64_agrees_with_finite_differences():
    x, weight, _ = draw(1, 2, (3, 4, 3), (3, 3, 3), (1, 2, 2))
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    stride = (1, 2, 2)
    assert torch.autograd.gradcheck(lambda a, b: depthwise_conv3d(a, b, stride), (x, weight))
