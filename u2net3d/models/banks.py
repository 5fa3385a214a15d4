"""A domain's bank in the universal network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from u2net3d.models.blocks import joined
from u2net3d.models.network import Bank, BankShape
from u2net3d.models.reference_units import pending
from u2net3d.models.units import SLOPE, Head, NormAct, Stem, UnitBank, he_normal_
from u2net3d.ops.pending import Features
from u2net3d.spec import Design
from u2net3d.volume import Triple


class DenseUnit(nn.Module):
    """A dense convolution and its norm in the place of a separable unit; all is the domain's own.

    weight (C', C, kD, kH, kW), padding kernel // 2, He's normal.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: Triple, stride: Triple = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = tuple(k // 2 for k in kernel)
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, *kernel))
        he_normal_(self.weight, channels_in * math.prod(kernel))
        self.outer = NormAct(channels_out)

    def forward(
        self, sources: Sequence[Features], _shared: nn.Module, grid: Triple, slope: float = SLOPE
    ) -> Features:
        """As `UnitBank.forward`; nothing is shared."""
        v = F.conv3d(joined(sources, grid), self.weight, None, self.stride, self.padding)
        return pending(v, self.outer, slope)


class UniversalBank(Bank):
    """Stem, depthwise kernels, norms and heads of one domain, laid out as the trunk's stages.

    With f the design's first stage, encoder[i] holds the two units of stage f + i, down[i] the
    strided unit from there to stage f + i + 1, up[i] the unit back, decoder[i] the two units and
    heads[i] the head of stage f + i. dense: units are `DenseUnit`. Raises ValueError for fewer
    stages than f + 1.
    """

    def __init__(
        self,
        shape: BankShape,
        base_channels: int,
        design: Design | None = None,
        *,
        dense: bool = False,
    ) -> None:
        super().__init__(shape)
        design = design or Design()
        first = design.first_stage
        if shape.stages <= first:
            raise ValueError(f"{shape.stages} stages asked of a trunk that begins at stage {first}")
        width = [base_channels * 2**stage for stage in range(first, shape.stages)]
        kernels, strides = shape.kernels[first:], shape.strides[first:]
        levels = list(enumerate(pairwise(width)))  # (i, (channels of i, channels of i + 1))
        entry = (1, 1, 1) if first == 0 else strides[0]
        up_kernels = kernels[1:] if design.coarse_up else kernels
        unit = DenseUnit if dense else partial(UnitBank, inner_norm=design.inner_norm)
        self.stem = Stem(shape.channels, width[0], shape.kernels[0], entry)
        self.encoder = nn.ModuleList(
            nn.ModuleList([unit(c, c, kernel), unit(c, c, kernel)])
            for c, kernel in zip(width, kernels, strict=True)
        )
        self.down = nn.ModuleList(
            unit(fine, coarse, kernels[i + 1], strides[i + 1]) for i, (fine, coarse) in levels
        )
        self.up = nn.ModuleList(unit(coarse, fine, up_kernels[i]) for i, (fine, coarse) in levels)
        self.decoder = nn.ModuleList(
            nn.ModuleList([unit(2 * c, c, kernels[i]), unit(c, c, kernels[i])])
            for i, (c, _) in levels
        )
        self.heads = nn.ModuleList(
            Head(c, shape.classes, (1, 1, 1) if i else entry)
            for i, c in enumerate(width[: max(1, len(levels))])
        )
