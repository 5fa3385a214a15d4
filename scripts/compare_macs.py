"""Multiply-adds of a network, counted while it answers a patch that has a shape alone.

Every convolution and matrix product is seen on its way to torch's kernels, so a new family is
counted without a word about it; the package's own kernels are put aside. One multiply-add is one
product and its sum: half of what is called a FLOP. Norms and activations are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from compare_rows import Macs
from torch.utils._python_dispatch import TorchDispatchMode

from u2net3d.models import network
from u2net3d.models.network import BankShape, Network
from u2net3d.ops import native
from u2net3d.spec import DomainSpec, ModelSpec

_ATEN = torch.ops.aten


class _Counting(TorchDispatchMode):
    """Adds up what passes; a depthwise convolution waits for the pointwise one that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = self.depthwise = self.pointwise = 0
        self.pairs = self.as_dense = 0
        self.weighted = 0.0
        self._waiting: tuple[int, int, int] | None = None  # channels, kernel voxels, multiply-adds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is _ATEN.convolution.default:
            self._convolution(args[0], args[1], out, transposed=bool(args[6]), groups=args[8])
        elif func in (_ATEN.mm.default, _ATEN.bmm.default):
            self._product(args[0], args[1])
        elif func is _ATEN.addmm.default:
            self._product(args[1], args[2])
        return out

    def _convolution(
        self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, *, transposed: bool,
        groups: int,
    ) -> None:  # fmt: skip
        kernel = prod(weight.shape[2:])
        places = (x if transposed else out)[:, :1].numel()
        count = places * weight.numel()  # every weight once at every place
        if groups > 1 and weight.shape[1] == 1:
            self.depthwise += count
            self._waiting = (x.shape[1], kernel, count)
        elif kernel == 1 and groups == 1:
            self._pointwise(count, weight.shape[1], weight.shape[0])
        else:
            self.dense += count
            self._waiting = None

    def _product(self, left: torch.Tensor, right: torch.Tensor) -> None:
        count = left.numel() * right.shape[-1]
        self._pointwise(count, right.shape[-2], right.shape[-1])

    def _pointwise(self, count: int, channels_in: int, channels_out: int) -> None:
        self.pointwise += count
        if self._waiting is not None and self._waiting[0] == channels_in:
            _, kernel, before = self._waiting
            self.pairs += before + count
            self.as_dense += count * kernel
            self.weighted += count * kernel * (1 / channels_out + 1 / kernel)
        self._waiting = None

    def found(self) -> Macs:
        return Macs(
            dense=self.dense,
            depthwise=self.depthwise,
            pointwise=self.pointwise,
            pairs=self.pairs,
            as_dense=self.as_dense,
            analytic=self.weighted / self.as_dense if self.as_dense else None,
        )


@contextmanager
def counting() -> Iterator[Callable[[], Macs]]:
    """What networks compute inside is counted; the value gives the counts so far."""
    mode = _Counting()
    with patch.object(native, "library", lambda: None), torch.no_grad(), mode:
        yield mode.found


def macs_of(
    model: ModelSpec, spec: DomainSpec, ready: Callable[[Network], None] = lambda _: None
) -> Macs:
    """Multiply-adds of the answer (`eval()`) to one patch of a domain; no memory is taken.

    ready: called with the network before it answers, to choose what is to be counted.
    """
    with torch.device("meta"):
        net = network(model.model_copy(update={"stages": spec.plan.stages}))
        net.add_bank(spec.name, BankShape.of(spec))
    net.eval()
    ready(net)
    image = torch.empty((1, len(spec.channels), *spec.plan.patch_size), device="meta")
    with counting() as found:
        net(image, spec.name)
        return found()
