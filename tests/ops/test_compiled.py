"""The operators by name: torch holds them to everything that it asks of an operator."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

from u2net3d.ops import compiled, computing, native, plain
from u2net3d.ops.computing import Layout, tensors_of
from u2net3d.ops.flat import flattened, layout_of
from u2net3d.ops.pending import Features, Pending

GRID = (3, 5, 4)
HALF = (1, 2, 2)


@pytest.fixture(params=["native", "torch"], autouse=True)
def passes(request, monkeypatch):
    """The native kernels, where they were built, and torch's operators."""
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("the native kernels were not built")
    torch.manual_seed(0)


def drawn(*shape):
    return torch.randn(shape, requires_grad=True)


def source(channels, *, up=(1, 1, 1), pending=True):
    """Features that cover GRID when each voxel is repeated `up` times."""
    space = [-(-n // times) for n, times in zip(GRID, up, strict=True)]
    x = drawn(2, channels, *space)
    mean, rstd = plain.statistics(x.detach())
    norm = Pending(mean, rstd, drawn(channels), drawn(channels), 0.1) if pending else None
    return Features(x, norm, up)


UNITS = {
    "plain": {"sources": [{"pending": False}]},
    "pending": {"sources": [{}], "inner": True},
    "strided": {"sources": [{}], "stride": HALF},
    "up-sampled beside a skip": {"sources": [{"up": HALF}, {}], "inner": True},
    "up-sampled without a norm beside a skip": {"sources": [{"up": HALF, "pending": False}, {}]},
}


def unit(case):
    """The weights, tensors and layout of one of UNITS."""
    sources = [source(3 + i, **how) for i, how in enumerate(case["sources"])]
    channels = sum(s.x.shape[1] for s in sources)
    inner = (drawn(channels), drawn(channels)) if case.get("inner") else (None, None)
    own = (drawn(channels, 1, 3, 3, 3), *inner, drawn(4, channels))
    return own, tensors_of(sources), Layout.of(sources, case.get("stride", (1, 1, 1)), GRID, 0.1)


def bare(tensors):
    return [None if t is None else t.detach() for t in tensors]


@pytest.mark.parametrize("case", UNITS)
def test_a_unit_is_an_operator_like_any_other(case):
    own, tensors, how = unit(UNITS[case])
    opcheck(compiled._unit, (*own, tensors, *flattened(how)))


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("case", UNITS)
def test_the_way_back_through_a_unit_is_an_operator_too(case, wanted):
    own, tensors, how = unit(UNITS[case])
    own, tensors = bare(own), bare(tensors)
    v, _, _, *of_u = computing.unit_forward(how, *own, tensors)
    asked = [wanted, *[wanted] * len(how.slopes)]
    backward = (torch.randn_like(v), *own, tensors, of_u, asked, *flattened(how))
    opcheck(compiled._unit_backward, backward)


@pytest.mark.parametrize("stride", [(1, 1, 1), HALF])
def test_a_stem_and_its_way_back_are_operators(stride):
    image, weight = torch.randn(2, 2, *GRID), drawn(4, 2, 1, 3, 3)
    opcheck(compiled._stem, (image, weight, stride))
    gradient = torch.randn(2, 4, *(-(-n // s) for n, s in zip(GRID, stride, strict=True)))
    opcheck(compiled._stem_backward, (gradient, image, weight.detach(), stride))


@pytest.mark.parametrize("pending", [True, False])
def test_a_head_and_its_way_back_are_operators(pending):
    sources = [source(3, pending=pending)]
    matrix, tensors, flat = drawn(2, 3), tensors_of(sources), flattened(Layout.of(sources))
    opcheck(compiled._head, (matrix, drawn(2), tensors, *flat))
    gradient = torch.randn(2, 2, *GRID)
    for wanted in (True, False):
        backward = (gradient, matrix.detach(), bare(tensors), wanted, *flat)
        opcheck(compiled._head_backward, backward)


@pytest.mark.parametrize("pending", [[True], [True, False], [False, False]])
def test_a_sum_and_its_way_back_are_operators(pending):
    sources = [source(3, pending=each) for each in pending]
    tensors, flat = tensors_of(sources), flattened(Layout.of(sources, slope=0.1))
    opcheck(compiled._summed, (tensors, *flat))
    y, gradient = torch.randn(2, 2, 3, *GRID)
    for wanted in ([True] * len(pending), [False, *[True] * (len(pending) - 1)]):
        opcheck(compiled._summed_backward, (gradient, y, bare(tensors), wanted, *flat))


@pytest.mark.parametrize("case", UNITS)
def test_a_layout_survives_its_schema(case):
    _, _, how = unit(UNITS[case])
    assert layout_of(*flattened(how)) == how
