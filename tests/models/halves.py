"""One of two processes that share a batch: python halves.py RANK MEETING_FILE RESULT_FILE.

Rank 0 writes the gradients of every weight after a step of each domain.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import PRESETS

CUBE, HALF = (3, 3, 3), (2, 2, 2)
DOMAINS = {"a": 2, "b": 3}  # their classes


def network():
    torch.manual_seed(0)
    net = UniversalNet(2, 3, PRESETS["base"].design)
    for name, classes in DOMAINS.items():
        strides = ((1, 1, 1), HALF, HALF)
        net.add_bank(
            name, BankShape(channels=1, classes=classes, strides=strides, kernels=(CUBE,) * 3)
        )
    return net


def batch(domain):
    """Two images; those of each domain are others."""
    torch.manual_seed(DOMAINS[domain])
    return torch.randn(2, 1, 8, 7, 6)


def learned(net, module, x, domain):
    """What every weight of `net` learns from the images x by way of `module`; None: nothing."""
    net.zero_grad(set_to_none=True)
    sum(logits.square().mean() for logits in module(x, domain)).backward()
    return {
        name: p.grad if p.grad is None else p.grad.clone() for name, p in net.named_parameters()
    }


def main(rank, meeting, result):
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    net = network()
    shared = DistributedDataParallel(net, find_unused_parameters=True)
    grown = {d: learned(net, shared, batch(d)[rank : rank + 1], d) for d in DOMAINS}
    if rank == 0:
        torch.save(grown, result)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]).as_uri(), sys.argv[3])
