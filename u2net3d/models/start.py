"""Begins a bank, fresh or from the banks of other domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from u2net3d.models.network import Bank, BankShape, Network
from u2net3d.models.units import Entry, Head
from u2net3d.spec import DomainSpec


def with_new_bank(
    net: Network,
    spec: DomainSpec,
    specs: Mapping[str, DomainSpec],
    sources: Sequence[str],
    seed: int,
    *,
    ends: bool,
) -> Network:
    """`net` with a bank for `spec` that alone can be trained, in the place of an older one.

    It starts from the mean of the banks named in `sources`. ends: also with their stem, where the
    channels are the same, and with their heads of labels of the same name.
    """
    given = [net.bank(source) for source in sources]
    if spec.name in net.banks:
        del net.banks[spec.name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bank = net.add_bank(spec.name, BankShape.of(spec))
    start_from(bank, given)
    for source, other in zip(sources, given, strict=True) if ends else ():
        copy_ends(bank, spec, other, specs[source])
    net.banks.requires_grad_(False)
    net.freeze_trunk()
    bank.requires_grad_(True)
    return net


@torch.no_grad()
def start_from(bank: Bank, others: Sequence[Bank]) -> int:
    """Sets all of the bank but stem and heads to its mean over `others`; how many numbers.

    A bank takes part in a tensor where it holds one of that shape. A 3x3x3 kernel gives a 1x3x3 one
    the sum of its slices, which answers slices that are alike as all of it does; a 1x3x3 kernel
    gives a 3x3x3 one its centre slice, between zeros. Stem and heads stay as they are (see
    `copy_ends`), and so does what no other bank holds.
    """
    taken = 0
    ends = bank.ends()
    for name, weight in [*bank.named_parameters(), *bank.named_buffers()]:
        if name.startswith(ends):
            continue
        found = [_held(other, name, weight) for other in others]
        values = [value for value in found if value is not None]
        if values:
            weight.copy_(torch.stack(values).mean(0))
            taken += weight.numel()
    return taken


@torch.no_grad()
def copy_ends(bank: Bank, spec: DomainSpec, other: Bank, other_spec: DomainSpec) -> int:
    """Sets stem and heads to those of another bank where both mean the same; how many weights.

    The stem, where both domains have the same channels in the same order; of every head the
    background, and the labels that both name alike (in small or large letters).
    """
    taken, parts = 0, dict(other.named_modules())
    known = {name: row for row, name in enumerate(_plain(other_spec.labels)) if row}
    rows = [(row, known[name]) for row, name in enumerate(_plain(spec.labels)) if name in known]
    for name, part in bank.named_modules():
        if isinstance(part, Entry) and _plain(spec.channels) == _plain(other_spec.channels):
            for tensor, weight in part.named_parameters():
                held = _held(other, f"{name}.{tensor}", weight)
                if held is not None:
                    weight.copy_(held)
                    taken += weight.numel()
        source = parts.get(name)
        if isinstance(part, Head) and isinstance(source, Head):
            taken += _copy_rows(part, source, [(0, 0), *((a, b) for a, b in rows if a)])
    return taken


def _copy_rows(head: Head, source: Head, rows: Sequence[tuple[int, int]]) -> int:
    if head.weight.shape[1:] != source.weight.shape[1:]:  # another stride
        return 0
    for to, from_ in rows:
        head.weight[to] = source.weight[from_]
        head.bias[to] = source.bias[from_]
    return len(rows) * (head.weight[0].numel() + 1)


def _plain(names: Sequence[str]) -> list[str]:
    return [name.strip().casefold() for name in names]


def _held(other: Bank, name: str, like: Tensor) -> Tensor | None:
    held: Tensor | None = other.state_dict().get(name)
    if held is None or held.shape[:2] != like.shape[:2]:
        return None
    for axis in range(2, like.dim()):
        size, wanted = held.shape[axis], like.shape[axis]
        if size == wanted:
            continue
        if {size, wanted} != {1, 3}:  # no kernels of which one is the middle of the other
            return None
        if wanted == 1:  # slices that are alike are answered as by the deep kernel
            held = held.sum(axis, keepdim=True)
        else:  # a flat kernel inside a deep one: zeros around the centre
            around = [(wanted - size) // 2 if a == axis else 0 for a in range(like.dim())]
            held = torch.nn.functional.pad(held, [n for n in reversed(around) for _ in (0, 1)])
    return held
