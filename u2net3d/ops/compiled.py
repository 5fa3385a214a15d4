"""The operators as torch knows them by name: what torch.compile and torch.export trace.

In `torch.ops.u2net3d` forwards and backwards have flat schemas and fakes (shapes and strides
without computing), forwards their autograd formulas too; they compute what `computing.py` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

from torch import Tensor
from torch.library import custom_op

from u2net3d.ops import computing
from u2net3d.ops.computing import Layout
from u2net3d.ops.flat import (
    LAYOUT,
    NO_GRADIENTS,
    apart,
    dense,
    fake_features,
    fake_present,
    fake_voxels,
    flattened,
    in_place,
    layout_of,
    present,
    triple,
)
from u2net3d.ops.pending import Triple

_UNIT = "Tensor weight, Tensor? scale, Tensor? bias, Tensor matrix, Tensor[] tensors"
_THREE = "Tensor, Tensor, Tensor"


def stem(image: Tensor, weight: Tensor, stride: Triple) -> tuple[Tensor, Tensor, Tensor]:
    """`computing.stem_forward`, traced."""
    u, mean, rstd = _stem(image, weight, stride)
    return u, mean, rstd


def unit(
    layout: Layout, weight: Tensor, scale: Tensor | None, bias: Tensor | None, matrix: Tensor,
    *tensors: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`computing.unit_forward`, traced, without what only its backward needs."""
    v, mean, rstd, *_ = _unit(weight, scale, bias, matrix, tensors, *flattened(layout))
    return v, mean, rstd


def head(layout: Layout, matrix: Tensor, bias: Tensor, *tensors: Tensor) -> Tensor:
    """`computing.head_forward`, traced."""
    logits: Tensor = _head(matrix, bias, tensors, *flattened(layout))
    return logits


def summed(layout: Layout, *tensors: Tensor) -> Tensor:
    """`computing.sum_forward`, traced."""
    y: Tensor = _summed(tensors, *flattened(layout))
    return y


@custom_op(
    "u2net3d::stem",
    mutates_args=(),
    schema=f"(Tensor image, Tensor weight, SymInt[] stride) -> ({_THREE})",
)
def _stem(image: Tensor, weight: Tensor, stride: Sequence[int]) -> Any:
    u, *statistics = computing.stem_forward(image, weight, triple(stride))
    return tuple(apart([dense(u), *statistics]))


@_stem.register_fake
def _(image: Tensor, weight: Tensor, stride: Sequence[int]) -> Any:
    return fake_features(image, weight.shape[0], image.shape[2:], stride)


@custom_op(
    "u2net3d::stem_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor image, Tensor weight, SymInt[] stride) -> Tensor",
)
def _stem_backward(
    gradient: Tensor, image: Tensor, weight: Tensor, stride: Sequence[int]
) -> Tensor:
    return computing.stem_backward(gradient, image, weight, triple(stride)).contiguous()


@_stem_backward.register_fake
def _(_gradient: Tensor, _image: Tensor, weight: Tensor, _stride: Sequence[int]) -> Tensor:
    return weight.new_empty(weight.shape)


def _keep_stem(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    image, weight, ctx.stride = inputs
    ctx.save_for_backward(image, weight)
    _first_learns(ctx, output)


def _learn_stem(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Any, ...]:
    return None, _stem_backward(gradient, *ctx.saved_tensors, ctx.stride), None


@custom_op("u2net3d::unit", mutates_args=(), schema=f"({_UNIT}, {LAYOUT}) -> ({_THREE}, {_THREE})")
def _unit(
    weight: Tensor, scale: Tensor | None, bias: Tensor | None, matrix: Tensor,
    tensors: Sequence[Tensor], *flat: Any,
) -> Any:  # fmt: skip
    found = computing.unit_forward(layout_of(*flat), weight, scale, bias, matrix, tensors)
    return tuple(apart(dense(t) if t.dim() == 5 else t for t in found))


@_unit.register_fake
def _(
    weight: Tensor, _scale: Tensor | None, _bias: Tensor | None, matrix: Tensor,
    tensors: Sequence[Tensor], *flat: Any,
) -> Any:  # fmt: skip
    x, layout = tensors[0], layout_of(*flat)
    v, u = (fake_features(x, w.shape[0], layout.grid, layout.stride) for w in (matrix, weight))
    return *v, *u


@custom_op(
    "u2net3d::unit_backward",
    mutates_args=(),
    schema=f"(Tensor gradient, {_UNIT}, Tensor[] of_u, bool[] wanted, {LAYOUT}) -> Tensor[]",
)
def _unit_backward(
    gradient: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, matrix: Tensor,
    tensors: Sequence[Tensor], of_u: Sequence[Tensor], wanted: Sequence[bool], *flat: Any,
) -> list[Tensor]:  # fmt: skip
    gradients = computing.unit_backward(
        gradient, layout_of(*flat), weight, scale, bias, matrix, tensors, of_u, wanted
    )
    return present(gradients[:4], gradients[4:])


@_unit_backward.register_fake
def _(
    _gradient: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, matrix: Tensor,
    tensors: Sequence[Tensor], _of_u: Sequence[Tensor], wanted: Sequence[bool], *flat: Any,
) -> list[Tensor]:  # fmt: skip
    own = [weight, scale, bias, matrix if wanted[0] else None]
    return fake_present(own, compress(tensors, layout_of(*flat).given(wanted[1:])))


def _keep_unit(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    weight, scale, bias, matrix, tensors, *ctx.flat = inputs
    ctx.save_for_backward(weight, scale, bias, matrix, *output[3:], *tensors)
    _first_learns(ctx, output)


def _learn_unit(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Any, ...]:
    weight, scale, bias, matrix, u, mean, rstd, *tensors = ctx.saved_tensors
    needs, layout = ctx.needs_input_grad, layout_of(*ctx.flat)
    wanted = [needs[3], *layout.wanted(needs[4])]
    found = _unit_backward(
        gradient, weight, scale, bias, matrix, tensors, [u, mean, rstd], wanted, *ctx.flat
    )
    own = [True, scale is not None, bias is not None, wanted[0]]
    gradients = in_place(found, [*own, *layout.given(wanted[1:])])
    return *gradients[:4], gradients[4:], *NO_GRADIENTS


@custom_op(
    "u2net3d::head",
    mutates_args=(),
    schema=f"(Tensor matrix, Tensor bias, Tensor[] tensors, {LAYOUT}) -> Tensor",
)
def _head(matrix: Tensor, bias: Tensor, tensors: Sequence[Tensor], *flat: Any) -> Tensor:
    return dense(computing.head_forward(layout_of(*flat), matrix, bias, tensors))


@_head.register_fake
def _(matrix: Tensor, _bias: Tensor, tensors: Sequence[Tensor], *_flat: Any) -> Tensor:
    return fake_voxels(tensors[0], matrix.shape[0], tensors[0].shape[2:])


@custom_op(
    "u2net3d::head_backward",
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor matrix, Tensor[] tensors, bool wanted, {LAYOUT}) -> Tensor[]",
)
def _head_backward(
    gradient: Tensor, matrix: Tensor, tensors: Sequence[Tensor], wanted: bool, *flat: Any
) -> list[Tensor]:
    gradients = computing.head_backward(gradient, layout_of(*flat), matrix, tensors, wanted)
    return present(gradients[:2], gradients[2:])


@_head_backward.register_fake
def _(
    _gradient: Tensor, matrix: Tensor, tensors: Sequence[Tensor], wanted: bool, *flat: Any
) -> list[Tensor]:
    own = [matrix, matrix[:, 0]]  # a bias is as long as a column
    return fake_present(own, compress(tensors, layout_of(*flat).given([wanted])))


def _keep_head(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    matrix, _, tensors, *ctx.flat = inputs
    ctx.save_for_backward(matrix, *tensors)


def _learn_head(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    matrix, *tensors = ctx.saved_tensors
    wanted = any(ctx.needs_input_grad[2])
    found = _head_backward(gradient, matrix, tensors, wanted, *ctx.flat)
    gradients = in_place(found, [True, True, *layout_of(*ctx.flat).given([wanted])])
    return *gradients[:2], gradients[2:], *NO_GRADIENTS


@custom_op("u2net3d::summed", mutates_args=(), schema=f"(Tensor[] tensors, {LAYOUT}) -> Tensor")
def _summed(tensors: Sequence[Tensor], *flat: Any) -> Tensor:
    return dense(computing.sum_forward(layout_of(*flat), tensors))


@_summed.register_fake
def _(tensors: Sequence[Tensor], *_flat: Any) -> Tensor:
    return fake_voxels(tensors[0], tensors[0].shape[1], tensors[0].shape[2:])


@custom_op(
    "u2net3d::summed_backward",
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor y, Tensor[] tensors, bool[] wanted, {LAYOUT}) -> Tensor[]",
)
def _summed_backward(
    gradient: Tensor, y: Tensor, tensors: Sequence[Tensor], wanted: Sequence[bool], *flat: Any
) -> list[Tensor]:
    gradients = computing.sum_backward(gradient, y, layout_of(*flat), tensors, wanted)
    return present([], gradients)


@_summed_backward.register_fake
def _(
    _gradient: Tensor, _y: Tensor, tensors: Sequence[Tensor], wanted: Sequence[bool], *flat: Any
) -> list[Tensor]:
    return fake_present([], compress(tensors, layout_of(*flat).given(wanted)))


def _keep_summed(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, *ctx.flat = inputs
    ctx.save_for_backward(output, *tensors)


def _learn_summed(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    y, *tensors = ctx.saved_tensors
    layout = layout_of(*ctx.flat)
    wanted = layout.wanted(ctx.needs_input_grad[0])
    found = _summed_backward(gradient, y, tensors, wanted, *ctx.flat)
    return in_place(found, layout.given(wanted)), *NO_GRADIENTS


def _first_learns(ctx: Any, output: tuple[Tensor, ...]) -> None:
    """No gradient comes back to the statistics, nor to what is kept for the backward."""
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


_stem.register_autograd(_learn_stem, setup_context=_keep_stem)
_unit.register_autograd(_learn_unit, setup_context=_keep_unit)
_head.register_autograd(_learn_head, setup_context=_keep_head)
_summed.register_autograd(_learn_summed, setup_context=_keep_summed)
