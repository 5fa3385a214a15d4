"""The native CPU kernels: loaded by ctypes when they were built at install, else absent.

Plain C (`kernels.c`), compiled for AVX-512, AVX2 and any processor, never compiled at run time.
Tensors are float32 on the CPU and channels_last_3d; sums are added in a fixed order, so the same
threads give the same bits.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

_MOST_CHANNELS = 2048  # MAX_CHANNELS in kernels.c
_BLOCK = 1024  # BLOCK in kernels.c
_PROCESSORS = ("portable", "avx2", "avx512")
_POINTER, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Kernels:
    """The C functions for one kind of processor."""

    def __init__(self, library: ctypes.CDLL, processor: str) -> None:
        self.processor = processor
        self.depthwise_weight_gradient = library[f"u2_depthwise_weight_gradient_{processor}"]
        self.depthwise_weight_gradient.argtypes = [*[_POINTER] * 4, _LONG]
        self.norm_forward = library[f"u2_norm_forward_{processor}"]
        self.norm_forward.argtypes = [*[_POINTER] * 8, _FLOAT, _FLOAT]
        self.norm_backward = library[f"u2_norm_backward_{processor}"]
        self.norm_backward.argtypes = [*[_POINTER] * 11, _FLOAT]
        for function in (self.depthwise_weight_gradient, self.norm_forward, self.norm_backward):
            function.restype = None


@functools.cache
def library() -> Kernels | None:
    """The native kernels, or None where the package was installed without a C compiler."""
    for path in sorted(Path(__file__).parent.glob("_kernels*.so")):
        try:
            found = ctypes.CDLL(str(path))
            best = found.u2_processor()
            return Kernels(found, _PROCESSORS[best])
        except (OSError, AttributeError):  # built for another machine, or by another version
            continue
    return None


def usable(x: Tensor, *others: Tensor) -> bool:
    """Whether the native kernels take a tensor like `x` (B, C, D, H, W) together with `others`.

    Every tensor is asked, since the kernels read raw memory: under autocast a gradient may be of
    another type than the input that was saved.
    """
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (x, *others))
    return plain and x.shape[1] <= _MOST_CHANNELS and x.numel() > 0 and library() is not None


def depthwise_weight_gradient(
    x: Tensor, gradient: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> Tensor:
    """Gradient (C, 1, kD, kH, kW) of a depthwise convolution's weight, padding kernel // 2.

    x (B, C, D, H, W); gradient (B, C, D', H', W') of the convolution's output.
    """
    x, gradient = _channels_last(x), _channels_last(gradient)
    batch, channels = x.shape[:2]
    shapes = [batch, channels, *x.shape[2:], *gradient.shape[2:], *kernel, *stride]
    sizes = torch.tensor(shapes, dtype=torch.int64)
    threads = torch.get_num_threads()
    parts = torch.zeros(threads, kernel[0] * kernel[1] * kernel[2], channels)
    _kernels().depthwise_weight_gradient(
        x.data_ptr(), gradient.data_ptr(), parts.data_ptr(), sizes.data_ptr(), threads
    )
    return parts.sum(0).t().reshape(channels, 1, *kernel)


def norm_forward(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """LeakyReLU(InstanceNorm(x)); gives (x in channels-last, y, mean, 1/std), the last two (B, C).

    x (B, C, D, H, W); weight and bias (C,); slope 1 is no activation.
    """
    x = _channels_last(x)
    y = torch.empty_like(x)
    mean, rstd = torch.empty(2, *x.shape[:2])
    scratch, sizes = _norm_scratch(x)
    inputs = (x, y, weight.contiguous(), bias.contiguous(), mean, rstd, scratch, sizes)
    _kernels().norm_forward(*(tensor.data_ptr() for tensor in inputs), eps, slope)
    return x, y, mean, rstd


def norm_backward(
    x: Tensor, gradient: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of `norm_forward` for x (B, C, D, H, W), weight (C,) and bias (C,)."""
    x, gradient = _channels_last(x), _channels_last(gradient)
    gx = torch.empty_like(x)
    gweight, gbias = torch.empty(2, *x.shape[:2])
    scratch, sizes = _norm_scratch(x)
    weight, bias = weight.contiguous(), bias.contiguous()
    tensors = (x, gradient, gx, weight, bias, mean, rstd, gweight, gbias, scratch, sizes)
    _kernels().norm_backward(*(tensor.data_ptr() for tensor in tensors), slope)
    return gx, gweight.sum(0), gbias.sum(0)


def _norm_scratch(x: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, depth, height, width = x.shape
    voxels = depth * height * width
    blocks = -(-voxels // _BLOCK)
    sizes = torch.tensor([batch, voxels, channels, torch.get_num_threads()], dtype=torch.int64)
    return torch.empty(batch, blocks, 2, channels), sizes


def _channels_last(x: Tensor) -> Tensor:
    # (B, D, H, W, C) must be dense in memory; torch calls some shapes with an axis of size 1
    # channels-last although their strides say otherwise, hence the check on the permuted view.
    rows = x.permute(0, 2, 3, 4, 1)
    return x if rows.is_contiguous() else rows.contiguous().permute(0, 4, 1, 2, 3)


def _kernels() -> Kernels:
    found = library()
    if found is None:
        raise RuntimeError("the native kernels were not built; ask native.usable first")
    return found
