"""UNet++: nested U-Nets over one encoder, answering at every depth; and the two designs before it.

Zhou et al., "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA 2018
(arXiv 1807.10165), and TMI 2020 (arXiv 1912.05074), where the designs before it are called UNet^e
and UNet+. Node X(i, j) lies at stage i and is the j-th of its row, X(i, 0) are the encoder; head l
reads X(0, l). With separable blocks domains share the nodes' matrices, which is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from u2net3d.models.blocks import BLOCKS, BlockOptions, BlockShape, grid_of, pooled
from u2net3d.models.network import Bank, BankShape, Network
from u2net3d.models.units import Head
from u2net3d.ops.pending import Features
from u2net3d.spec import Level, ModelSpec

Node = tuple[int, int]


class UNetPPOptions(BlockOptions):
    """skips: what a node reads of its own row beside the up-sampled node below it.

    nested: all before it (UNet++); ensemble: the encoder's alone, so that X(0, l) ends a U-Net of
    its own for every l (UNet^e); aggregated: the last before it alone, the short skips of Deep
    Layer Aggregation (Yu et al. 2018) (UNet+). supervised: a head at every depth, else one.
    """

    skips: Literal["nested", "ensemble", "aggregated"] = "nested"
    supervised: bool = True

    def left(self, j: int) -> tuple[int, ...]:
        """The nodes of its own row that the j-th reads, from 1 on."""
        return {"nested": tuple(range(j)), "ensemble": (0,), "aggregated": (j - 1,)}[self.skips]

    def channels(self, node: Node, width: Sequence[int], image: int) -> int:
        """That a node reads: of an image of so many channels, and stages of `width`."""
        i, j = node
        if j:
            return len(self.left(j)) * width[i] + width[i + 1]
        return width[i - 1] if i else image

    def needed(self, levels: Iterable[int]) -> set[Node]:
        """The nodes that the heads of `levels` need, directly or not."""
        found, left = set[Node](), [(0, level) for level in levels]
        while left:
            i, j = node = left.pop()
            if node in found:
                continue
            found.add(node)
            left += (
                [(i, k) for k in self.left(j)] + [(i + 1, j - 1)] if j else [(i - 1, 0)] * (i > 0)
            )
        return found


class Trunk(nn.Module):
    """The matrices of separable nodes, in the layout of `UNetPPBank`; of other nodes nothing."""

    def __init__(self, model: ModelSpec, options: UNetPPOptions) -> None:
        super().__init__()
        kinds, width = BLOCKS[options.block], _width(model, model.stages)
        self.nodes = nn.ModuleDict()
        for i, j in _nodes(model.stages):
            kind = kinds.other if (i, j) != (0, 0) else kinds.entry
            channels = options.channels((i, j), width, 1)
            self.nodes[_name((i, j))] = kind.shared(channels, width[i])


class UNetPPBank(Bank):
    """nodes["i_j"] is the block X(i, j), heads["l"] the head of level l."""

    def __init__(self, shape: BankShape, model: ModelSpec, options: UNetPPOptions) -> None:
        super().__init__(shape)
        kinds, width = BLOCKS[options.block], _width(model, shape.stages)
        self.nodes, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for i, j in _nodes(shape.stages):
            kind = kinds.other if (i, j) != (0, 0) else kinds.entry
            channels = options.channels((i, j), width, shape.channels)
            made = BlockShape(channels, width[i], shape.kernels[i], options)
            self.nodes[_name((i, j))] = kind.own(made)
        deepest = shape.stages - 1
        for level in range(1 if options.supervised else deepest, shape.stages):
            self.heads[str(level)] = Head(width[0], shape.classes)


class UNetPP(Network):
    """A UNet++ of its own for every domain; with separable blocks they share the matrices."""

    trunk: Trunk

    def __init__(self, model: ModelSpec) -> None:
        super().__init__(model)
        self.options = UNetPPOptions.model_validate(model.options)
        self.trunk = Trunk(model, self.options)

    def make_bank(self, shape: BankShape) -> UNetPPBank:
        """Raises ValueError for a bank of one stage, which has no node to answer."""
        if shape.stages < 2:
            raise ValueError("a UNet++ has at least two stages")
        return UNetPPBank(shape, self.model, self.options)

    def bank(self, domain: str) -> UNetPPBank:
        """The bank of a domain. Raises KeyError when there is none."""
        found = self.banks[domain]
        assert isinstance(found, UNetPPBank)
        return found

    def levels(self, domain: str) -> int:
        """One fewer than the domain's stages; 0 without deep supervision."""
        return self.bank(domain).shape.stages - 1 if self.options.supervised else 0

    def forward(self, x: Tensor, domain: str) -> list[Tensor]:
        """The deepest level first; in `train()` all that have a head, all at full resolution."""
        heads = [int(level) for level in [*self.bank(domain).heads][::-1]]
        return self._run(x, domain, heads if self.training else heads[:1])

    def answer(self, x: Tensor, domain: str, level: Level | None = None) -> Tensor:
        """Only the nodes that the level needs are run. mean: of the levels' softmax, as logits."""
        count = self.levels(domain)
        if level is None:
            return super().answer(x, domain)
        if not count or (level != "mean" and not 1 <= level <= count):
            raise ValueError(f"level {level} asked of a network that has {count}")
        if level != "mean":
            return self._run(x, domain, [level])[0]
        found = [logits.log_softmax(1) for logits in self._run(x, domain, range(1, count + 1))]
        return torch.stack(found).logsumexp(0) - math.log(count)

    def _run(self, x: Tensor, domain: str, levels: Sequence[int]) -> list[Tensor]:
        """The logits of each level."""
        bank, needed = self.bank(domain), self.options.needed(levels)
        found: dict[Node, Features] = {}
        for i, j in sorted(needed, key=lambda node: (node[1], node[0])):
            if j:
                below = found[i + 1, j - 1]._replace(up=bank.shape.strides[i + 1])
                sources = [*(found[i, k] for k in self.options.left(j)), below]
                grid = grid_of(found[i, 0])
            else:
                sources = [
                    pooled(found[i - 1, 0], bank.shape.strides[i]) if i else Features(x, None)
                ]
                grid = grid_of(sources[0])
            name = _name((i, j))
            found[i, j] = bank.nodes[name](sources, self.trunk.nodes[name], grid)
        return [bank.heads[str(level)](found[0, level], x.shape[2:]) for level in levels]


def _nodes(stages: int) -> list[Node]:
    return [(i, j) for j in range(stages) for i in range(stages - j)]


def _name(node: Node) -> str:
    return "{}_{}".format(*node)


def _width(model: ModelSpec, stages: int) -> list[int]:
    return [model.base_channels * 2**stage for stage in range(stages)]
