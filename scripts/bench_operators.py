"""Every operator of u2net3d/ops beside torch's own in channels-last, and the memory's bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from bench_contenders import Job
from torch import Tensor
from torch.nn import functional as F

from u2net3d.models.units import Pointwise, UnitBank
from u2net3d.ops.depthwise import depthwise_conv3d
from u2net3d.ops.norm import instance_norm_act
from u2net3d.ops.pointwise import pointwise_conv3d

Function = Callable[[Tensor], Tensor]
_SLOPE, _EPS, _FLOAT_BYTES = 0.01, 1e-5, 4


@dataclass(frozen=True)
class Operator:
    """An operator and its peer, each with weights of its own, and the least it can do.

    forward, backward: passes over the input and over the output of the least exact schedule, each
    tensor being larger than the caches: one to read or write it, a further one where the mean over
    a whole channel must be known first (docs/bench.md derives them).
    """

    name: str
    ours: Function
    torch: Function
    weights: tuple[Tensor, ...]
    forward: tuple[int, int]
    backward: tuple[int, int]


def operators(channels: int) -> list[Operator]:
    """All of them, for tensors of that many channels."""
    return [
        _depthwise("depthwise 3×3×3", channels, (3, 3, 3), (1, 1, 1)),
        _depthwise("depthwise 1×3×3", channels, (1, 3, 3), (1, 1, 1)),
        _depthwise("depthwise 3×3×3, stride 2", channels, (3, 3, 3), (2, 2, 2)),
        _norm(channels),
        _pointwise(channels),
        _unit(channels),
    ]


def measured(job: Job) -> Callable[[], dict[str, float]]:
    """A round of all of them: seconds by `operator|forward or backward|ours or torch`, and GB/s."""
    shape = input_shape(job.quick)
    least_s = 0.0 if job.quick else 0.05
    torch.set_default_device(job.device)
    torch.manual_seed(1)
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    table = operators(shape[1])
    buffers = [torch.ones(2**20 if job.quick else 2**26) for _ in range(3)]

    def once() -> dict[str, float]:
        found = bandwidth(buffers, job.device)
        for operator in table:
            for side, function in (("ours", operator.ours), ("torch", operator.torch)):
                forward, backward = _seconds(operator, function, x, least_s, job.device)
                found[f"{operator.name}|forward|{side}"] = forward
                found[f"{operator.name}|backward|{side}"] = backward
        return found

    once()
    return once


def input_shape(quick: bool) -> tuple[int, int, int, int, int]:
    """(B, C, D, H, W) of the input of every operator: 32 MiB, or next to nothing."""
    return (1, 8, 6, 10, 8) if quick else (2, 16, 64, 64, 64)


def least_bytes(job: Job) -> dict[str, int]:
    """Bytes of the least schedule by `operator|forward or backward`."""
    x = torch.zeros(input_shape(job.quick))
    found = {}
    for operator in operators(x.shape[1]):
        with torch.no_grad():
            sizes = (x.numel(), operator.torch(x).numel())
        for side, passes in (("forward", operator.forward), ("backward", operator.backward)):
            count = sum(n * size for n, size in zip(passes, sizes, strict=True))
            found[f"{operator.name}|{side}"] = count * _FLOAT_BYTES
    return found


def bandwidth(buffers: list[Tensor], device: str) -> dict[str, float]:
    """GB/s of a copy (one read, one write) and of a triad a = b + 3 c (two reads, one write)."""
    a, b, c = buffers
    size = a.numel() * _FLOAT_BYTES / 1e9
    copy = _timed(lambda: a.copy_(b), device)
    triad = _timed(lambda: torch.add(b, c, alpha=3, out=a), device)
    return {"copy": 2 * size / copy, "triad": 3 * size / triad}


def _seconds(
    operator: Operator, function: Function, x: Tensor, least_s: float, device: str
) -> tuple[float, float]:
    """Of one forward and one backward, the mean of as many as take `least_s`."""
    forward, backward, count = 0.0, 0.0, 0
    inputs = (x, *operator.weights)
    while count == 0 or forward + backward < least_s:
        count += 1
        began = time.perf_counter()
        y = function(x)
        _wait(device)
        forward += time.perf_counter() - began
        gradient = torch.ones_like(y)
        began = time.perf_counter()
        torch.autograd.grad(y, inputs, gradient)
        _wait(device)
        backward += time.perf_counter() - began
    return forward / count, backward / count


def _timed(act: Callable[[], object], device: str) -> float:
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


def _drawn(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


def _depthwise(
    name: str, channels: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> Operator:
    weight = _drawn(channels, 1, *kernel)
    d, h, w = (n // 2 for n in kernel)
    return Operator(
        name,
        lambda x: depthwise_conv3d(x, weight, stride),
        lambda x: F.conv3d(x, weight, None, stride, (d, h, w), groups=channels),
        (weight,),
        forward=(1, 1),
        backward=(2, 1),
    )


def _norm(channels: int) -> Operator:
    weight, bias = _drawn(channels), _drawn(channels)
    return Operator(
        "norm and activation",
        lambda x: instance_norm_act(x, weight, bias, _SLOPE, _EPS),
        lambda x: F.leaky_relu(F.instance_norm(x, None, None, weight, bias, eps=_EPS), _SLOPE),
        (weight, bias),
        forward=(2, 1),
        backward=(3, 2),
    )


def _pointwise(channels: int) -> Operator:
    weight = _drawn(channels, channels)
    return Operator(
        "pointwise",
        lambda x: pointwise_conv3d(x, weight),
        lambda x: F.conv3d(x, weight[:, :, None, None, None]),
        (weight,),
        forward=(1, 1),
        backward=(2, 1),
    )


def _unit(channels: int) -> Operator:
    """Depthwise, norm, activation, pointwise, norm, activation: stride 1, as many out as in."""
    bank, shared = UnitBank(channels, channels, (3, 3, 3)), Pointwise(channels, channels)
    weights = (*bank.parameters(), *shared.parameters())

    def peer(x: Tensor) -> Tensor:
        u = F.conv3d(x, bank.weight, None, 1, 1, groups=channels)
        u = F.instance_norm(u, None, None, bank.inner.weight, bank.inner.bias, eps=_EPS)
        v = F.conv3d(F.leaky_relu(u, _SLOPE), shared.weight[:, :, None, None, None])
        v = F.instance_norm(v, None, None, bank.outer.weight, bank.outer.bias, eps=_EPS)
        return F.leaky_relu(v, _SLOPE)

    return Operator(
        "separable unit",
        lambda x: bank(x, shared),
        peer,
        weights,
        forward=(3, 3),
        backward=(5, 5),
    )
