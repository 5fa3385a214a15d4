"""What every operator of `layers.py` computes, forward and backward, as plain functions.

Both ways into autograd call these: the functions of `layers.py`, and the operators that torch knows
by name (`compiled.py`). The passes come from the native kernels (`native.py`) where they take the
tensors, else from Triton's (`gpu.py`) where those do, else from torch's operators (`plain.py`);
from these alone while torch.jit traces.

`tensors` are those of all sources one behind the other: x, and where a norm is pending its mean,
1/std, weight and bias. A backward gives for each tensor of its forward a gradient or None.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from u2net3d.ops import gpu, native, plain
from u2net3d.ops.pending import Features, Pending, Triple

T = TypeVar("T")
Gradients = list[Tensor | None]
_NORMED = 5  # tensors of a source whose norm is pending


class Layout(NamedTuple):
    """What of an operator's call is no tensor.

    Of each source its norm's slope (None: no norm) and its repetitions; stride and grid of a
    depthwise convolution; the slope of the operator's own LeakyReLU.
    """

    slopes: tuple[float | None, ...]
    ups: tuple[Triple, ...]
    stride: Triple = (1, 1, 1)
    grid: Triple = (0, 0, 0)
    slope: float = 1.0

    @classmethod
    def of(
        cls, sources: Sequence[Features], stride: Triple = (1, 1, 1), grid: Triple = (0, 0, 0),
        slope: float = 1.0,
    ) -> Layout:  # fmt: skip
        """The layout of a call that reads these sources."""
        slopes = tuple(source.norm.slope if source.norm else None for source in sources)
        return cls(slopes, tuple(source.up for source in sources), stride, grid, slope)

    def sources(self, tensors: Sequence[Tensor]) -> list[Features]:
        """The sources again, of their tensors."""
        found = []
        for slope, up, own in zip(self.slopes, self.ups, self.parted(tensors), strict=True):
            norm = None if slope is None else Pending(own[1], own[2], own[3], own[4], slope)
            found.append(Features(own[0], norm, up))
        return found

    def wanted(self, needs: Sequence[bool]) -> list[bool]:
        """Whether anything of each source needs a gradient; needs: for each of its tensors."""
        return [any(own) for own in self.parted(needs)]

    def given(self, wanted: Sequence[bool]) -> list[bool]:
        """Whether a backward gives a gradient, for each tensor; wanted: those of a source."""
        found: list[bool] = []
        for slope, asked in zip(self.slopes, wanted, strict=True):
            found += [asked] if slope is None else [asked, False, False, asked, asked]
        return found

    def parted(self, values: Sequence[T]) -> Iterator[Sequence[T]]:
        """One value per tensor, source by source."""
        first = 0
        for slope in self.slopes:
            behind = first + (1 if slope is None else _NORMED)
            yield values[first:behind]
            first = behind


def tensors_of(sources: Sequence[Features]) -> list[Tensor]:
    """The tensors of all sources one behind the other."""
    return [t for s in sources for t in (s.x, *(s.norm.tensors if s.norm else ()))]


def is_traced() -> bool:
    """Whether torch.jit traces, as OpenVINO makes it do."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def stem_forward(image: Tensor, weight: Tensor, stride: Triple) -> tuple[Tensor, Tensor, Tensor]:
    """The raw result u with its mean and 1/std."""
    found: tuple[Tensor, Tensor, Tensor] = _passes(image, weight).stem_forward(
        image, weight, stride
    )
    return found


def stem_backward(gradient: Tensor, image: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    """The gradient of the weight."""
    passes = _passes(gradient, image, weight)
    found: Tensor = passes.stem_backward(gradient, image, weight, stride)
    return found


def unit_forward(
    layout: Layout, weight: Tensor, scale: Tensor | None, bias: Tensor | None, matrix: Tensor,
    tensors: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """v with its mean and 1/std, and what the way back needs: u with its mean and 1/std.

    scale and bias: of the norm between the two convolutions.
    """
    passes = _passes(weight, scale, bias, matrix, *tensors)
    sources = layout.sources(tensors)
    u, mean, rstd = passes.depthwise_forward(sources, weight, layout.stride, layout.grid)
    between = _between(u, mean, rstd, scale, bias, layout.slope)
    return *passes.pointwise_forward(between, matrix), u, mean, rstd


def unit_backward(
    gradient: Tensor, layout: Layout, weight: Tensor, scale: Tensor | None, bias: Tensor | None,
    matrix: Tensor, tensors: Sequence[Tensor], of_u: Sequence[Tensor], wanted: Sequence[bool],
) -> Gradients:  # fmt: skip
    """Of weight, scale, bias, matrix and tensors; wanted: that of the matrix, those of a source."""
    passes = _passes(gradient, weight, scale, bias, matrix, *tensors)
    sources, (u, mean, rstd) = layout.sources(tensors), of_u
    between = _between(u, mean, rstd, scale, bias, layout.slope)
    g_act, sums, for_matrix, _ = passes.pointwise_backward(
        gradient, between, matrix, (True, wanted[0], False)
    )
    normed = between.norm is not None
    results, for_weight = passes.depthwise_backward(
        g_act, sums if normed else None, between, sources, weight, layout.stride, layout.grid,
        wanted[1:],
    )  # fmt: skip
    for_norm = (sums[:, 1].sum(0), sums[:, 0].sum(0)) if normed else (None, None)
    return [for_weight, *for_norm, for_matrix, *_finished(passes, results, sources)]


def head_forward(layout: Layout, matrix: Tensor, bias: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The logits of the one source."""
    (source,) = layout.sources(tensors)
    passes = _passes(matrix, bias, *tensors)
    found: Tensor = passes.pointwise_forward(source, matrix, bias, statistics=False)[0]
    return found


def head_backward(
    gradient: Tensor, layout: Layout, matrix: Tensor, tensors: Sequence[Tensor], wanted: bool
) -> Gradients:
    """Of matrix, bias and tensors; wanted: those of the source."""
    (source,) = layout.sources(tensors)
    passes = _passes(gradient, matrix, *tensors)
    g_act, sums, *own = passes.pointwise_backward(gradient, source, matrix, (wanted, True, True))
    return [*own, *_finished(passes, [(g_act, sums) if wanted else None], [source])]


def sum_forward(layout: Layout, tensors: Sequence[Tensor]) -> Tensor:
    """LeakyReLU of the sum of the sources."""
    found: Tensor = _passes(*tensors).sum_forward(layout.sources(tensors), layout.slope)
    return found


def sum_backward(
    gradient: Tensor, y: Tensor, layout: Layout, tensors: Sequence[Tensor], wanted: Sequence[bool]
) -> Gradients:
    """Of tensors; y: the result of the forward; wanted: those of a source."""
    passes, sources = _passes(gradient, *tensors), layout.sources(tensors)
    results = passes.sum_backward(gradient, y, sources, layout.slope, wanted)
    return _finished(passes, results, sources)


def unit_traced(
    layout: Layout, weight: Tensor, scale: Tensor | None, bias: Tensor | None, matrix: Tensor,
    *tensors: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`unit_forward` without what only its backward needs."""
    return unit_forward(layout, weight, scale, bias, matrix, tensors)[:3]


def head_traced(layout: Layout, matrix: Tensor, bias: Tensor, *tensors: Tensor) -> Tensor:
    """`head_forward`, called as the operator is."""
    return head_forward(layout, matrix, bias, tensors)


def sum_traced(layout: Layout, *tensors: Tensor) -> Tensor:
    """`sum_forward`, called as the operator is."""
    return sum_forward(layout, tensors)


def _passes(*tensors: Tensor | None) -> Any:
    if is_traced():  # what is not torch's own would leave its result as a constant
        return plain
    given = [t for t in tensors if t is not None]
    if native.usable(*given):
        return native
    return gpu if gpu.usable(*given) else plain


def _between(
    u: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor | None, bias: Tensor | None, slope: float
) -> Features:
    if scale is None or bias is None:
        return Features(u, None)
    return Features(u, Pending(mean, rstd, scale, bias, slope))


def _finished(
    passes: Any, results: Sequence[tuple[Tensor, Tensor] | None], sources: Sequence[Features]
) -> Gradients:
    """Gradients of the tensors of every source, from g_act and its sums."""
    gradients: Gradients = []
    for result, source in zip(results, sources, strict=True):
        if source.norm is None:
            gradients.append(result[0] if result else None)
        elif result is None:
            gradients += [None] * _NORMED
        else:
            g_act, sums = result
            for_x, for_weight, for_bias = passes.finish(g_act, source, sums)
            gradients += [for_x, None, None, for_weight, for_bias]
    return gradients
