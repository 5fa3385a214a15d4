"""Every kernel through triton's compiler for a GPU that is not there; run by `test_gpu.py`.

The interpreter takes what the compiler refuses (names from outside a kernel, say). Tiny blocks: the
code is the same and compiles sooner.
"""

from __future__ import annotations

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from u2net3d.ops import gpu, gpu_launch
from u2net3d.ops.gpu_check import Case, passes

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
CASE = Case((2, 3, 4), (1, 3, 3), (2, 2, 1), channels=(6,), channels_out=5, up=(1, 2, 2))
KERNELS = {
    "statistics", "finish", "sum_forward", "sum_backward", "depthwise_forward",
    "depthwise_backward", "pointwise_forward", "pointwise_backward", "pointwise_weight",
}  # fmt: skip


def compile_for(kernel, arguments):
    """Compiles `kernel` for an H100 or H200 (sm_90) as a launch with `arguments` would."""
    signature, constants = {}, {}
    for parameter, argument in zip(kernel.params, arguments, strict=True):
        if parameter.is_constexpr:
            constants[parameter.name] = argument
            signature[parameter.name] = "constexpr"
        elif isinstance(argument, torch.Tensor):
            signature[parameter.name] = POINTERS[argument.dtype]
        else:
            signature[parameter.name] = "fp32" if isinstance(argument, float) else "i32"
    return triton.compile(ASTSource(kernel, signature, constants), GPUTarget("cuda", 90, 32))


@pytest.mark.parametrize("dtype", POINTERS, ids=str)
def test_every_kernel_compiles(dtype, monkeypatch):
    compiled = set()

    def launch(kernel, _grid, *arguments):
        if kernel.__name__ not in compiled:
            assert compile_for(kernel, arguments).asm["cubin"]
            compiled.add(kernel.__name__)

    monkeypatch.setattr(gpu_launch, "launch", launch)
    monkeypatch.setattr(gpu_launch, "BLOCKS", {16: 64})
    for name, arguments in passes(torch.device("cpu"), dtype, CASE):
        getattr(gpu, name)(*arguments)
    assert compiled == KERNELS
