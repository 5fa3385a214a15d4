"""Every operator of u2net3d/ops beside torch's own in channels-last, and the memory's bandwidth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from bench_contenders import Job
from torch import Tensor
from torch.nn import functional as F

from u2net3d.ops import layers, native, plain
from u2net3d.ops.pending import EPS, Features, Pending, Triple

_SLOPE, _FLOAT_BYTES = 0.01, 4
_ONE, _TWO = (1, 1, 1), (2, 2, 2)


@dataclass(frozen=True)
class Side:
    """forward gives what backward takes."""

    forward: Callable[[], Any]
    backward: Callable[[Any], object]


@dataclass(frozen=True)
class Operator:
    """An operator and its peer on the same numbers, and the least that both must move.

    forward, backward: floats of the least exact schedule, each tensor being larger than the caches
    (docs/bench.md derives them). macs: multiplications and additions of its convolutions, forward;
    backward has them twice, once for the weights and once for the input, the stem only the former.
    """

    name: str
    ours: Side
    torch: Side
    forward: int
    backward: int
    macs: int
    macs_backward: int


class Least(NamedTuple):
    """What an operator has to do at least."""

    bytes: int
    macs: int


def measured(job: Job) -> tuple[Callable[[], dict[str, float]], dict[str, Least]]:
    """A round of all operators, and what they have to do at least.

    The round gives seconds by `operator|forward or backward|ours or torch`, GB/s by `copy` and
    `triad`, 10⁹ multiply-adds a second by `product`; the least by `operator|forward or backward`.
    """
    torch.set_default_device(job.device)
    torch.manual_seed(1)
    table = operators((1, 8, 6, 10, 8) if job.quick else (2, 16, 64, 64, 64))
    buffers = [torch.ones(2**20 if job.quick else 2**26) for _ in range(3)]
    least_s = 0.0 if job.quick else 0.05

    def once() -> dict[str, float]:
        found = limits(buffers, job.device)
        for operator in table:
            for name, side in (("ours", operator.ours), ("torch", operator.torch)):
                forward, backward = _seconds(side, least_s, job.device)
                found[f"{operator.name}|forward|{name}"] = forward
                found[f"{operator.name}|backward|{name}"] = backward
        return found

    once()
    least = {}
    for each in table:
        least[f"{each.name}|forward"] = Least(each.forward * _FLOAT_BYTES, each.macs)
        least[f"{each.name}|backward"] = Least(each.backward * _FLOAT_BYTES, each.macs_backward)
    return once, least


def limits(buffers: Sequence[Tensor], device: str) -> dict[str, float]:
    """What the machine can do.

    GB/s of a copy (one read, one write) and of a triad a = b + 3 c (two reads, one write); 10⁹
    multiply-adds a second of a product of two square float32 matrices.
    """
    a, b, c = buffers
    side = min(1024, math.isqrt(a.numel()))
    square = a[: side * side].view(side, side)
    size = a.numel() * _FLOAT_BYTES / 1e9
    copy = _least_seconds(lambda: a.copy_(b), device)
    triad = _least_seconds(lambda: torch.add(b, c, alpha=3, out=a), device)
    product = _least_seconds(lambda: square @ square, device)
    return {"copy": 2 * size / copy, "triad": 3 * size / triad, "product": side**3 / product / 1e9}


def operators(shape: tuple[int, int, int, int, int]) -> list[Operator]:
    """All of them, for inputs (B, C, D, H, W)."""
    x = _drawn(*shape)
    return [
        _stem(_drawn(shape[0], 1, *shape[2:]), shape[1]),
        _depthwise("depthwise 3×3×3", x, (3, 3, 3), _ONE),
        _depthwise("depthwise 1×3×3", x, (1, 3, 3), _ONE),
        _depthwise("depthwise 3×3×3, stride 2", x, (3, 3, 3), _TWO),
        _pointwise(x),
        _unit("separable unit", x, inner=True),
        _unit("separable unit without inner norm", x, inner=False),
        _summed(x, _drawn(*shape)),
        _head(x, classes=3),
    ]


def _stem(image: Tensor, channels: int) -> Operator:
    passes, weight = _passes(image), _weight(channels, 1, 3, 3, 3)
    ours = Side(
        lambda: passes.stem_forward(image, weight, _ONE),
        lambda found: passes.stem_backward(_ones(found[0]), image, weight, _ONE),
    )
    size = image.numel() + channels * image.numel()
    peer = _by_torch(lambda: F.conv3d(image, weight, padding=1), weight)
    macs = image.numel() * weight.numel()
    return Operator("stem", ours, peer, size, size, macs, macs)


def _depthwise(name: str, x: Tensor, kernel: Triple, stride: Triple) -> Operator:
    passes, channels = _passes(x), x.shape[1]
    weight, sources, (d, h, w) = _weight(channels, 1, *kernel), [Features(x, None)], x.shape[2:]
    padding = [n // 2 for n in kernel]
    ours = Side(
        lambda: passes.depthwise_forward(sources, weight, stride, (d, h, w)),
        lambda found: passes.depthwise_backward(
            _ones(found[0]), None, None, sources, weight, stride, (d, h, w), [True]
        ),
    )
    moving = x.detach().requires_grad_()
    peer = _by_torch(
        lambda: F.conv3d(moving, weight, None, stride, padding, groups=channels), moving, weight
    )
    u = peer.forward().numel()
    macs = u * math.prod(kernel)
    return Operator(name, ours, peer, x.numel() + u, 2 * x.numel() + u, macs, 2 * macs)


def _pointwise(x: Tensor) -> Operator:
    passes, channels = _passes(x), x.shape[1]
    weight, source = _weight(channels, channels), Features(x, None)
    ours = Side(
        lambda: passes.pointwise_forward(source, weight),
        lambda found: passes.pointwise_backward(
            _ones(found[0]), source, weight, (True, True, False)
        ),
    )
    moving = x.detach().requires_grad_()
    peer = _by_torch(lambda: F.conv3d(moving, weight[:, :, None, None, None]), moving, weight)
    macs = x.numel() * channels
    return Operator("pointwise", ours, peer, 2 * x.numel(), 3 * x.numel(), macs, 2 * macs)


def _unit(name: str, x: Tensor, *, inner: bool) -> Operator:
    """Reads a pending norm and leaves one: stride 1, as many channels out as in."""
    channels, (d, h, w) = x.shape[1], x.shape[2:]
    source = _pending(x)
    weight, matrix = _weight(channels, 1, 3, 3, 3), _weight(channels, channels)
    between, behind = _norm(channels), _norm(channels)
    inputs = [source.x, *source.norm.tensors[2:], weight, matrix]
    inputs += between[:2] if inner else []

    def ours() -> Tensor:
        norm = between if inner else None
        return layers.separable_unit([source], weight, norm, matrix, behind, _ONE, (d, h, w)).x

    def peer() -> Tensor:
        u = F.conv3d(_applied(source), weight, padding=1, groups=channels)
        u = _normed(u, *between[:2]) if inner else u
        return F.conv3d(u, matrix[:, :, None, None, None])

    forward, backward = (4, 10) if inner else (2, 6)
    size = x.numel()
    sides = (_by_torch(ours, *inputs), _by_torch(peer, *inputs))
    macs = size * (27 + channels)
    return Operator(name, *sides, forward * size, backward * size, macs, 2 * macs)


def _summed(x: Tensor, other: Tensor) -> Operator:
    first, second = _pending(x), _pending(other)
    inputs = [t for each in (first, second) for t in (each.x, *each.norm.tensors[2:])]

    def peer() -> Tensor:
        return F.leaky_relu(_applied(first) + _applied(second), _SLOPE)

    sides = (
        _by_torch(lambda: layers.summed([first, second], _SLOPE).x, *inputs),
        _by_torch(peer, *inputs),
    )
    return Operator("sum and activation", *sides, 3 * x.numel(), 10 * x.numel(), 0, 0)


def _head(x: Tensor, classes: int) -> Operator:
    source, matrix, bias = _pending(x), _weight(classes, x.shape[1]), _weight(classes)
    inputs = [source.x, *source.norm.tensors[2:], matrix, bias]

    def peer() -> Tensor:
        return F.conv3d(_applied(source), matrix[:, :, None, None, None], bias)

    sides = (
        _by_torch(lambda: layers.head(source, matrix, bias), *inputs),
        _by_torch(peer, *inputs),
    )
    y = x.numel() // x.shape[1] * classes
    macs = x.numel() * classes
    return Operator("head", *sides, x.numel() + y, 5 * x.numel() + y, macs, 2 * macs)


def _by_torch(forward: Callable[[], Tensor], *inputs: Tensor) -> Side:
    """The backward that autograd knows, for all inputs."""
    return Side(forward, lambda y: torch.autograd.grad(y, inputs, _ones(y)))


def _pending(x: Tensor) -> Features:
    """x with its own statistics, norm and activation not carried out yet."""
    variance, mean = torch.var_mean(x, (2, 3, 4), correction=0)
    rstd = torch.rsqrt(variance + EPS)
    raw = x.detach().requires_grad_()
    return Features(raw, Pending(mean, rstd, *_norm(x.shape[1])))


def _applied(source: Features) -> Tensor:
    """The same carried out by torch, statistics included."""
    assert source.norm is not None
    return _normed(source.x, source.norm.weight, source.norm.bias)


def _normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(F.instance_norm(x, None, None, weight, bias, eps=EPS), _SLOPE)


def _norm(channels: int) -> layers.Norm:
    return layers.Norm(_weight(channels), _weight(channels), _SLOPE)


def _passes(x: Tensor) -> Any:
    """Those that the operators themselves take for such a tensor."""
    return native if native.usable(x) else plain


def _weight(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


def _drawn(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last_3d)


def _ones(y: Tensor) -> Tensor:
    return torch.ones_like(y)


def _seconds(side: Side, least_s: float, device: str) -> tuple[float, float]:
    """Of one forward and one backward, the mean of as many as take `least_s`."""
    forward, backward, count = 0.0, 0.0, 0
    while count == 0 or forward + backward < least_s:
        count += 1
        began = time.perf_counter()
        found = side.forward()
        _wait(device)
        forward += time.perf_counter() - began
        began = time.perf_counter()
        side.backward(found)
        _wait(device)
        backward += time.perf_counter() - began
    return forward / count, backward / count


def _least_seconds(act: Callable[[], object], device: str) -> float:
    """The least of three, as STREAM has it: a limit is what the machine can do."""
    found = []
    for _ in range(3):
        began = time.perf_counter()
        act()
        _wait(device)
        found.append(time.perf_counter() - began)
    return min(found)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
