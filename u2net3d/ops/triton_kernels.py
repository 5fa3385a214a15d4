"""Depthwise and pointwise convolution in Triton, reading a pending norm; see `triton_norm.py`.

`gpu.py` launches, and imports this only where triton is installed. The formulas stand in
`reference.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from u2net3d.ops.triton_norm import (
    INTERPRETED,
    leaky,
    norm,
    places,
    read,
    sample,
    store_moments,
    store_sums,
)


@triton.jit
def depthwise_forward(
    x, mean, rstd, scale, offset, slope, weight, u, parts, depth, height, width, x_depth, x_height,
    x_width, u_depth, u_height, u_width, own, channels, kd: tl.constexpr, kh: tl.constexpr,
    kw: tl.constexpr, sd: tl.constexpr, sh: tl.constexpr, sw: tl.constexpr, ud: tl.constexpr,
    uh: tl.constexpr, uw: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """A tile of `own` of u's channels and its moments; weight (kd * kh * kw, own).

    x is read on the grid (depth, height, width), every voxel of it (ud, uh, uw) times.
    """
    voxel, channel = places(rows, columns)
    voxels = u_depth * u_height * u_width
    inside = (voxel < voxels) & (channel < own)
    d = voxel // (u_height * u_width) * sd - kd // 2
    h = voxel // u_width % u_height * sh - kh // 2
    w = voxel % u_width * sw - kw // 2
    mean, rstd, scale, offset = norm(mean, rstd, scale, offset, channel, own)
    x = sample(x, x_depth * x_height * x_width * own)
    total = tl.zeros((rows, columns), tl.float32)
    for i in range(kd):
        for j in range(kh):
            there = inside & (d + i >= 0) & (d + i < depth) & (h + j >= 0) & (h + j < height)
            row = ((d + i) // ud * x_height + (h + j) // uh) * x_width
            for k in tl.static_range(kw):
                met = there & (w + k >= 0) & (w + k < width)
                place = row + (w + k) // uw
                before = (read(x, place * own + channel, met) - mean) * rstd * scale + offset
                y = tl.where(met, leaky(before, before, slope), 0.0)
                tap = ((i * kh + j) * kw + k) * own + channel
                total += y * read(weight, tap, channel < own)
    total = total.to(u.dtype.element_ty)
    tl.store(sample(u, voxels * channels) + voxel * channels + channel, total, mask=inside)
    total = total.to(tl.float32)  # as stored: the statistics are of what is read again
    store_moments(parts, total, inside, channel, own, channels, voxels, rows)


@triton.jit
def depthwise_backward(
    gradient, x, mean, rstd, scale, offset, slope, weight, result, parts, weight_parts, depth,
    height, width, x_depth, x_height, x_width, u_depth, u_height, u_width, own, channels,
    kd: tl.constexpr, kh: tl.constexpr, kw: tl.constexpr, sd: tl.constexpr, sh: tl.constexpr,
    sw: tl.constexpr, ud: tl.constexpr, uh: tl.constexpr, uw: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """A tile of g_act, its sums, and its share of the weight's gradient (B, blocks, taps, own)."""
    voxel, channel = places(rows, columns)
    voxels = x_depth * x_height * x_width
    inside = (voxel < voxels) & (channel < own)
    d = voxel // (x_height * x_width) * ud
    h = voxel // x_width % x_height * uh
    w = voxel % x_width * uw
    m, r, scale, offset = norm(mean, rstd, scale, offset, channel, own)
    at = voxel * own + channel
    xhat = (read(sample(x, voxels * own), at, inside) - m) * r
    before = xhat * scale + offset
    y = leaky(before, before, slope)
    gradient = sample(gradient, u_depth * u_height * u_width * channels)
    block = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    weight_parts += block * (kd * kh * kw * own)
    total = tl.zeros((rows, columns), tl.float32)
    for i in range(kd):
        for j in range(kh):
            for k in tl.static_range(kw):
                g = tl.zeros((rows, columns), tl.float32)  # summed over the voxel's repetitions
                for a in range(ud):
                    od, in_d = _met(d + a, i, depth, u_depth, kd, sd)
                    for b in range(uh):
                        oh, in_h = _met(h + b, j, height, u_height, kh, sh)
                        for c in tl.static_range(uw):
                            ow, in_w = _met(w + c, k, width, u_width, kw, sw)
                            place = (od * u_height + oh) * u_width + ow
                            met = inside & in_d & in_h & in_w
                            g += read(gradient, place * channels + channel, met)
                tap = ((i * kh + j) * kw + k) * own + channel
                total += g * read(weight, tap, channel < own)
                share = tl.sum(g * y, 0)[None, :]
                tl.store(weight_parts + tap, share, mask=channel < own)
    g_act = leaky(before, total, slope)
    tl.store(sample(result, voxels * own) + at, g_act, mask=inside)
    store_sums(parts, tl.sum(g_act, 0), tl.sum(g_act * xhat, 0), channel, own, own)


@triton.jit
def _met(at, tap, size, size_out, kernel: tl.constexpr, stride: tl.constexpr):
    """Along one axis: where the voxel `at` and a tap meet in the result, and whether they do."""
    ahead = at + kernel // 2 - tap
    place = ahead // stride
    met = (at < size) & (ahead >= 0) & (ahead % stride == 0) & (place < size_out)
    return place, met


@triton.jit
def pointwise_forward(
    u, mean, rstd, scale, offset, slope, weight, bias, v, parts, voxels, channels_in, channels_out,
    inner: tl.constexpr, precise: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """A tile of v and its moments; weight (C_out, C_in), read `inner` channels at a time."""
    voxel, channel = places(rows, columns)
    inside = (voxel < voxels) & (channel < channels_out)
    u = sample(u, voxels * channels_in)
    total = tl.zeros((rows, columns), tl.float32)
    for first in range(0, channels_in, inner):
        along = first + tl.arange(0, inner)[None, :]
        met = (voxel < voxels) & (along < channels_in)
        m, r, w, b = norm(mean, rstd, scale, offset, along, channels_in)
        before = (read(u, voxel * channels_in + along, met) - m) * r * w + b
        y = tl.where(met, leaky(before, before, slope), 0.0)
        down = first + tl.arange(0, inner)[:, None]
        filled = (down < channels_in) & (channel < channels_out)
        matrix = read(weight, channel * channels_in + down, filled)
        total += _product(y, matrix, u.dtype.element_ty, precise)
    total += read(bias, channel, channel < channels_out)
    total = total.to(v.dtype.element_ty)
    at = voxel * channels_out + channel
    tl.store(sample(v, voxels * channels_out) + at, total, mask=inside)
    total = total.to(tl.float32)  # as stored: the statistics are of what is read again
    store_moments(parts, total, inside, channel, channels_out, channels_out, voxels, rows)


@triton.jit
def pointwise_backward(
    gradient, u, mean, rstd, scale, offset, slope, weight, result, parts, voxels, channels_in,
    channels_out, inner: tl.constexpr, precise: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """A tile of g_act (like u) and its sums; weight (C_out, C_in)."""
    voxel, channel = places(rows, columns)
    inside = (voxel < voxels) & (channel < channels_in)
    gradient = sample(gradient, voxels * channels_out)
    total = tl.zeros((rows, columns), tl.float32)
    for first in range(0, channels_out, inner):
        along = first + tl.arange(0, inner)[None, :]
        met = (voxel < voxels) & (along < channels_out)
        g = read(gradient, voxel * channels_out + along, met)
        down = first + tl.arange(0, inner)[:, None]
        filled = (down < channels_out) & (channel < channels_in)
        matrix = read(weight, down * channels_in + channel, filled)
        total += _product(g, matrix, gradient.dtype.element_ty, precise)
    at = voxel * channels_in + channel
    m, r, w, b = norm(mean, rstd, scale, offset, channel, channels_in)
    xhat = (read(sample(u, voxels * channels_in), at, inside) - m) * r
    g_act = leaky(xhat * w + b, total, slope)
    tl.store(sample(result, voxels * channels_in) + at, g_act, mask=inside)
    store_sums(parts, tl.sum(g_act, 0), tl.sum(g_act * xhat, 0), channel, channels_in, channels_in)


@triton.jit
def pointwise_weight(
    gradient, u, mean, rstd, scale, offset, slope, parts, voxels, channels_in, channels_out, chunk,
    precise: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """One tile of the weight's gradient over `chunk` voxels of a sample: (B, chunks, C_out, C_in).

    The grid is (chunks, blocks of C_out times blocks of C_in, samples).
    """
    across = tl.cdiv(channels_in, columns)
    out = tl.program_id(1) // across * columns + tl.arange(0, columns)
    into = (tl.program_id(1) % across * columns + tl.arange(0, columns))[None, :]
    m, r, w, b = norm(mean, rstd, scale, offset, into, channels_in)
    gradient = sample(gradient, voxels * channels_out)
    u = sample(u, voxels * channels_in)
    total = tl.zeros((columns, columns), tl.float32)
    start = tl.program_id(0) * chunk
    for first in range(start, tl.minimum(start + chunk, voxels), rows):
        voxel = (first + tl.arange(0, rows))[:, None]
        of_v = (voxel < voxels) & (out[None, :] < channels_out)
        g = read(gradient, voxel * channels_out + out[None, :], of_v)
        of_u = (voxel < voxels) & (into < channels_in)
        before = (read(u, voxel * channels_in + into, of_u) - m) * r * w + b
        y = tl.where(of_u, leaky(before, before, slope), 0.0)
        total += _product(tl.trans(g), y, u.dtype.element_ty, precise)
    block = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    at = block * channels_out * channels_in + out[:, None] * channels_in + into
    tl.store(parts + at, total, mask=(out[:, None] < channels_out) & (into < channels_in))


@triton.jit
def _product(a, b, stored: tl.constexpr, precise: tl.constexpr):
    """a times b, both rounded to the type in which tensors are stored."""
    a, b = a.to(stored), b.to(stored)
    if INTERPRETED:  # the interpreter multiplies the bits of bfloat16 as if they were integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=precise)
