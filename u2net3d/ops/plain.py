"""The passes of the network in torch's own operators: any device, any floating type.

The path without native kernels. The passes and their arguments are those of `native.py`; their
formulas stand in `reference.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from u2net3d.ops.pending import EPS, Features, Pending, Triple

_SPACE = (2, 3, 4)


def depthwise_forward(
    sources: Sequence[Features], weight: Tensor, stride: Triple, fine: Triple
) -> tuple[Tensor, Tensor, Tensor]:
    """As `native.depthwise_forward`."""
    u = _convolve(_joined(sources, fine), weight, stride)
    return u, *statistics(u)


def depthwise_backward(
    gradient: Tensor, sums: Tensor | None, u: Features | None, sources: Sequence[Features],
    weight: Tensor, stride: Triple, fine: Triple, wanted: Sequence[bool],
) -> tuple[list[tuple[Tensor, Tensor] | None], Tensor]:  # fmt: skip
    """As `native.depthwise_backward`."""
    if sums is not None and u is not None:
        gradient = finish(gradient, u, sums)[0]
    y = _joined(sources, fine)
    for_y = _input_gradient(gradient, weight, y) if any(wanted) else None
    for_weight = _weight_gradient(gradient, y, weight, stride)
    results: list[tuple[Tensor, Tensor] | None] = []
    first = 0
    for source, asked in zip(sources, wanted, strict=True):
        channels = source.x.shape[1]
        if asked and for_y is not None:
            own = _gathered(for_y[:, first : first + channels], source)
            results.append(_behind(own, source))
        else:
            results.append(None)
        first += channels
    return results, for_weight


def pointwise_forward(
    source: Features, weight: Tensor, bias: Tensor | None = None, *, statistics: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """As `native.pointwise_forward`."""
    rows = activated(source).permute(0, 2, 3, 4, 1)
    v = F.linear(rows, weight, bias).permute(0, 4, 1, 2, 3)
    return v, *(_statistics(v) if statistics else (v.new_empty(0), v.new_empty(0)))


def pointwise_backward(
    gradient: Tensor, source: Features, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """As `native.pointwise_backward`."""
    g = gradient.permute(0, 2, 3, 4, 1).flatten(0, 3)
    for_weight = None
    if wanted[1]:
        for_weight = g.t() @ activated(source).permute(0, 2, 3, 4, 1).flatten(0, 3)
    for_bias = g.sum(0) if wanted[2] else None
    if not wanted[0]:
        return None, source.x.new_empty(0), for_weight, for_bias
    batch, _, *space = source.x.shape
    for_y = (g @ weight).view(batch, *space, weight.shape[1]).permute(0, 4, 1, 2, 3)
    return *_behind(for_y, source), for_weight, for_bias


def stem_forward(image: Tensor, weight: Tensor, stride: Triple) -> tuple[Tensor, Tensor, Tensor]:
    """As `native.stem_forward`."""
    d, h, w = weight.shape[2:]
    image = image.contiguous(memory_format=torch.channels_last_3d)
    u = F.conv3d(image, weight, None, stride, (d // 2, h // 2, w // 2))
    return u, *statistics(u)


def stem_backward(gradient: Tensor, image: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    """As `native.stem_backward`."""
    return _convolution_backward(gradient, image, weight, stride, 1)


def sum_forward(sources: Sequence[Features], slope: float) -> Tensor:
    """As `native.sum_forward`."""
    first, *others = (activated(source) for source in sources)
    for other in others:
        first = first + other
    return F.leaky_relu(first, slope)


def sum_backward(
    gradient: Tensor, y: Tensor, sources: Sequence[Features], slope: float, wanted: Sequence[bool]
) -> list[tuple[Tensor, Tensor] | None]:
    """As `native.sum_backward`."""
    gradient = torch.where(y > 0, gradient, gradient * slope)
    return [
        _behind(gradient, source) if asked else None
        for source, asked in zip(sources, wanted, strict=True)
    ]


def finish(g_act: Tensor, source: Features, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `native.finish`, in memory of its own."""
    assert source.norm is not None
    voxels = source.x.shape[2:].numel()
    of_ones, of_xhat = sums.unbind(1)
    inner = g_act - _wide(of_ones / voxels) - _xhat(source.x, source.norm) * _wide(of_xhat / voxels)
    scale = source.norm.weight * source.norm.rstd
    return inner * _wide(scale), of_xhat.sum(0), of_ones.sum(0)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(biased variance + EPS) of every channel of every sample, both (B, C)."""
    variance, mean = torch.var_mean(x, _SPACE, correction=0)
    return mean, torch.rsqrt(variance + EPS)


_statistics = statistics  # where an argument has its name


def activated(source: Features) -> Tensor:
    """x with its pending norm carried out; `up` does not count."""
    if source.norm is None:
        return source.x
    return F.leaky_relu(_before(source.x, source.norm), source.norm.slope)


def _joined(sources: Sequence[Features], fine: Triple) -> Tensor:
    """The sources on the fine grid, one behind the other along the channels."""
    parts = [_repeated(activated(source), source.up, fine) for source in sources]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _repeated(x: Tensor, up: Triple, fine: Triple) -> Tensor:
    """Repeats every voxel `up` times and crops to `fine`, as one expand over channels-last rows."""
    if up == (1, 1, 1):
        return x
    d, h, w = up
    batch, channels, depth, height, width = x.shape
    rows = x.permute(0, 2, 3, 4, 1)[:, :, None, :, None, :, None]
    repeated = rows.expand(batch, depth, d, height, h, width, w, channels)
    whole = repeated.reshape(batch, depth * d, height * h, width * w, channels)
    return whole[:, : fine[0], : fine[1], : fine[2]].permute(0, 4, 1, 2, 3)


def _gathered(gradient: Tensor, source: Features) -> Tensor:
    """The gradient of what was repeated: the sum over the repetitions."""
    for axis, (up, size) in enumerate(zip(source.up, source.x.shape[2:], strict=True), start=2):
        if up == 1:
            continue
        missing = size * up - gradient.shape[axis]
        padding = [0, 0] * (4 - axis) + [0, missing]
        gradient = F.pad(gradient, padding)
        gradient = gradient.reshape(*gradient.shape[:axis], size, up, *gradient.shape[axis + 1 :])
        gradient = gradient.sum(axis + 1)
    return gradient


def _behind(gradient: Tensor, source: Features) -> tuple[Tensor, Tensor]:
    """g_act and its sums, from the gradient of the activated features."""
    if source.norm is None:
        return gradient, gradient.new_empty(0)
    positive = _before(source.x, source.norm) > 0
    g_act = torch.where(positive, gradient, gradient * source.norm.slope)
    products = g_act * _xhat(source.x, source.norm)
    return g_act, torch.stack([g_act.sum(_SPACE), products.sum(_SPACE)], 1)


def _before(x: Tensor, norm: Pending) -> Tensor:
    scale = norm.weight * norm.rstd
    return x * _wide(scale) + _wide(norm.bias - norm.mean * scale)


def _xhat(x: Tensor, norm: Pending) -> Tensor:
    return (x - _wide(norm.mean)) * _wide(norm.rstd)


def _convolve(x: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    d, h, w = weight.shape[2:]
    return F.conv3d(x, weight, None, stride, (d // 2, h // 2, w // 2), groups=x.shape[1])


def _input_gradient(gradient: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """Again a depthwise convolution, with the flipped kernel: torch's own is far slower."""
    if gradient.shape != x.shape:  # strided: put the gradient back on the fine grid, zeros between
        d, h, w = (-(-n // m) for n, m in zip(x.shape[2:], gradient.shape[2:], strict=True))
        spread = torch.zeros_like(x, memory_format=torch.channels_last_3d)
        spread[:, :, ::d, ::h, ::w] = gradient
        gradient = spread
    return _convolve(gradient, weight.flip(2, 3, 4), (1, 1, 1))


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    return _convolution_backward(gradient, x, weight, stride, x.shape[1])


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Triple, groups: int
) -> Tensor:
    padding = [k // 2 for k in weight.shape[2:]]
    _, for_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, list(stride), padding, [1, 1, 1], False, [0, 0, 0], groups,
        [False, True, False],
    )  # fmt: skip
    result: Tensor = for_weight
    return result


def _wide(statistic: Tensor) -> Tensor:
    return statistic[..., None, None, None]
