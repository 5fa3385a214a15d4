"""The network's native CPU kernels, called with tensors.

Tensors are float32 on the CPU and dense in channels-last order; every sum is added in an order that
only the shapes decide, so the bits depend neither on chance nor on the number of threads. The
passes are those of `reference.py`; there stand their formulas.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from u2net3d.ops.library import Kernels, library
from u2net3d.ops.pending import EPS, Features, Triple

_POINTER, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


def usable(*tensors: Tensor) -> bool:
    """Whether the native kernels take all these tensors."""
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return plain and all(t.numel() for t in tensors) and library() is not None


def depthwise_forward(
    sources: Sequence[Features], weight: Tensor, stride: Triple, fine: Triple
) -> tuple[Tensor, Tensor, Tensor]:
    """u (B, C, D', H', W') of the sources one behind the other along C, its mean and 1/std (B, C).

    weight (C, 1, kD, kH, kW); fine: the grid (D, H, W) on which the sources are read.
    """
    batch, channels = sources[0].x.shape[0], weight.shape[0]
    u = _rows(batch, [-(-n // s) for n, s in zip(fine, stride, strict=True)], channels)
    mean, rstd = torch.empty(2, batch, channels)
    weight = weight.contiguous()
    first = 0
    for source in sources:
        kept = _Kept(source)
        sizes = _depthwise_sizes(kept.x, source.up, fine, weight, stride, channels, first)
        own = weight[first : first + kept.x.shape[-1]]
        tensors = _pointers(*kept.tensors, own)
        _done(_kernels().depthwise_forward(
            sizes, tensors, kept.slope, u.data_ptr(), EPS, mean.data_ptr(), rstd.data_ptr(),
            torch.get_num_threads(),
        ))  # fmt: skip
        first += kept.x.shape[-1]
    return _planes(u), mean, rstd


def depthwise_backward(
    gradient: Tensor, sums: Tensor | None, u: Features | None, sources: Sequence[Features],
    weight: Tensor, stride: Triple, fine: Triple, wanted: Sequence[bool],
) -> tuple[list[tuple[Tensor, Tensor] | None], Tensor]:  # fmt: skip
    """For each source that is `wanted` (g_act like x, its sums (B, 2, C)); the weight's gradient.

    gradient: of u, or, with its sums (B, 2, C), of the norm of u; then u comes with that norm.
    """
    g, weight = _channels_last(gradient), weight.contiguous()
    channels, for_weight = weight.shape[0], torch.empty_like(weight)
    of_u = _Kept(u) if u is not None and sums is not None else None
    behind = (sums, *of_u.tensors[:4]) if of_u else (None,) * 5
    first, results = 0, []
    for source, asked in zip(sources, wanted, strict=True):
        kept = _Kept(source)
        here = slice(first, first + kept.x.shape[-1])
        sizes = _depthwise_sizes(kept.x, source.up, fine, weight, stride, channels, first)
        gx = torch.empty_like(kept.x) if asked else None
        gsums = torch.zeros(kept.x.shape[0], 2, kept.x.shape[-1])
        tensors = _pointers(*kept.tensors, weight[here], g, *behind)
        _done(_kernels().depthwise_backward(
            sizes, tensors, kept.slope, _address(gx),
            gsums.data_ptr(), for_weight[here].data_ptr(), torch.get_num_threads(),
        ))  # fmt: skip
        results.append((_planes(gx), gsums) if gx is not None else None)
        first = here.stop
    return results, for_weight


def pointwise_forward(
    source: Features, weight: Tensor, bias: Tensor | None = None, *, statistics: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """v (B, C', D, H, W) with its mean and 1/std (B, C'); the last two undefined where not asked.

    weight (C', C); bias (C',).
    """
    kept, weight = _Kept(source), weight.contiguous()
    batch, *space, _ = kept.x.shape
    v = _rows(batch, space, weight.shape[0])
    mean, rstd = torch.empty(2, batch, weight.shape[0])
    asked = (mean.data_ptr(), rstd.data_ptr()) if statistics else (None, None)
    tensors = _pointers(*kept.tensors, weight, bias)
    _done(_kernels().pointwise_forward(
        _pointwise_sizes(kept.x, weight), tensors, kept.slope, v.data_ptr(), EPS, *asked,
        torch.get_num_threads(),
    ))  # fmt: skip
    return _planes(v), mean, rstd


def pointwise_backward(
    gradient: Tensor, source: Features, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """g_act like x, its sums (B, 2, C), the gradients of weight and of a bias (C',).

    wanted: g_act, weight, bias; what is not wanted is None, or sums that mean nothing.
    """
    kept, weight, g = _Kept(source), weight.contiguous(), _channels_last(gradient)
    gx = torch.empty_like(kept.x) if wanted[0] else None
    gsums = torch.zeros(kept.x.shape[0], 2, kept.x.shape[-1])
    for_weight = torch.empty_like(weight) if wanted[1] else None
    for_bias = torch.empty(weight.shape[0]) if wanted[2] else None
    _done(_kernels().pointwise_backward(
        _pointwise_sizes(kept.x, weight), _pointers(*kept.tensors, weight, None, g), kept.slope,
        _address(gx), gsums.data_ptr(), _address(for_weight), _address(for_bias),
        torch.get_num_threads(),
    ))  # fmt: skip
    return None if gx is None else _planes(gx), gsums, for_weight, for_bias


def stem_forward(image: Tensor, weight: Tensor, stride: Triple) -> tuple[Tensor, Tensor, Tensor]:
    """u (B, C, ceil(D / stride_D), ...) of a dense convolution, its mean and 1/std (B, C).

    image (B, I, D, H, W), weight (C, I, kD, kH, kW), padding kernel // 2.
    """
    padded, sizes = _padded(image, weight, stride)
    u = _rows(image.shape[0], sizes[3:6], weight.shape[0])
    mean, rstd = torch.empty(2, image.shape[0], weight.shape[0])
    matrix = weight.permute(2, 3, 4, 1, 0).contiguous()
    _done(_kernels().stem_forward(
        sizes, padded.data_ptr(), matrix.data_ptr(), u.data_ptr(), EPS, mean.data_ptr(),
        rstd.data_ptr(), torch.get_num_threads(),
    ))  # fmt: skip
    return _planes(u), mean, rstd


def stem_backward(gradient: Tensor, image: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    """The gradient of the weight; that of the image is nobody's concern."""
    padded, sizes = _padded(image, weight, stride)
    g = _channels_last(gradient)
    out, inputs, *kernel = weight.shape
    for_matrix = torch.empty(*kernel, inputs, out)
    _done(
        _kernels().stem_backward(
            sizes, padded.data_ptr(), g.data_ptr(), for_matrix.data_ptr(), torch.get_num_threads()
        )
    )
    return for_matrix.permute(4, 3, 0, 1, 2).contiguous()


def sum_forward(sources: Sequence[Features], slope: float) -> Tensor:
    """LeakyReLU of the sum of one or two features (B, C, D, H, W) of the same grid."""
    kept = [_Kept(source) for source in sources]
    y = torch.empty_like(kept[0].x)
    tensors = _pointers(*(t for each in kept for t in each.tensors))
    _done(_kernels().sum_forward(
        _sum_sizes(kept), tensors, _slopes(kept, slope), y.data_ptr(), torch.get_num_threads()
    ))  # fmt: skip
    return _planes(y)


def sum_backward(
    gradient: Tensor, y: Tensor, sources: Sequence[Features], slope: float, wanted: Sequence[bool]
) -> list[tuple[Tensor, Tensor] | None]:
    """For each source that is `wanted` g_act like x and its sums (B, 2, C); y: the result."""
    kept = [_Kept(source) for source in sources]
    y, g = _channels_last(y), _channels_last(gradient)
    results = [
        (torch.empty_like(each.x), torch.zeros(each.x.shape[0], 2, each.x.shape[-1])) if asked
        else None
        for each, asked in zip(kept, wanted, strict=True)
    ]  # fmt: skip
    tensors = [*(t for each in kept for t in each.tensors), *[None] * 5 * (2 - len(kept)), y, g]
    into = [_pointers(*(r[i] if r else None for r in results)) for i in (0, 1)]
    _done(_kernels().sum_backward(
        _sum_sizes(kept), _pointers(*tensors), _slopes(kept, slope), *into, torch.get_num_threads()
    ))  # fmt: skip
    return [(_planes(result[0]), result[1]) if result else None for result in results]


def finish(g_act: Tensor, source: Features, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x (in the memory of g_act), and of the norm's weight and bias (C,)."""
    kept, g = _Kept(source), _channels_last(g_act)
    batch, *space, channels = kept.x.shape
    sizes = (_LONG * 3)(batch, space[0] * space[1] * space[2], channels)
    x, mean, rstd, weight, _ = kept.tensors
    tensors = _pointers(x, mean, rstd, weight, sums)
    _kernels().finish(sizes, tensors, g.data_ptr(), torch.get_num_threads())
    return _planes(g), sums[:, 1].sum(0), sums[:, 0].sum(0)


class _Kept:
    """A source as the kernels want it; holds the tensors whose addresses they get."""

    def __init__(self, source: Features) -> None:
        self.x = _channels_last(source.x)
        norm = source.norm
        self.slope = norm.slope if norm else 1.0
        pending = [t.contiguous() for t in norm.tensors] if norm else [None] * 4
        self.tensors: tuple[Tensor | None, ...] = (self.x, *pending)


def _depthwise_sizes(
    x: Tensor, up: Triple, fine: Triple, weight: Tensor, stride: Triple, channels: int, first: int
) -> ctypes.Array[ctypes.c_int64]:
    batch, *space, own = x.shape
    kernel = weight.shape[2:]
    numbers = [batch, own, *space, *up, *fine, *kernel, *stride, channels, first]
    return (_LONG * len(numbers))(*numbers)


def _pointwise_sizes(x: Tensor, weight: Tensor) -> ctypes.Array[ctypes.c_int64]:
    batch, *space, inputs = x.shape
    return (_LONG * 4)(batch, space[0] * space[1] * space[2], inputs, weight.shape[0])


def _sum_sizes(kept: Sequence[_Kept]) -> ctypes.Array[ctypes.c_int64]:
    batch, *space, channels = kept[0].x.shape
    return (_LONG * 4)(len(kept), batch, space[0] * space[1] * space[2], channels)


def _slopes(kept: Sequence[_Kept], slope: float) -> ctypes.Array[ctypes.c_float]:
    return (_FLOAT * 3)(kept[0].slope, kept[-1].slope, slope)


def _padded(
    image: Tensor, weight: Tensor, stride: Triple
) -> tuple[Tensor, ctypes.Array[ctypes.c_int64]]:
    """(B, D', H', W', I), zeros around the image as far as the kernel reaches; the stem's sizes."""
    out, inputs, *kernel = weight.shape
    space = image.shape[2:]
    grid = [-(-n // s) for n, s in zip(space, stride, strict=True)]
    around: list[int] = []
    for n, m, s, k in zip(space, grid, stride, kernel, strict=True):
        around = [k // 2, (m - 1) * s + k - k // 2 - n, *around]  # F.pad begins with the last axis
    padded = F.pad(_channels_last(image), [0, 0, *around]).contiguous()
    sizes = (_LONG * 12)(image.shape[0], inputs, out, *grid, *kernel, *stride)
    return padded, sizes


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _pointers(*tensors: Tensor | None) -> ctypes.Array[ctypes.c_void_p]:
    addresses = [None if t is None else t.data_ptr() for t in tensors]
    return (_POINTER * len(addresses))(*addresses)


def _rows(batch: int, space: Sequence[int], channels: int) -> Tensor:
    return torch.empty(batch, *space, channels)


def _planes(rows: Tensor) -> Tensor:
    return rows.permute(0, 4, 1, 2, 3)


def _channels_last(x: Tensor) -> Tensor:
    """(B, D, H, W, C), dense; torch calls some shapes with an axis of size 1 channels-last although
    their strides say otherwise, hence the check on the permuted view."""
    return x.permute(0, 2, 3, 4, 1).contiguous()


def _done(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for the scratch of a kernel")


def _kernels() -> Kernels:
    found = library()
    if found is None:
        raise RuntimeError("the native kernels were not built; ask native.usable first")
    return found
