"""The optimiser: AdamW, and orthogonalised momentum for separable units; others by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from u2net3d.models.network import Network
from u2net3d.models.units import Pointwise, UnitBank
from u2net3d.spec import TrainSpec

MOMENTUM = 0.95
MATRIX_RATE = 2.0  # of a matrix, in learning rates of the others
WIDEST = 256  # beyond, orthogonalising costs more than the step it improves
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def optimiser_for(net: Network, spec: TrainSpec) -> torch.optim.Optimizer:
    """The optimiser that `spec` names, over what of `net` requires gradients.

    A loop over some hundred small tensors costs milliseconds in Python, hence fused. torch's fused
    SGD asks that all weights had their first step together; here domains take turns.
    """
    weights = trained(net)
    rate, decay = spec.learning_rate, spec.weight_decay
    if spec.optimiser == "sgd":
        return torch.optim.SGD(
            weights, rate, momentum=0.99, nesterov=True, weight_decay=decay, foreach=True
        )
    if spec.optimiser == "adamw":
        return torch.optim.AdamW(weights, rate, weight_decay=decay, fused=True)
    if spec.optimiser == "adam":  # the decay is part of the gradient
        return torch.optim.Adam(weights, rate, weight_decay=decay, fused=True)
    turned = [(MATRIX_RATE, _matrices(net))]
    if spec.kernel_rate:
        turned.append((spec.kernel_rate, _kernels(net)))
    return Muon(weights, turned, rate, decay)


def trained(net: Network) -> list[Tensor]:
    """What of the network requires gradients."""
    return [weight for weight in net.parameters() if weight.requires_grad]


def _matrices(net: Network) -> list[Tensor]:
    pointwise = [part.weight for part in net.modules() if isinstance(part, Pointwise)]
    return [w for w in pointwise if w.requires_grad and max(w.shape) <= WIDEST]


def _kernels(net: Network) -> list[Tensor]:
    units = [part.weight for part in net.modules() if isinstance(part, UnitBank)]
    return [w for w in units if w.requires_grad]


class Muon(torch.optim.AdamW):
    """AdamW, but `turned` weights move along their orthogonalised Nesterov momentum.

    turned: rates, in learning rates of the others, each with its weights, matrices (rows, columns);
    a depthwise weight (C, 1, kD, kH, kW) is taken as the matrix (C, kD kH kW), a kernel a row.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024): every direction
    of a matrix moves alike, however weak its gradient. Weight decay is decoupled in both. A weight
    without a gradient is left as it is.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        turned: Sequence[tuple[float, Sequence[Tensor]]],
        rate: float,
        decay: float,
    ) -> None:
        chosen = {id(weight) for _, some in turned for weight in some}
        others = [weight for weight in weights if id(weight) not in chosen]
        groups: list[dict[str, Any]] = [{"params": others, "turned": 0.0}]
        groups += [{"params": list(some), "turned": factor} for factor, some in turned if some]
        super().__init__(groups, rate, weight_decay=decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of all weights that have a gradient."""
        assert closure is None
        every = self.param_groups
        self.param_groups = [group for group in every if not group["turned"]]
        try:
            super().step()
        finally:
            self.param_groups = every
        for group in every:
            if group["turned"]:
                self._turn(group)

    def _turn(self, group: dict[str, Any]) -> None:
        rate = group["lr"] * group["turned"]
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is not None:
                alike[weight.flatten(1).shape].append(weight)
        for shape, weights in alike.items():
            steps = orthogonalised(torch.stack([self._nesterov(weight) for weight in weights]))
            for weight, step in zip(weights, steps, strict=True):
                weight.mul_(1 - rate * group["weight_decay"])
                alpha = -rate * max(1.0, shape[0] / shape[1]) ** 0.5
                weight.add_(step.reshape(weight.shape), alpha=alpha)

    def _nesterov(self, weight: Tensor) -> Tensor:
        """As a matrix (rows, columns)."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:  # AdamW looks for a "step" in every state that it loads
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
        return weight.grad.lerp(state["momentum"], MOMENTUM).flatten(1)


def orthogonalised(x: Tensor) -> Tensor:
    """(N, rows, columns) with all singular values brought near 1, by five quintic Newton-Schulz
    steps (Jordan et al. 2024, coefficients there); they end between about 0.7 and 1.2."""
    a, b, c = _NEWTON_SCHULZ
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return x.transpose(1, 2) if tall else x
