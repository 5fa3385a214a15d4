"""What the answer of a network costs, whole or at one of its levels: weights and multiply-adds.

Both by shapes alone, on torch's meta device (`u2net3d.models.count`): no memory, no arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from compare_rows import Macs
from torch import Tensor

from u2net3d.models import network
from u2net3d.models.count import convolutions, separable_share, weights_of
from u2net3d.models.network import BankShape, Network
from u2net3d.spec import DomainSpec, ModelSpec


@dataclass(frozen=True)
class Needed:
    """Of a domain's answer to one patch: weights of trunk and bank, multiply-adds."""

    trunk: int
    bank: int
    macs: Macs


def needed(model: ModelSpec, spec: DomainSpec, level: int | None = None) -> Needed:
    """What a network with one bank needs to answer; level: of those that it can be cut down to.

    Whole, all weights of its bank are counted, and of the trunk the part as deep as the domain.
    """
    with torch.device("meta"):
        net = network(model.model_copy(update={"stages": spec.plan.stages})).eval()
        bank = net.add_bank(spec.name, BankShape.of(spec)).eval()
        size = getattr(spec.plan, "seen", spec.plan.patch_size)  # with what lies around the patch
        image = torch.empty(1, len(spec.channels), *size)
    macs = _macs(net, image, spec.name, level)
    if level is None:
        return Needed(weights_of(net.trunk), weights_of(bank), macs)
    _answer(net, image, spec.name, level).sum().backward()  # what a gradient reaches is needed
    parts = [
        sum(weight.numel() for weight in part.parameters() if weight.grad is not None)
        for part in (net.trunk, bank)
    ]
    return Needed(parts[0], parts[1], macs)


def _macs(net: Network, image: Tensor, domain: str, level: int | None) -> Macs:
    """By kind of convolution; one multiply-add is half of what is called a FLOP."""
    passes = convolutions(lambda x: _answer(net, x, domain, level), image)
    kinds = dict.fromkeys(("dense", "depthwise", "pointwise"), 0)
    for one in passes:
        kinds[one.kind] += one.multiply_adds
    share = separable_share(passes)
    return Macs(
        **kinds,
        pairs=share.multiply_adds if share else 0,
        as_dense=share.dense_multiply_adds if share else 0,
        analytic=share.analytic if share else None,
    )


def _answer(net: Network, x: Tensor, domain: str, level: int | None) -> Tensor:
    return net(x, domain)[0] if level is None else net.answer(x, domain, level)
