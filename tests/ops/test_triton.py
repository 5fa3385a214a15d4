"""The Triton passes against the textbook formulas in float64: on a GPU, or in the interpreter.

Run as it is this needs a GPU. `test_gpu.py` runs this very file on the CPU in a process of its own
with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import os

import pytest
import torch

from u2net3d.ops import gpu, reference
from u2net3d.ops.gpu_check import Case, exact, first_difference, passes, tensors, tolerance
from u2net3d.ops.pending import Features

pytest.importorskip("triton", reason="triton is not installed")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU, or triton's interpreter", allow_module_level=True)

# triton 3.9 warns that a default of its compiler will change; either serves here.
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
DEVICE = torch.device("cpu") if INTERPRETED else torch.device("cuda", 0)
SPACE = (2, 3, 4)
CASES = {
    "odd sizes, thick slices": Case((5, 3, 7), (1, 3, 3), (1, 1, 1), (16,), 16),
    "stride 2 on odd and even sizes": Case((5, 4, 3), (3, 3, 3), (2, 2, 2), (5,), 20, batch=3),
    "other kernels and strides": Case((3, 4, 5), (3, 1, 3), (2, 1, 1), (3,), 2),
    "axes of size 1": Case((1, 6, 1), (3, 3, 3), (1, 2, 2), (8,), 8, batch=1),
    "several blocks of channels": Case((2, 3, 3), (1, 1, 3), (1, 1, 1), (70,), 130, batch=1),
    "several blocks of voxels": Case((5, 7, 8), (1, 1, 3), (1, 1, 1), (4,), 40),
    "two sources": Case((2, 4, 6), (1, 1, 3), (1, 2, 2), (5, 20), 7, up=(1, 2, 2)),
    "repeated and cropped": Case((3, 5, 4), (3, 3, 1), (1, 1, 1), (20, 5), 6, up=(2, 2, 2)),
    "no norm": Case((3, 4, 3), (1, 3, 3), (1, 2, 1), (5,), 3, normed=False),
    "no activation": Case((3, 3, 4), (1, 1, 3), (1, 1, 1), (6,), 6, slope=1.0),
    "dead below zero": Case((3, 3, 4), (1, 1, 3), (1, 1, 1), (6,), 6, slope=0.0),
}
SMALL = Case((2, 3, 4), (1, 1, 3), (1, 1, 2), (5, 2), 3, up=(2, 1, 1))


@pytest.mark.parametrize("case", CASES)
def test_every_pass_agrees_with_the_reference(case):
    for name, arguments in passes(DEVICE, torch.float32, CASES[case]):
        assert error(name, arguments) <= tolerance(torch.float32, name) / 10, name


@pytest.mark.parametrize("case", ["odd sizes, thick slices", "two sources"])
def test_every_pass_agrees_in_bfloat16_as_far_as_that_is_exact(case):
    for name, arguments in passes(DEVICE, torch.bfloat16, CASES[case]):
        assert error(name, arguments) <= tolerance(torch.bfloat16, name), name


def test_the_self_check_finds_no_fault():
    assert gpu.checked(DEVICE) is None
    assert gpu.usable(torch.zeros(1, 2, 2, 2, 2, device=DEVICE))


@pytest.mark.parametrize("name", ["finish", "depthwise_forward"])
def test_the_self_check_notices_a_wrong_answer(name, monkeypatch):
    right = getattr(gpu, name)
    monkeypatch.setattr(gpu, name, lambda *a: (right(*a)[0] * 1.001, *right(*a)[1:]))
    assert first_difference(DEVICE, torch.float32).startswith(f"{name} is off by")


def test_any_layout_in_memory_gives_the_same_bits():
    for name, arguments in passes(DEVICE, torch.float32, SMALL):
        want = tensors(getattr(gpu, name)(*arguments))
        for layout in (torch.clone, transposed, within_a_larger):
            got = tensors(getattr(gpu, name)(*laid(list(arguments), layout)))
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), name


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs one program after the other")
def test_the_same_input_twice_gives_the_same_bits():
    for name, arguments in passes(DEVICE, torch.float32, CASES["several blocks of voxels"]):
        first, second = (tensors(getattr(gpu, name)(*arguments)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tensors_come_back_channels_last_and_in_their_type(dtype):
    for name, arguments in passes(DEVICE, dtype, SMALL):
        for result in tensors(getattr(gpu, name)(*arguments)):
            volume = result.ndim == 5 and name != "depthwise_backward"  # a weight has 5 axes too
            if volume:
                assert result.permute(0, 2, 3, 4, 1).is_contiguous(), name
            assert result.dtype == dtype or not volume, name


def test_what_is_not_wanted_is_not_given():
    for name, arguments in passes(DEVICE, torch.float32, SMALL):
        if name == "pointwise_backward":
            *others, _ = arguments
            g_act, _, for_matrix, for_bias = gpu.pointwise_backward(*others, (False,) * 3)
            assert (g_act, for_matrix, for_bias) == (None, None, None)
        elif name in {"depthwise_backward", "sum_backward"}:
            *others, wanted = arguments
            first = getattr(gpu, name)(*others, [False] * len(wanted))
            assert set(first[0] if name == "depthwise_backward" else first) == {None}


def test_a_large_common_offset_costs_little_precision():
    x = torch.randn(2, 4, 5, 7, 8, generator=torch.Generator().manual_seed(1)) + 3000
    weight = torch.ones(4, 1, 1, 1, 1, device=DEVICE)
    u, mean, rstd = gpu.depthwise_forward(
        [Features(x.to(DEVICE), None)], weight, (1, 1, 1), (5, 7, 8)
    )
    want_mean, want_rstd = reference.statistics(x.double())
    assert torch.equal(u.cpu(), x)
    assert (mean.cpu() / want_mean - 1).abs().max() < 1e-6
    assert (rstd.cpu() / want_rstd - 1).abs().max() < 1e-4


def error(name, arguments):
    """The largest error of a pass against the reference, of the largest value or 1."""
    got = tensors(getattr(gpu, name)(*arguments))
    want = tensors(BY_REFERENCE[name](*(exact(a) for a in arguments)))
    assert len(got) == len(want)
    return max(
        ((a.double().cpu() - b).abs().max() / b.abs().max().clamp(min=1)).item()
        for a, b in zip(got, want, strict=True)
        if b is not UNDEFINED
    )


UNDEFINED = torch.zeros(1, dtype=torch.float64)  # sums where no norm is pending


def before(source):
    if source.norm is None:
        return source.x.clone()
    norm = source.norm
    return reference.normalised(source.x, norm) * wide(norm.weight) + wide(norm.bias)


def activated(value, source):
    slope = source.norm.slope if source.norm else 1.0
    return torch.where(value > 0, value, value * slope)


def joined(values, sources, fine):
    parts = []
    for value, source in zip(values, sources, strict=True):
        y = activated(value, source)
        for axis, times in enumerate(source.up, start=2):
            y = y.repeat_interleave(times, axis)
        parts.append(y[:, :, : fine[0], : fine[1], : fine[2]])
    return torch.cat(parts, 1)


def with_sums(g_act, source):
    if source.norm is None:
        return g_act, UNDEFINED
    xhat = reference.normalised(source.x, source.norm)
    return g_act, torch.stack([g_act.sum(SPACE), (g_act * xhat).sum(SPACE)], 1)


def finish(g_act, source, sums):
    return reference.finish(g_act, source.x, source.norm, sums)


def depthwise_forward(sources, weight, stride, fine):
    y = joined([before(s) for s in sources], sources, fine)
    return reference.depthwise_forward(y, None, weight, stride)


def depthwise_backward(gradient, sums, u, sources, weight, stride, fine, wanted):
    if sums is not None:
        gradient = finish(gradient, u, sums)[0]
    values = [before(s).requires_grad_() for s in sources]
    y = joined(values, sources, fine)
    for_y, _, for_weight = reference.depthwise_backward(gradient, y.detach(), None, weight, stride)
    behind = torch.autograd.grad(y, values, for_y)
    return [with_sums(g, s) for g, s in zip(behind, sources, strict=True)], for_weight


def pointwise_forward(source, matrix, bias):
    v = reference.pointwise_forward(source.x, source.norm, matrix)[0] + wide(bias)
    return v, *reference.statistics(v)


def pointwise_backward(gradient, source, matrix, wanted):
    g_act, _, for_matrix = reference.pointwise_backward(gradient, source.x, source.norm, matrix)
    return *with_sums(g_act, source), for_matrix, gradient.sum((0, *SPACE))


def sum_forward(sources, slope):
    total = sum(activated(before(s), s) for s in sources)
    return torch.where(total > 0, total, total * slope)


def sum_backward(gradient, y, sources, slope, wanted):
    gradient = torch.where(y > 0, gradient, gradient * slope)
    results = []
    for source in sources:
        value = before(source).requires_grad_()
        (g_act,) = torch.autograd.grad(activated(value, source), value, gradient)
        results.append(with_sums(g_act, source))
    return results


BY_REFERENCE = {
    each.__name__: each
    for each in (
        finish, depthwise_forward, depthwise_backward, pointwise_forward, pointwise_backward,
        sum_forward, sum_backward,
    )
}  # fmt: skip


def wide(value):
    return value[..., None, None, None]


def laid(argument, layout):
    """An argument of a pass with its tensors laid out otherwise in memory."""
    if isinstance(argument, torch.Tensor):
        return layout(argument)
    if isinstance(argument, Features):
        return argument._replace(x=layout(argument.x))
    if isinstance(argument, list):
        return [laid(part, layout) for part in argument]
    return argument


def transposed(tensor):
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def within_a_larger(tensor):
    larger = tensor.new_full([n + 2 for n in tensor.shape], float("nan"))
    inner = larger[tuple(slice(1, -1) for _ in tensor.shape)]
    inner.copy_(tensor)
    return inner
