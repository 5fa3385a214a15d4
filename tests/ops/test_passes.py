"""Every path of the passes (torch, and the native kernels of each processor) against the textbook
formulas in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from u2net3d.ops import gpu, native, plain, reference
from u2net3d.ops.pending import Features, Pending

SHAPES = [(5, 7, 6), (1, 4, 9), (3, 1, 1), (2, 10, 3), (4, 9, 21)]
KERNELS = [(3, 3, 3), (1, 3, 3), (3, 1, 3), (3, 3, 1), (1, 1, 1)]
STRIDES = list(itertools.product((1, 2), repeat=3))
ONE = (1, 1, 1)


@pytest.fixture
def passes(path):
    return {"torch": plain, "triton": gpu}.get(path, native)


def draw(batch, channels, shape, *, pending=True, offset=3.0):
    x = torch.randn(batch, channels, *shape) * 2 + offset
    return Features(x, drawn_norm(x) if pending else None)


def drawn_norm(x, slope=0.01):
    mean, rstd = (t.float() for t in reference.statistics(x.double()))
    return Pending(mean, rstd, torch.randn(x.shape[1]), torch.randn(x.shape[1]), slope)


def double(norm):
    return None if norm is None else Pending(*(t.double() for t in norm[:4]), norm.slope)


def assert_near(got, want, tolerance=2e-5):
    assert got.shape == want.shape
    scale = max(1.0, want.abs().max().item())
    assert (got.double() - want).abs().max().item() <= tolerance * scale


def assert_statistics(mean, rstd, u):
    """rstd of a constant is that of rounding errors, so it is compared as a standard deviation."""
    want_mean, want_rstd = reference.statistics(u)
    assert_near(mean, want_mean)
    assert_near(1 / rstd, 1 / want_rstd, 1e-4)


@pytest.mark.parametrize("pending", [True, False])
@pytest.mark.parametrize("channels", [1, 5, 16, 20, 48])
@pytest.mark.parametrize("kernel", KERNELS)
def test_depthwise_agrees_for_every_kernel_stride_and_size(passes, kernel, channels, pending):
    strides = STRIDES if kernel in {(3, 3, 3), (1, 3, 3)} and channels == 20 else [ONE, (2, 2, 2)]
    torch.manual_seed(0)
    for stride, shape in itertools.product(strides, SHAPES):
        source, weight = (
            draw(2, channels, shape, pending=pending),
            torch.randn(channels, 1, *kernel),
        )
        x, norm = source.x.double(), double(source.norm)
        u, mean, rstd = passes.depthwise_forward([source], weight, stride, shape)
        want = reference.depthwise_forward(x, norm, weight.double(), stride)[0]
        assert_near(u, want)
        assert_statistics(mean, rstd, want)
        gradient = torch.randn(u.shape)
        (result,), for_weight = passes.depthwise_backward(
            gradient, None, None, [source], weight, stride, shape, [True]
        )
        g_act, sums, want_weight = reference.depthwise_backward(
            gradient.double(), x, norm, weight.double(), stride
        )
        assert_near(result[0], g_act)
        assert_near(for_weight, want_weight, 1e-4)
        if pending:
            assert_near(result[1], sums, 1e-4)


@pytest.mark.parametrize("channels", [5, 16])
@pytest.mark.parametrize("stride", [ONE, (1, 2, 2), (2, 2, 2)])
def test_a_gradient_that_waits_for_its_norm_is_finished_while_it_is_read(passes, channels, stride):
    torch.manual_seed(0)
    shape = (6, 7, 10)
    source, weight = draw(2, channels, shape), torch.randn(channels, 1, 3, 3, 3)
    u = passes.depthwise_forward([source], weight, stride, shape)[0]
    behind = Features(u, drawn_norm(u))
    g_act, sums = torch.randn(u.shape), torch.randn(2, 2, channels)
    gradient = reference.finish(g_act.double(), u.double(), double(behind.norm), sums.double())[0]
    want = reference.depthwise_backward(
        gradient, source.x.double(), double(source.norm), weight.double(), stride
    )
    (result,), for_weight = passes.depthwise_backward(
        g_act, sums, behind, [source], weight, stride, shape, [True]
    )
    for got, value in zip((*result, for_weight), want, strict=True):
        assert_near(got, value, 1e-4)


@pytest.mark.parametrize("channels", [1, 16, 20])
def test_finish_gives_the_gradients_of_the_raw_tensor_and_of_the_norm(passes, channels):
    torch.manual_seed(0)
    source = draw(2, channels, (4, 5, 6))
    g_act, sums = torch.randn(source.x.shape), torch.randn(2, 2, channels)
    want = reference.finish(g_act.double(), source.x.double(), double(source.norm), sums.double())
    for got, value in zip(passes.finish(g_act.clone(), source, sums), want, strict=True):
        assert_near(got, value)


@pytest.mark.parametrize("pending", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (5, 16), (16, 16), (20, 21), (48, 32)])
def test_pointwise_agrees(passes, inputs, outputs, pending):
    torch.manual_seed(0)
    for shape in [(5, 7, 6), (1, 1, 3), (10, 11, 12)]:
        source, matrix = draw(2, inputs, shape, pending=pending), torch.randn(outputs, inputs)
        bias, x, norm = torch.randn(outputs), source.x.double(), double(source.norm)
        v, mean, rstd = passes.pointwise_forward(source, matrix)
        want = reference.pointwise_forward(x, norm, matrix.double())[0]
        assert_near(v, want)
        assert_statistics(mean, rstd, want)
        with_bias = passes.pointwise_forward(source, matrix, bias, statistics=False)[0]
        assert_near(with_bias, want + bias.double()[:, None, None, None])
        gradient = torch.randn(v.shape)
        g_act, sums, for_matrix, for_bias = passes.pointwise_backward(
            gradient, source, matrix, (True, True, True)
        )
        wanted = reference.pointwise_backward(gradient.double(), x, norm, matrix.double())
        assert_near(g_act, wanted[0])
        assert_near(for_matrix, wanted[2], 1e-4)
        assert_near(for_bias, gradient.double().sum((0, 2, 3, 4)), 1e-4)
        if pending:
            assert_near(sums, wanted[1], 1e-4)
        nothing = passes.pointwise_backward(gradient, source, matrix, (False, False, False))
        assert [nothing[i] for i in (0, 2, 3)] == [None] * 3


@pytest.mark.parametrize("up", [(2, 2, 2), (1, 2, 2), (2, 1, 2)])
@pytest.mark.parametrize("fine", [(6, 8, 10), (5, 7, 9), (40, 37, 21)])
@pytest.mark.parametrize("channels", [(16, 16), (20, 5)])
def test_repeated_and_joined_sources_are_read_in_place(passes, channels, fine, up):
    torch.manual_seed(1)  # no argument of an activation is within rounding of its kink
    coarse = [-(-n // times) for n, times in zip(fine, up, strict=True)]
    sources = [draw(2, channels[0], coarse)._replace(up=up), draw(2, channels[1], fine)]
    weight = torch.randn(sum(channels), 1, 3, 3, 3)
    values = [reference.activated(s.x.double(), double(s.norm)).requires_grad_() for s in sources]
    whole = values[0]
    for axis, times in enumerate(up, start=2):
        whole = whole.repeat_interleave(times, axis)
    joined = torch.cat([whole[:, :, : fine[0], : fine[1], : fine[2]], values[1]], 1)
    want = reference.depthwise_forward(joined, None, weight.double(), ONE)[0]
    u, mean, rstd = passes.depthwise_forward(sources, weight, ONE, fine)
    assert_near(u, want.detach())
    assert_statistics(mean, rstd, want.detach())
    gradient = torch.randn(u.shape)
    want.backward(gradient.double())
    results, _ = passes.depthwise_backward(
        gradient, None, None, sources, weight, ONE, fine, [True, True]
    )
    for result, value, source in zip(results, values, sources, strict=True):
        x, norm = source.x.double(), double(source.norm)
        before = reference.normalised(x, norm) * _wide(norm.weight) + _wide(norm.bias)
        g_act = torch.where(before > 0, value.grad, value.grad * norm.slope)
        assert_near(result[0], g_act)
        xhat = reference.normalised(x, norm)
        space = (2, 3, 4)
        assert_near(result[1], torch.stack([g_act.sum(space), (g_act * xhat).sum(space)], 1), 1e-4)


@pytest.mark.parametrize("inputs", [1, 2, 4])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (1, 1, 1)])
def test_the_stem_agrees_with_torchs_convolution(passes, kernel, inputs):
    torch.manual_seed(0)
    every = itertools.product([(5, 7, 6), (1, 2, 3), (9, 8, 17)], [5, 16, 24], [ONE, (2, 2, 2)])
    for shape, outputs, stride in every:
        image, weight = torch.randn(2, inputs, *shape), torch.randn(outputs, inputs, *kernel)
        leaf = weight.double().requires_grad_()
        padding = tuple(k // 2 for k in kernel)
        want = torch.nn.functional.conv3d(image.double(), leaf, None, stride, padding)
        u, mean, rstd = passes.stem_forward(image, weight, stride)
        assert_near(u, want.detach())
        assert_statistics(mean, rstd, want.detach())
        gradient = torch.randn(u.shape)
        want.backward(gradient.double())
        assert_near(passes.stem_backward(gradient, image, weight, stride), leaf.grad, 1e-4)


@pytest.mark.parametrize("channels", [3, 16, 20])
@pytest.mark.parametrize("kinds", [(True,), (True, True), (True, False), (False, True)])
def test_the_sum_of_features_agrees(passes, kinds, channels):
    torch.manual_seed(0)
    sources = [draw(2, channels, (5, 6, 11), pending=pending) for pending in kinds]
    values = [reference.activated(s.x.double(), double(s.norm)).requires_grad_() for s in sources]
    want = torch.nn.functional.leaky_relu(sum(values), 0.1)
    y = passes.sum_forward(sources, 0.1)
    assert_near(y, want.detach())
    gradient = torch.randn(y.shape)
    want.backward(gradient.double())
    results = passes.sum_backward(gradient, y, sources, 0.1, [True] * len(kinds))
    for result, value, source in zip(results, values, sources, strict=True):
        if source.norm is None:
            assert_near(result[0], value.grad)
            continue
        x, norm = source.x.double(), double(source.norm)
        before = reference.normalised(x, norm) * _wide(norm.weight) + _wide(norm.bias)
        g_act = torch.where(before > 0, value.grad, value.grad * norm.slope)
        assert_near(result[0], g_act)
        assert_near(result[1][:, 0], g_act.sum((2, 3, 4)), 1e-4)
    assert passes.sum_backward(gradient, y, sources, 0.1, [False] * len(kinds)) == [None] * len(
        kinds
    )


def test_a_large_common_offset_costs_no_precision(passes):
    torch.manual_seed(0)
    source = draw(1, 16, (6, 20, 20), offset=1000.0, pending=False)
    weight = torch.zeros(16, 1, 1, 1, 1) + 1
    u, mean, rstd = passes.depthwise_forward([source], weight, ONE, (6, 20, 20))
    assert torch.equal(u, source.x)
    want_mean, want_rstd = reference.statistics(source.x.double())
    assert_near(mean, want_mean, 1e-6)
    assert_near(rstd, want_rstd, 1e-4)


@pytest.mark.parametrize("channels", [5, 20])
def test_any_layout_in_memory_gives_the_same_answer(passes, channels):
    torch.manual_seed(0)
    shape = (5, 6, 7)
    source, weight = draw(2, channels, shape), torch.randn(channels, 1, 3, 3, 3)
    want = passes.depthwise_forward([source], weight, (1, 2, 2), shape)
    wide = torch.full((3, channels + 2, 6, 8, 9), float("nan"))
    wide[1:, 1:-1, 1:, 1:-1, 2:] = source.x
    turned = weight.transpose(2, 4).contiguous().transpose(2, 4)
    layouts = [source.x.contiguous(memory_format=torch.channels_last_3d)]
    layouts += [wide[1:, 1:-1, 1:, 1:-1, 2:], source.x.transpose(2, 4).contiguous().transpose(2, 4)]
    for x in layouts:
        got = passes.depthwise_forward([source._replace(x=x)], turned, (1, 2, 2), shape)
        for one, other in zip(got, want, strict=True):
            assert_near(one, other.double(), 1e-6)
    spread = torch.ones(()).expand(want[0].shape)  # what .sum().backward() sends: all strides 0
    dense = spread.contiguous()
    some, others = (
        passes.depthwise_backward(g, None, None, [source], weight, (1, 2, 2), shape, [True])
        for g in (spread, dense)
    )
    assert_near(some[0][0][0], others[0][0][0].double(), 1e-6)
    assert_near(some[1], others[1].double(), 1e-6)


def test_the_bits_do_not_depend_on_the_number_of_threads(native_path, threads):
    torch.manual_seed(0)
    shape = (9, 24, 21)
    source, weight = draw(2, 32, shape), torch.randn(32, 1, 3, 3, 3)
    matrix, image = torch.randn(16, 32), torch.randn(2, 1, *shape)
    every = []
    for n in (1, 2, 3, 7):
        threads(n)
        u, mean, rstd = native.depthwise_forward([source], weight, ONE, shape)
        between = Features(u, Pending(mean, rstd, *source.norm[2:]))
        v, *found = native.pointwise_forward(between, matrix)
        g_act, sums, for_matrix, _ = native.pointwise_backward(
            v, between, matrix, (True, True, False)
        )
        (result,), for_weight = native.depthwise_backward(
            g_act, sums, between, [source], weight, ONE, shape, [True]
        )
        stem = native.stem_backward(u, image, torch.randn(32, 1, 3, 3, 3), ONE)
        every.append([u, mean, rstd, v, *found, g_act, sums, for_matrix, *result, for_weight, stem])
    for other in every[1:]:
        assert all(torch.equal(a, b) for a, b in zip(every[0], other, strict=True))


def test_one_voxel_in_the_middle_by_hand(passes):
    x = torch.zeros(1, 1, 3, 3, 3)
    x[0, 0, 1, 1, 1] = 2
    kernel = torch.arange(27.0).reshape(1, 1, 3, 3, 3)
    source = Features(x, None)
    u, mean, _ = passes.depthwise_forward([source], kernel, ONE, (3, 3, 3))
    assert torch.equal(u, 2 * kernel.flip(2, 3, 4))
    assert mean.item() == 2 * 351 / 27  # 351 = 0 + 1 + ... + 26
    ones = torch.ones(1, 1, 3, 3, 3)
    for_weight = passes.depthwise_backward(
        ones, None, None, [source], kernel, ONE, (3, 3, 3), [True]
    )[1]
    assert torch.equal(for_weight, 2 * ones)


def _wide(value):
    return value[..., None, None, None]
