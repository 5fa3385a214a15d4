"""A domain's bank in the universal network."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from torch import nn

from u2net3d.models.network import Bank, BankShape
from u2net3d.models.units import Head, Stem, UnitBank
from u2net3d.spec import Design


class UniversalBank(Bank):
    """Stem, depthwise kernels, norms and heads of one domain, laid out as the trunk's stages.

    With f the design's first stage, encoder[i] holds the two units of stage f + i, down[i] the
    strided unit from there to stage f + i + 1, up[i] the unit back, decoder[i] the two units and
    heads[i] the head of stage f + i. Raises ValueError for fewer stages than f + 1.
    """

    def __init__(self, shape: BankShape, base_channels: int, design: Design | None = None) -> None:
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
        unit = partial(UnitBank, inner_norm=design.inner_norm)
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
