"""Fully convolutional networks: a classifier's coarse scores, brought back to the image's grid.

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015
(arXiv 1411.4038), in 3-D and with the strides of the domain's plan: 32s takes the scores of the
deepest stage alone, 16s adds those of the pooled features one stage before, 8s of one more. What it
leaves out of the published one: the 4,096 channels, 7x7 kernel and dropout of fc6 and fc7 (the
deepest stage is a block like the others), weights of ImageNet, and training stage by stage with
scores that begin at zero: here all begins at random and learns at once.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from u2net3d.models.blocks import BLOCKS, BlockOptions, BlockShape, grid_of, pooled
from u2net3d.models.network import Bank, BankShape, Network
from u2net3d.models.units import Head
from u2net3d.models.upsample import Transposed
from u2net3d.ops.pending import Features
from u2net3d.spec import ModelSpec
from u2net3d.volume import Triple

_FUSED = {32: 0, 16: 1, 8: 2}  # stages before the deepest whose scores are added


class FcnOptions(BlockOptions):
    """stride_out: 32, 16 or 8 as in the published net, which pools five times.

    A domain that pools less often begins finer: with three pools 32s enlarges by 8, 8s by 2. Scores
    of the image itself are never added, so a shallow domain may have fewer than its name says.
    """

    stride_out: Literal[32, 16, 8] = Field(default=8)


class Trunk(nn.Module):
    """The matrices of separable blocks, in the layout of `FcnBank`; of other blocks nothing."""

    def __init__(self, model: ModelSpec, options: FcnOptions) -> None:
        super().__init__()
        kinds, width = BLOCKS[options.block], _width(model, model.stages)
        self.encoder = nn.ModuleList([kinds.entry.shared(1, width[0])])
        self.encoder.extend(kinds.other.shared(fine, coarse) for fine, coarse in pairwise(width))


class FcnBank(Bank):
    """encoder[i] is the block of stage i, behind its pooling.

    scores[0] reads the deepest stage, scores[j] what was pooled into stage fused[j - 1]; ups[j]
    leads from the sum of the first j + 1 of them to the grid of the next, the last to the image's.
    """

    def __init__(self, shape: BankShape, model: ModelSpec, options: FcnOptions) -> None:
        super().__init__(shape)
        kinds, width = BLOCKS[options.block], _width(model, shape.stages)
        inputs = [shape.channels, *width]
        self.encoder = nn.ModuleList(
            (kinds.other if i else kinds.entry).own(BlockShape(inputs[i], c, kernel, options))
            for i, (c, kernel) in enumerate(zip(width, shape.kernels, strict=True))
        )
        deepest = shape.stages - 1
        last = max(1, deepest - _FUSED[options.stride_out]) if deepest else 0
        self.fused = tuple(reversed(range(last, deepest)))
        self.scores = nn.ModuleList([Head(width[-1], shape.classes)])
        self.scores.extend(Head(width[i - 1], shape.classes) for i in self.fused)
        strides = [shape.strides[i + 1] for i in self.fused]
        d, h, w = (math.prod(axis) for axis in zip(*shape.strides[: last + 1], strict=True))
        self.ups = nn.ModuleList(Transposed(shape.classes, s) for s in [*strides, (d, h, w)])


class Fcn(Network):
    """A network of its own for every domain; with separable blocks they share the matrices."""

    trunk: Trunk

    def __init__(self, model: ModelSpec) -> None:
        super().__init__(model)
        self.options = FcnOptions.model_validate(model.options)
        self.trunk = Trunk(model, self.options)

    def make_bank(self, shape: BankShape) -> FcnBank:
        """A fresh bank."""
        return FcnBank(shape, self.model, self.options)

    def bank(self, domain: str) -> FcnBank:
        """The bank of a domain. Raises KeyError when there is none."""
        found = self.banks[domain]
        assert isinstance(found, FcnBank)
        return found

    def forward(self, x: Tensor, domain: str) -> list[Tensor]:
        """One entry, in `train()` too."""
        bank = self.bank(domain)
        features, entries = Features(x, None), list[Features]()
        for i, block in enumerate(bank.encoder):
            features = pooled(features, bank.shape.strides[i])
            entries.append(features)
            features = block([features], self.trunk.encoder[i], grid_of(features))
        first, *others = bank.scores
        score = first(features, grid_of(features))
        for head, up, i in zip(others, bank.ups, bank.fused, strict=False):
            grid = grid_of(entries[i])
            score = _cropped(up(score), grid) + head(entries[i], grid)
        d, h, w = x.shape[2:]
        return [_cropped(bank.ups[-1](score), (d, h, w))]


def as_convolution(classifier: nn.Linear, window: Triple) -> nn.Conv3d:
    """The classifier of a window's features as a convolution, which reads every window at once.

    classifier: of features (C, *window) laid out flat. Where it gives (B, N) for a window, the
    convolution gives (B, N, d, h, w) for an image, without padding: section 3.1 of the paper.
    """
    channels = classifier.in_features // math.prod(window)
    has_bias = classifier.bias is not None
    found = nn.Conv3d(channels, classifier.out_features, window, bias=has_bias)
    found.weight = nn.Parameter(classifier.weight.detach().view(-1, channels, *window))
    if has_bias:
        found.bias = nn.Parameter(classifier.bias.detach())
    return found


def _width(model: ModelSpec, stages: int) -> list[int]:
    return [model.base_channels * 2**stage for stage in range(stages)]


def _cropped(x: Tensor, grid: Triple) -> Tensor:
    """What a pooling that took an odd rest left over goes."""
    d, h, w = grid
    return x[:, :, :d, :h, :w]
