"""Norms, sums of features and what all kernels in Triton share: places, sums, statistics.

Memory is channels-last, (B, D, H, W, C). A program computes a tile of `rows` voxels of one sample
by `columns` channels; the grid is (blocks of voxels, blocks of channels, samples). Tensors are
stored in float32 or bfloat16 and computed with in float32. Every program writes sums of its own and
none adds to another's, so the same input gives the same bits. The formulas stand in `reference.py`;
`gpu.py` launches. `scale` and `offset` are the norm's weight and bias.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

# Whether triton's interpreter stands in for its compiler; triton.jit asks when it wraps a function.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def places(rows: tl.constexpr, columns: tl.constexpr):
    """The voxels (rows, 1) and channels (1, columns) of this program."""
    voxel = tl.program_id(0) * rows + tl.arange(0, rows)
    channel = tl.program_id(1) * columns + tl.arange(0, columns)
    return voxel[:, None], channel[None, :]


@triton.jit
def sample(tensor, size):
    """Where this program's sample of `size` values begins."""
    return tensor + tl.program_id(2).to(tl.int64) * size


@triton.jit
def read(tensor, at, inside):
    """Values as float32, 0 where not `inside`."""
    return tl.load(tensor + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def norm(mean, rstd, scale, offset, channel, channels):
    """mean and rstd of this program's sample, scale and offset, at `channel`."""
    inside = channel < channels
    at = tl.program_id(2) * channels + channel
    m, r = read(mean, at, inside), read(rstd, at, inside)
    return m, r, read(scale, channel, inside), read(offset, channel, inside)


@triton.jit
def leaky(before, value, slope):
    """`value`, times the slope where `before` is not above 0."""
    return tl.where(before > 0, value, value * slope)


@triton.jit
def store_sums(parts, first, second, channel, own, channels):
    """Writes two sums (columns,) of each of `own` channels, in parts (B, blocks, 2, C)."""
    block = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    at = parts + block * 2 * channels + channel
    tl.store(at, first[None, :], mask=channel < own)
    tl.store(at + channels, second[None, :], mask=channel < own)


@triton.jit
def store_moments(parts, value, inside, channel, own, channels, voxels, rows: tl.constexpr):
    """Sum, and sum of squares about this block's own mean: plain squares would cancel."""
    count = tl.minimum(rows, voxels - tl.program_id(0) * rows)
    total = tl.sum(tl.where(inside, value, 0.0), 0)
    apart = tl.where(inside, value - (total / count)[None, :], 0.0)
    store_sums(parts, total, tl.sum(apart * apart, 0), channel, own, channels)


@triton.jit
def statistics(
    parts, mean, rstd, voxels, blocks, channels, eps, block_rows: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """mean and rstd (B, C) out of the blocks' moments (Chan et al. 1979, eq. 2.1)."""
    row = tl.arange(0, rows)[:, None]
    _, channel = places(rows, columns)
    parts = sample(parts, blocks * 2 * channels) + channel
    totals = tl.zeros((rows, columns), tl.float32)
    for first in range(0, blocks, rows):
        there = (first + row < blocks) & (channel < channels)
        totals += read(parts, (first + row) * 2 * channels, there)
    middle = (tl.sum(totals, 0) / voxels)[None, :]
    squares = tl.zeros((rows, columns), tl.float32)
    for first in range(0, blocks, rows):
        block = first + row
        there = (block < blocks) & (channel < channels)
        count = tl.minimum(block_rows, voxels - block * block_rows).to(tl.float32)
        apart = read(parts, block * 2 * channels, there) / count - middle
        within = read(parts, block * 2 * channels + channels, there)
        squares += tl.where(there, within + count * apart * apart, 0.0)
    variance = (tl.sum(squares, 0) / voxels)[None, :]
    at = tl.program_id(2) * channels + channel
    tl.store(mean + at, middle, mask=channel < channels)
    tl.store(rstd + at, 1.0 / tl.sqrt(variance + eps), mask=channel < channels)


@triton.jit
def sum_forward(
    x, mean, rstd, scale, offset, slope, other, other_mean, other_rstd, other_scale, other_offset,
    other_slope, after, y, voxels, channels, two: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """y = LeakyReLU, of slope `after`, of the activated x or (`two`) of that plus the other."""
    voxel, channel = places(rows, columns)
    inside = (voxel < voxels) & (channel < channels)
    at = voxel * channels + channel
    m, r, w, b = norm(mean, rstd, scale, offset, channel, channels)
    before = (read(sample(x, voxels * channels), at, inside) - m) * r * w + b
    total = leaky(before, before, slope)
    if two:
        m, r, w, b = norm(other_mean, other_rstd, other_scale, other_offset, channel, channels)
        before = (read(sample(other, voxels * channels), at, inside) - m) * r * w + b
        total += leaky(before, before, other_slope)
    tl.store(sample(y, voxels * channels) + at, leaky(total, total, after), mask=inside)


@triton.jit
def sum_backward(
    gradient, y, after, x, mean, rstd, scale, offset, slope, result, parts, voxels, channels,
    rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """g_act of one source x of the sum y, and its sums by block, from the gradient of y."""
    voxel, channel = places(rows, columns)
    inside = (voxel < voxels) & (channel < channels)
    at = voxel * channels + channel
    size = voxels * channels
    m, r, w, b = norm(mean, rstd, scale, offset, channel, channels)
    xhat = (read(sample(x, size), at, inside) - m) * r
    g = read(sample(gradient, size), at, inside)
    g = leaky(read(sample(y, size), at, inside), g, after)
    g_act = leaky(xhat * w + b, g, slope)
    tl.store(sample(result, size) + at, g_act, mask=inside)
    store_sums(parts, tl.sum(g_act, 0), tl.sum(g_act * xhat, 0), channel, channels, channels)


@triton.jit
def finish(
    g_act, x, mean, rstd, scale, offset, sums, result, voxels, channels, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """The gradient of x from g_act and its sums (B, 2, C)."""
    voxel, channel = places(rows, columns)
    inside = (voxel < voxels) & (channel < channels)
    at = voxel * channels + channel
    m, r, w, _ = norm(mean, rstd, scale, offset, channel, channels)
    xhat = (read(sample(x, voxels * channels), at, inside) - m) * r
    sums = sample(sums, 2 * channels)
    of_ones = read(sums, channel, channel < channels) / voxels
    of_xhat = read(sums, channels + channel, channel < channels) / voxels
    g = read(sample(g_act, voxels * channels), at, inside)
    value = (g - of_ones - xhat * of_xhat) * (w * r)
    tl.store(sample(result, voxels * channels) + at, value, mask=inside)
