"""The families of networks: a table by name, one file each."""

from __future__ import annotations

from u2net3d.models.fcn import Fcn
from u2net3d.models.network import Bank, BankShape, Network
from u2net3d.models.reference import ReferenceNet
from u2net3d.models.unet import UNet
from u2net3d.models.unetpp import UNetPP
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import Design, ModelSpec

FAMILIES: dict[str, type[Network]] = {
    "universal": UniversalNet,
    "reference": ReferenceNet,
    "unet": UNet,
    "unetpp": UNetPP,
    "fcn": Fcn,
}


def network(model: ModelSpec) -> Network:
    """The network of a model, without a bank yet.

    Raises ValueError for a family or an option that there is not, and for a design of another
    family than the one that has designs.
    """
    if model.family not in FAMILIES:
        raise ValueError(f"'{model.family}' is no family of networks; there are {[*FAMILIES]}")
    if model.family != "universal" and model.design != Design():
        raise ValueError(f"a design is of the family universal, not of {model.family}")
    return FAMILIES[model.family].of(model)


__all__ = ["FAMILIES", "Bank", "BankShape", "Network", "UniversalNet", "network"]
