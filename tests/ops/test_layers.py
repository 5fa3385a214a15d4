"""The network's operators: their gradients, what they keep, and what torch makes of them."""

from __future__ import annotations

import pytest
import torch

from u2net3d.ops import layers, native
from u2net3d.ops.layers import Norm
from u2net3d.ops.pending import Features

GRID = (4, 5, 6)


def norm(channels, slope=0.1, dtype=torch.float64):
    weight = torch.randn(channels, dtype=dtype, requires_grad=True)
    return Norm(weight, torch.randn(channels, dtype=dtype, requires_grad=True), slope)


def features(channels, shape, dtype=torch.float64):
    """Features as the stem gives them, with the tensors that need gradients."""
    x = torch.randn(2, channels, *shape, dtype=dtype, requires_grad=True)
    found = Features(x, None)
    mine = norm(channels, dtype=dtype)
    mean, rstd = statistics(x)
    return found._replace(norm=layers.Pending(mean, rstd, *mine)), [x, *mine[:2]]


def statistics(x):
    variance, mean = torch.var_mean(x.detach(), (2, 3, 4), correction=0)
    return mean, torch.rsqrt(variance + 1e-5)


def normed(x, weight, bias, slope):
    """What a pending norm means, for torch's own autograd."""
    y = torch.nn.functional.instance_norm(x, weight=weight, bias=bias)
    return torch.nn.functional.leaky_relu(y, slope)


def unit_by_torch(xs, norms, weight, inner, matrix, stride):
    y = torch.cat([normed(x, *n) for x, n in zip(xs, norms, strict=True)], 1)
    padding = tuple(k // 2 for k in weight.shape[2:])
    u = torch.nn.functional.conv3d(y, weight, None, stride, padding, groups=y.shape[1])
    return torch.einsum("oi,bidhw->bodhw", matrix, normed(u, *inner))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2)])
def test_a_unit_is_what_torch_computes_step_by_step(path, stride, dtype):
    torch.manual_seed(0)
    pairs = [features(c, GRID, dtype) for c in (3, 2)]
    weight = torch.randn(5, 1, 3, 3, 3, dtype=dtype, requires_grad=True)
    matrix = torch.randn(4, 5, dtype=dtype, requires_grad=True)
    inner, outer = norm(5, dtype=dtype), norm(4, dtype=dtype)
    leaves = [weight, *inner[:2], matrix, *(t for _, tensors in pairs for t in tensors)]
    ours = layers.separable_unit([f for f, _ in pairs], weight, inner, matrix, outer, stride, GRID)
    xs = [tensors[0] for _, tensors in pairs]
    norms = [(*tensors[1:], 0.1) for _, tensors in pairs]
    theirs = unit_by_torch(xs, norms, weight, inner, matrix, stride)
    tolerance = {"rtol": 1e-4, "atol": 2e-3} if dtype == torch.float32 else {}
    torch.testing.assert_close(ours.x, theirs, **tolerance)
    torch.testing.assert_close((ours.norm.mean, ours.norm.rstd), statistics(theirs), **tolerance)
    gradient = torch.randn_like(theirs)
    got = torch.autograd.grad(ours.x, leaves, gradient)
    want = torch.autograd.grad(theirs, leaves, gradient)
    torch.testing.assert_close(got, want, **tolerance)


def test_features_with_two_readers_get_the_sum_of_their_gradients(path):
    torch.manual_seed(0)
    source, (x, weight, bias) = features(3, GRID)
    heads = [(torch.randn(2, 3).double(), torch.randn(2).double()) for _ in (0, 1)]
    total = sum(layers.head(source, *each).square().sum() for each in heads)
    y = normed(x, weight, bias, 0.1)
    want = sum(
        (torch.einsum("oi,bidhw->bodhw", m, y) + b[:, None, None, None]).square().sum()
        for m, b in heads
    )
    leaves = [x, weight, bias]
    torch.testing.assert_close(total, want)
    torch.testing.assert_close(
        torch.autograd.grad(total, leaves), torch.autograd.grad(want, leaves)
    )


def test_a_sum_is_what_torch_computes_step_by_step(path):
    torch.manual_seed(0)
    (one, first), (other, second) = features(3, GRID), features(3, GRID)
    ours = layers.summed([one, other], 0.2)
    assert ours.norm is None
    both = normed(*first, 0.1) + normed(*second, 0.1)
    theirs = torch.nn.functional.leaky_relu(both, 0.2)
    torch.testing.assert_close(ours.x, theirs)
    gradient = torch.randn_like(theirs)
    leaves = [*first, *second]
    got = torch.autograd.grad(ours.x, leaves, gradient)
    torch.testing.assert_close(got, torch.autograd.grad(theirs, leaves, gradient))


def test_a_stem_teaches_its_weight(path):
    torch.manual_seed(0)
    image = torch.randn(2, 2, *GRID)
    weight = torch.randn(4, 2, 1, 3, 3, requires_grad=True)
    ours = layers.stem(image, weight, norm(4, dtype=torch.float32))
    theirs = torch.nn.functional.conv3d(image, weight, padding=(0, 1, 1))
    torch.testing.assert_close(ours.x, theirs, rtol=1e-4, atol=1e-5)
    gradient = torch.randn_like(theirs)
    got, want = (torch.autograd.grad(u, weight, gradient)[0] for u in (ours.x, theirs))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_frozen_matrix_gets_no_gradient_and_the_bank_its_own(path):
    torch.manual_seed(0)
    source, leaves = features(3, GRID, torch.float32)
    weight = torch.randn(3, 1, 3, 3, 3, requires_grad=True)
    grown = []
    for frozen in (False, True):
        matrix = torch.ones(2, 3, requires_grad=not frozen)
        inner, outer = norm(3, dtype=torch.float32), norm(2, dtype=torch.float32)
        torch.nn.init.ones_(inner.weight), torch.nn.init.zeros_(inner.bias)
        v = layers.separable_unit([source], weight, inner, matrix, outer, (1, 1, 1), GRID).x
        v.backward(torch.linspace(-1, 1, v.numel()).view(v.shape))
        assert (matrix.grad is None) == frozen
        grown.append([weight.grad, *(leaf.grad for leaf in leaves)])
        for leaf in (weight, *leaves):
            leaf.grad = None
    torch.testing.assert_close(grown[0], grown[1])


def test_what_is_written_is_channels_last(path):
    torch.manual_seed(0)
    source, _ = features(16, GRID, torch.float32)
    weight, matrix = torch.randn(16, 1, 3, 3, 3), torch.randn(16, 16)
    inner, outer = norm(16, dtype=torch.float32), norm(16, dtype=torch.float32)
    v = layers.separable_unit([source], weight, inner, matrix, outer, (1, 1, 1), GRID).x
    assert v.is_contiguous(memory_format=torch.channels_last_3d)


def test_types_that_the_kernels_do_not_take_go_through_torch(native_path):
    assert native.usable(torch.ones(1))
    for other in (torch.ones(1).double(), torch.ones(1).bfloat16(), torch.ones(0)):
        assert not native.usable(torch.ones(1), other)
