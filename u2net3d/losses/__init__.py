"""The losses: a table by name. Each takes logits (B, K, D, H, W) and target (B, D, H, W)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from u2net3d.losses.dice_ce import dice_ce
from u2net3d.losses.supervision import supervised

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {"dice_ce": dice_ce}

__all__ = ["LOSSES", "Loss", "dice_ce", "supervised"]
