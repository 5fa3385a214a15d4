"""A checkpoint of the official code of 3D U2-Net, read as data and written as a model folder.

The names are those of the modules in github.com/huangmozhilv/u2net_torch, where a domain is a
number: the place of its task in `--tasks`. Nothing in a checkpoint is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2net3d.errors import ModelError, UsageError
from u2net3d.spec import PRESETS, DomainSpec, ModelSpec
from u2net3d.store.manifest import Manifest
from u2net3d.store.saving import save_model

if TYPE_CHECKING:
    from torch import Tensor

    from u2net3d.models.network import Network

# What an adapter consists of: its name here, and there.
_PARTS = {
    "separable": {"depthwise": "conv1", "inner": "op1.0"},
    "series": {"inner": "op1.0", "adapter": "op1.1"},
    "parallel": {"adapter": "op1"},
    "shared": {},
    "independent": {},
}
_SAVE = "save the `model_state_dict` of a trained network with the official code"
_OTHER = "it is no checkpoint of u2net_torch, or of another network"
_NAME = "name a checkpoint of its models/u2net3d.py"


@dataclass(frozen=True)
class Official:
    """What a checkpoint holds.

    adapter: as in `ReferenceOptions`; domains: image channels and classes of each, in the order of
    `--tasks`; tensors: by the names there. A net without adapters that knows one domain alone is
    taken for an independent one.
    """

    path: Path
    adapter: str
    base_channels: int
    stages: int
    domains: tuple[tuple[int, int], ...]
    tensors: Mapping[str, Tensor]

    @property
    def model(self) -> ModelSpec:
        """Its network as one of ours."""
        known = PRESETS[f"reference-{self.adapter}"]
        size = {"base_channels": self.base_channels, "stages": self.stages}
        return known.model_copy(update=size)


def read_official(path: Path) -> Official:
    """A state dict of the official code: bare, or as `model_state_dict` of a dict of data.

    Raises UsageError where there is no file, ModelError for one that holds more than data, and for
    tensors that are not those of the official network.
    """
    tensors = _tensors(path)
    try:
        numbers = [_numbers(tensors, part) for part in ("in_tr_list", "down_blocks")]
        stems = [tensors[f"in_tr_list.{t}.op1.0.weight"].shape for t in range(numbers[0])]
        classes = [len(tensors[f"out_tr_list.{t}.conv1.weight"]) for t in range(numbers[0])]
        base_channels = stems[0][0]
    except (KeyError, IndexError) as error:
        raise ModelError(path, _OTHER, _NAME) from error
    domains = tuple((stem[1], k) for stem, k in zip(stems, classes, strict=True))
    adapter = _adapter(tensors)
    if adapter == "shared" and len(domains) == 1:
        adapter = "independent"
    return Official(path, adapter, base_channels, numbers[1], domains, tensors)


def as_network(official: Official, specs: Sequence[DomainSpec]) -> Network:
    """The network that answers as the official one does, a bank for each of `specs` in order.

    Raises UsageError where they are not as many, or not with the channels, labels and stages of the
    checkpoint, ModelError where its tensors are not those of the network.
    """
    import torch

    from u2net3d.models import network
    from u2net3d.models.network import BankShape

    _require_fit(official, specs)
    net = network(official.model)
    for spec in specs:
        net.add_bank(spec.name, BankShape.of(spec))
    expected, given, found = net.state_dict(), dict(official.tensors), {}
    for ours, theirs in _modules(official, [spec.name for spec in specs]):
        for part in ("weight", "bias"):
            tensor, name = given.pop(f"{theirs}.{part}", None), f"{ours}.{part}"
            if tensor is None or tensor.numel() != expected[name].numel():
                what = f"{theirs}.{part} is missing, or not of the shape that it should have"
                raise ModelError(official.path, f"{what}; {_OTHER}", _NAME)
            found[name] = tensor.to(torch.get_default_dtype()).reshape(expected[name].shape)
    if given:
        what = f"{min(given)} has no place in the network; {_OTHER}"
        raise ModelError(official.path, what, _NAME)
    net.load_state_dict(found)
    return net.eval()


def import_reference(official: Official, specs: Sequence[DomainSpec], folder: Path) -> Manifest:
    """Writes a model folder of the checkpoint's weights; raises what `as_network` does."""
    net = as_network(official, specs)
    cards = {spec.name: {"imported": "u2net_torch"} for spec in specs}
    return save_model(folder, net, official.model, {spec.name: spec for spec in specs}, cards)


def _tensors(path: Path) -> dict[str, Tensor]:
    import torch

    if not path.is_file():
        raise UsageError("CHECKPOINT", f"{path} is no file", "name a checkpoint of u2net_torch")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises: code in a pickle, no pickle at all
        what = "holds more than tensors, or is no checkpoint; nothing in it was run"
        mend = "where you trust it, save its `model_state_dict` alone with the official code"
        raise ModelError(path, what, mend) from error
    if isinstance(found, dict):
        found = found.get("model_state_dict", found)
    if not (isinstance(found, dict) and found):
        raise ModelError(path, "holds no state dict, or an empty one", _SAVE)
    for name, value in found.items():
        if fault := _fault(value):
            raise ModelError(path, f"'{name}' {fault}, no weight of a state dict", _SAVE)
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def _fault(value: object) -> str | None:
    """Why it is no weight; None where it is one."""
    import torch

    if not isinstance(value, torch.Tensor):
        return f"is of type {type(value).__name__}"
    if not value.is_floating_point():
        return f"holds {value.dtype}"
    return None if torch.isfinite(value).all() else "holds values that are no finite numbers"


def _numbers(tensors: Mapping[str, Tensor], part: str) -> int:
    """How many there are of `part`, a list of modules."""
    matches = (re.match(rf"{part}\.(\d+)\.", name) for name in tensors)
    return len({match[1] for match in matches if match})


def _adapter(tensors: Mapping[str, Tensor]) -> str:
    unit = "down_blocks.0.op1"
    signs = {
        "separable": f"{unit}.pwise.conv1.weight",
        "series": f"{unit}.adapOps.0.op1.0.weight",
        "parallel": f"{unit}.adapOps.0.op1.weight",
    }
    return next((adapter for adapter, name in signs.items() if name in tensors), "shared")


def _require_fit(official: Official, specs: Sequence[DomainSpec]) -> None:
    if len(specs) != len(official.domains):
        what = f"{len(specs)} are named, the checkpoint holds {len(official.domains)}"
        raise UsageError("--domains", what, "name those of its --tasks, in that order")
    for spec, (channels, classes) in zip(specs, official.domains, strict=True):
        given = (len(spec.channels), len(spec.labels), spec.plan.stages)
        if given != (channels, classes, official.stages):
            what = f"{spec.name} has {given[0]} channels, {given[1]} labels and {given[2]} stages; "
            there = f"in its place the checkpoint has {channels}, {classes} and {official.stages}"
            raise UsageError("--domains", what + there, "name those of its --tasks, in that order")


def _modules(official: Official, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every module with weight and bias: its name here, and there."""
    shared = "pwise.conv1" if official.adapter == "separable" else "conv"
    parts = _PARTS[official.adapter]
    trunk = f"banks.{names[0]}.own" if official.adapter == "independent" else "trunk"
    for ours, theirs, strided in _units(official.stages):
        yield f"{trunk}.{ours}", f"{theirs}.{'conv' if strided else shared}"
        for t, name in enumerate(names):
            yield f"banks.{name}.{ours}.outer", f"{theirs}.op.{t}"
            for own, there in parts.items() if not strided else ():
                yield f"banks.{name}.{ours}.{own}", f"{theirs}.adapOps.{t}.{there}"
    supervised = min(2, official.stages - 2)
    for t, name in enumerate(names):
        bank = f"banks.{name}"
        yield f"{bank}.stem.convolution", f"in_tr_list.{t}.op1.0"
        yield f"{bank}.stem.norm", f"in_tr_list.{t}.op1.1.0"
        yield f"{bank}.head", f"out_tr_list.{t}.conv1"
        for level in range(supervised):  # there the coarsest comes first
            there = f"dSupers.{supervised - 1 - level}.{t}.op1"
            yield f"{bank}.supervision.{level}.convolution", f"{there}.0"
            yield f"{bank}.supervision.{level}.norm", f"{there}.1.0"


def _units(stages: int) -> Iterator[tuple[str, str, bool]]:
    """Every unit: its name here, and there, and whether it is strided."""
    for i in range(stages):
        for unit in (0, 1):
            yield f"encoder.{i}.{unit}", f"down_blocks.{i}.op{unit + 1}", False
    for i in range(stages - 1):
        yield f"down.{i}", f"down_samps.{i}.op1", True
        yield f"up.{i}", f"up_samps.{i}.op", False
        for unit in (0, 1):
            yield f"decoder.{i}.{unit}", f"up_blocks.{i}.op{unit + 1}", False
