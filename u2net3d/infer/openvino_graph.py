"""The network of one domain as an OpenVINO graph, built from its weights; no torch is imported.

What it computes is `UniversalNet.forward` in `eval()` for one patch of a fixed shape. Norms are MVN
operations behind the convolutions, which OpenVINO's CPU plugin joins with the scale, the bias and
the activation that follow. openvino is imported only inside the functions: it is an extra.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from u2net3d.infer.openvino_engine import converter
from u2net3d.spec import Design, DomainSpec, Level
from u2net3d.volume import Triple

if TYPE_CHECKING:
    from u2net3d.models.network import Network

Weights = Mapping[str, NDArray[np.float32]]
_EPS = 1e-5  # as in ops/pending.py, which imports torch
_SLOPE = 0.01
_SPACE = (2, 3, 4)


def build(trunk: Weights, bank: Weights, design: Design, spec: DomainSpec) -> Any:
    """An `openvino.Model` from a patch (1, C, D, H, W) of the plan to logits (1, K, D, H, W).

    trunk, bank: the tensors of the two weight files by their names there, float32.
    """
    import openvino as ov
    from openvino import opset13 as ops

    plan, first = spec.plan, design.first_stage
    patch = ops.parameter([1, len(spec.channels), *plan.patch_size], np.float32, name="patch")
    graph = _Graph(ops, trunk, bank, design)
    strides = plan.strides[first:]
    entry = (1, 1, 1) if first == 0 else strides[0]
    x = graph.norm(graph.dense(patch, bank["stem.weight"], entry), "stem.norm", _SLOPE)
    skips = []
    for i, stride in enumerate(strides):
        if i:
            x = graph.unit(x, f"down.{i - 1}", stride)
        x = graph.encode(x, f"encoder.{i}")
        skips.append(x)
    for i in reversed(range(len(strides) - 1)):
        x = graph.decode(x, skips[i], i, strides[i + 1])
    return ov.Model([graph.head(x, entry, plan.patch_size)], [patch], "u2net3d")


def traced(
    net: Network, domain: str, patch: NDArray[np.float32], level: Level | None = None
) -> Any:
    """An `openvino.Model` of any other network in `eval()`, as OpenVINO follows it over a patch.

    Of what the level needs alone. patch (1, C, D, H, W); torch is imported.
    """
    import torch

    class Answer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net.answer(x, domain, level)

    given = torch.from_numpy(patch)
    with warnings.catch_warnings():  # torch's on tracing, which is OpenVINO's way: not ours to mend
        warnings.simplefilter("ignore")
        return converter()(Answer().eval(), example_input=given, input=list(given.shape))


class _Graph:
    """The pieces of the graph; names are those of the tensors in the weight files."""

    def __init__(self, ops: Any, trunk: Weights, bank: Weights, design: Design) -> None:
        self.ops, self.trunk, self.bank, self.design = ops, trunk, bank, design

    def dense(self, x: Any, weight: NDArray[np.float32], stride: Sequence[int]) -> Any:
        """A convolution with padding kernel // 2; weight (C', C, kD, kH, kW)."""
        pads = [n // 2 for n in weight.shape[2:]]
        return self.ops.convolution(x, weight, list(stride), pads, pads, [1, 1, 1])

    def norm(self, x: Any, name: str, slope: float = 1.0) -> Any:
        """InstanceNorm by the weight and bias of `name`, then LeakyReLU (none for a slope of 1)."""
        axes = np.array(_SPACE, np.int64)
        x = self.ops.mvn(x, axes, True, _EPS, "inside_sqrt")
        x = self.ops.multiply(x, _wide(self.bank[f"{name}.weight"]))
        x = self.ops.add(x, _wide(self.bank[f"{name}.bias"]))
        return x if slope == 1.0 else self.active(x)

    def active(self, x: Any) -> Any:
        """LeakyReLU."""
        return self.ops.prelu(x, np.array([_SLOPE], np.float32))

    def unit(
        self, x: Any, name: str, stride: Sequence[int] = (1, 1, 1), slope: float = _SLOPE
    ) -> Any:
        """A separable unit: depthwise [norm, activation], pointwise, norm and activation."""
        weight = self.bank[f"{name}.weight"]
        pads = [n // 2 for n in weight.shape[2:]]
        x = self.ops.group_convolution(x, weight[:, None], list(stride), pads, pads, [1, 1, 1])
        if self.design.inner_norm:
            x = self.norm(x, f"{name}.inner", _SLOPE)
        matrix = self.trunk[f"{name}.weight"][:, :, None, None, None]
        return self.norm(self.dense(x, matrix, (1, 1, 1)), f"{name}.outer", slope)

    def encode(self, x: Any, name: str) -> Any:
        """The two units of an encoder stage, with the residual sum where the design has one."""
        inner = self.unit(x, f"{name}.0")
        if not self.design.residual:
            return self.unit(inner, f"{name}.1")
        return self.active(self.ops.add(self.unit(inner, f"{name}.1", slope=1.0), x))

    def decode(self, x: Any, skip: Any, i: int, stride: Triple) -> Any:
        """Up to the grid of `skip`, side by side with it, and the two units of decoder level i."""
        grid = list(skip.get_output_shape(0))[2:]
        if self.design.coarse_up:
            x = self.up(self.unit(x, f"up.{i}"), stride, grid)
        else:
            x = self.unit(self.up(x, stride, grid), f"up.{i}")
        x = self.ops.concat([x, skip], 1)
        return self.unit(self.unit(x, f"decoder.{i}.0"), f"decoder.{i}.1")

    def up(self, x: Any, stride: Triple, grid: Sequence[int]) -> Any:
        """Nearest up-sampling by `stride`, cropped to `grid` (D, H, W)."""
        sizes = [n * s for n, s in zip(list(x.get_output_shape(0))[2:], stride, strict=True)]
        if stride != (1, 1, 1):
            x = self.ops.interpolate(
                x,
                np.array(sizes, np.int64),
                mode="nearest",
                shape_calculation_mode="sizes",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
                axes=np.array(_SPACE, np.int64),
            )
        return self.cropped(x, sizes, grid)

    def cropped(self, x: Any, sizes: Sequence[int], grid: Sequence[int]) -> Any:
        """What lies beyond `grid` is cut off."""
        if list(sizes) == list(grid):
            return x
        begin, step = np.zeros(3, np.int64), np.ones(3, np.int64)
        end, axes = np.array(grid, np.int64), np.array(_SPACE, np.int64)
        return self.ops.slice(x, begin, end, step, axes)

    def head(self, x: Any, entry: Triple, grid: Triple) -> Any:
        """Logits on `grid`: 1x1x1, or a transposed convolution whose kernel is its stride."""
        weight, bias = self.bank["heads.0.weight"], self.bank["heads.0.bias"]
        if weight.ndim == 2:
            return self.ops.add(
                self.dense(x, weight[:, :, None, None, None], (1, 1, 1)), _wide(bias)
            )
        classes, _, channels = weight.shape
        kernel = weight.transpose(2, 0, 1).reshape(channels, classes, *entry)
        x = self.ops.convolution_backprop_data(x, np.ascontiguousarray(kernel), list(entry))
        x = self.ops.add(x, _wide(bias))
        return self.cropped(x, list(x.get_output_shape(0))[2:], grid)


def _wide(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values.reshape(1, -1, 1, 1, 1)
