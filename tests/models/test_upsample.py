"""Ways from coarse to fine, by hand and against torch; shift-and-stitch against the dense net."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from u2net3d.models.upsample import (
    UPSAMPLING,
    Transposed,
    linear,
    max_pooling,
    max_unpooling,
    nearest,
    shift_and_stitch,
    transposed,
    trilinear_kernel,
)

STRIDES = [(1, 1, 1), (2, 2, 2), (1, 2, 2), (1, 4, 8)]


def row(*values):
    return torch.tensor(values)[None, None, None, None]


def test_a_row_by_hand():
    x, stride = row(1.0, 5.0), (1, 1, 2)
    assert torch.equal(nearest(x, stride), row(1.0, 1.0, 5.0, 5.0))
    assert torch.equal(linear(x, stride), row(1.0, 2.0, 4.0, 5.0))
    assert torch.equal(Transposed(1, stride)(x), row(1.0, 2.0, 4.0, 5.0))
    fine = row(7.0, 1.0, 2.0, 9.0, 3.0)
    pooled, where = max_pooling(fine, stride)
    assert torch.equal(pooled, row(7.0, 9.0, 3.0))
    assert torch.equal(
        max_unpooling(row(0.5, -2.0, 4.0), stride, where, (1, 1, 5)), row(0.5, 0, 0, -2.0, 4.0)
    )


def test_the_table_names_them_all():
    assert [*UPSAMPLING] == ["nearest", "linear", "transposed", "max-unpooling", "shift-and-stitch"]


def test_the_kernel_of_stride_two_is_a_quarter_and_three_quarters():
    assert trilinear_kernel((1, 1, 2)).flatten().tolist() == [0.25, 0.75, 0.75, 0.25]
    kernel = trilinear_kernel((2, 2, 2))
    assert kernel.shape == (4, 4, 4)
    assert kernel[1, 1, 0] == 0.75 * 0.75 * 0.25
    assert kernel.sum() == 8


@pytest.mark.parametrize("stride", STRIDES)
def test_the_transposed_convolution_begins_as_linear_borders_included(stride):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, 3, dtype=torch.float64)
    up = Transposed(3, stride).double()
    assert torch.allclose(up(x), linear(x, stride), atol=1e-12)


def test_its_weights_learn_across_channels_too():
    up = Transposed(2, (2, 2, 2))
    up(torch.ones(1, 2, 3, 3, 3)).sum().backward()
    assert (up.weight.grad > 0).all()


def test_every_output_of_the_transposed_convolution_is_its_weights():
    # one coarse voxel of 1 among zeros, far from the border, shows the kernel
    x, weight = torch.zeros(1, 1, 5, 1, 1), torch.arange(1.0, 5.0).view(1, 1, 4, 1, 1)
    x[0, 0, 2] = 1
    assert transposed(x, (2, 1, 1), weight).flatten().tolist() == [0, 0, 0, 1, 2, 3, 4, 0, 0, 0]


@pytest.mark.parametrize("stride", STRIDES)
def test_it_is_the_transposed_convolution_of_torch(stride):
    torch.manual_seed(0)
    kernel = [2 * s if s > 1 else 1 for s in stride]
    x = torch.randn(2, 3, 4, 5, 3, dtype=torch.float64)
    weight = torch.randn(3, 2, *kernel, dtype=torch.float64)
    around = [int(s > 1) for s in reversed(stride) for _ in range(2)]
    padding = [s // 2 + s if s > 1 else 0 for s in stride]
    wide = F.pad(x, around, mode="replicate")
    expected = F.conv_transpose3d(wide, weight, None, stride, padding)
    assert torch.allclose(transposed(x, stride, weight), expected, atol=1e-12)


@pytest.mark.parametrize("grid", [(4, 6, 8), (5, 7, 3)])
def test_unpooling_undoes_pooling_where_the_maximum_was(grid):
    torch.manual_seed(0)
    x = torch.rand(2, 3, *grid) + 1
    pooled, where = max_pooling(x, (2, 2, 2))
    back = max_unpooling(pooled, (2, 2, 2), where, grid)
    assert back.shape == x.shape
    assert torch.equal(back[back > 0], x[back > 0])
    assert torch.equal(max_pooling(back, (2, 2, 2))[0], pooled)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (3, 2, 1)])
@pytest.mark.parametrize("size", [(11, 12, 13), (12, 11, 10)])
def test_shift_and_stitch_is_the_dense_evaluation(stride, size):
    # the dense net slides every window by one voxel: the pool does not skip, what follows is spread
    torch.manual_seed(0)
    first, second = nn.Conv3d(2, 3, 3).double(), nn.Conv3d(3, 4, (2, 3, 2)).double()
    window = (2, 2, 2)

    def coarse(x):
        return second(F.max_pool3d(first(x).relu(), window, stride))

    def dense(x):
        x = F.max_pool3d(first(x).relu(), window, 1)
        return F.conv3d(x, second.weight, second.bias, dilation=stride)

    image = torch.randn(2, 2, *size, dtype=torch.float64)
    stitched, expected = shift_and_stitch(coarse, image, stride), dense(image)
    assert stitched.shape == expected.shape
    assert torch.allclose(stitched, expected, atol=1e-12, rtol=0)
