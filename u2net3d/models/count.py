"""What a network costs: its weights, and the multiply-adds of one pass, counted while it runs.

It runs with shapes alone, on torch's meta device: no memory, no arithmetic, any patch. There our
operators take the way of torch's own (`ops/plain.py`), which computes the same products as the
kernels, so that every convolution is seen. Norms, activations, sums, pooling and interpolation
without weights are not counted; a convolution counts its padding as if it were voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from u2net3d.models import network
from u2net3d.models.network import BankShape
from u2net3d.models.separable import analytic_ratio
from u2net3d.spec import ModelSpec
from u2net3d.volume import Triple

Kind = Literal["pointwise", "depthwise", "dense"]


@dataclass(frozen=True)
class Convolution:
    """One convolution of a pass. dense: all that is neither pointwise nor depthwise."""

    kind: Kind
    channels_in: int
    channels_out: int
    kernel: tuple[int, ...]
    multiply_adds: int


@dataclass(frozen=True)
class SeparableShare:
    """The separable units of a pass: what they cost, and what dense convolutions would.

    analytic: 1/N + 1/k of every unit, the mean over the multiply-adds of the dense ones.
    """

    multiply_adds: int
    dense_multiply_adds: int
    analytic: float

    @property
    def ratio(self) -> float:
        """The counted one."""
        return self.multiply_adds / self.dense_multiply_adds


@dataclass(frozen=True)
class Cost:
    """Weights of the trunk as deep as the domain goes, and of its bank; and what one pass takes.

    adapters: weights of the bank that adapt the trunk. separable: None without such a unit.
    """

    trunk_weights: int
    bank_weights: int
    adapters: int
    by_kind: dict[Kind, int]
    separable: SeparableShare | None

    @property
    def multiply_adds(self) -> int:
        """Of the whole pass; FLOPs are twice as many."""
        return sum(self.by_kind.values())

    @property
    def pointwise_share(self) -> float:
        """Which part of the multiply-adds is pointwise."""
        return self.by_kind["pointwise"] / max(1, self.multiply_adds)


def cost(model: ModelSpec, shape: BankShape, patch: Triple) -> Cost:
    """What a model with one bank costs for one patch in `eval()`.

    Raises ValueError for what the family cannot have.
    """
    model = model.model_copy(update={"stages": min(model.stages, shape.stages)})
    with torch.device("meta"):
        net = network(model).eval()
        bank = net.add_bank("counted", shape).eval()
        image = torch.empty(1, shape.channels, *patch)
    passes = convolutions(net, image, "counted")
    kinds: tuple[Kind, ...] = ("pointwise", "depthwise", "dense")
    return Cost(
        trunk_weights=weights_of(net.trunk),
        bank_weights=weights_of(bank),
        adapters=bank.adapters(),
        by_kind={kind: sum(c.multiply_adds for c in passes if c.kind == kind) for kind in kinds},
        separable=separable_share(passes),
    )


def weights_of(module: nn.Module) -> int:
    """Numbers that are learnt."""
    return sum(weight.numel() for weight in module.parameters())


def convolutions(net: nn.Module, *arguments: Any) -> list[Convolution]:
    """The convolutions of net(*arguments) in their order; a product of matrices is a pointwise one.

    Only what torch's own operators compute is seen, see above.
    """
    seen: list[Convolution] = []

    def convolution(
        x: Sequence[int], weight: Sequence[int], _bias: Any, _stride: Any, _padding: Any,
        _dilation: Any, transposed: bool, _more: Any, groups: int, *, out_shape: Sequence[int],
        **_: Any,
    ) -> int:  # fmt: skip
        grid = math.prod((x if transposed else out_shape)[2:])
        inputs, outputs, kernel = x[1], out_shape[1], tuple(weight[2:])
        products = x[0] * grid * inputs * outputs // groups * math.prod(kernel)
        seen.append(Convolution(_kind(inputs, groups, kernel), inputs, outputs, kernel, products))
        return 2 * products

    def product(a: Sequence[int], b: Sequence[int], **_: Any) -> int:
        products = math.prod(a) * b[-1]
        seen.append(Convolution("pointwise", a[-1], b[-1], (1, 1, 1), products))
        return 2 * products

    def product_and_bias(_bias: Any, a: Sequence[int], b: Sequence[int], **_: Any) -> int:
        return product(a, b)

    aten = torch.ops.aten
    ways = {aten.convolution: convolution, aten.mm: product, aten.addmm: product_and_bias}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=ways):
        net(*arguments)
    return seen


def separable_share(passes: Sequence[Convolution]) -> SeparableShare | None:
    """Of the depthwise convolutions that a pointwise one follows at once, and what follows."""
    own = dense = 0
    analytic = 0.0
    for one, other in pairwise(passes):
        if one.kind != "depthwise" or other.kind != "pointwise":
            continue
        own += one.multiply_adds + other.multiply_adds
        instead = one.multiply_adds * other.channels_out
        dense += instead
        analytic += instead * analytic_ratio(other.channels_out, one.kernel)
    return SeparableShare(own, dense, analytic / dense) if dense else None


def _kind(channels_in: int, groups: int, kernel: tuple[int, ...]) -> Kind:
    if math.prod(kernel) == 1 and groups == 1:
        return "pointwise"
    return "depthwise" if groups == channels_in > 1 else "dense"
