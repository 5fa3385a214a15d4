"""The losses: a table by name.

Each takes logits (B, K, D, H, W), target (B, D, H, W) and, 0 to 1, how far the classes of a batch
are to weigh the same whatever their size. Those of BORDERED take further weights (B, D, H, W) of
`patches/border.py`, which the loader then makes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from u2net3d.losses.border import border_ce
from u2net3d.losses.dice_ce import dice_ce
from u2net3d.losses.focal import focal, lovasz_focal
from u2net3d.losses.lovasz import lovasz
from u2net3d.losses.supervision import supervised

Loss = Callable[[Tensor, Tensor, float], Tensor]

LOSSES: dict[str, Loss] = {
    "dice_ce": dice_ce,
    "border_ce": border_ce,
    "lovasz": lovasz,
    "focal": focal,
    "lovasz_focal": lovasz_focal,
}
BORDERED = frozenset({"border_ce"})

__all__ = [
    "BORDERED",
    "LOSSES",
    "Loss",
    "border_ce",
    "dice_ce",
    "focal",
    "lovasz",
    "lovasz_focal",
    "supervised",
]
