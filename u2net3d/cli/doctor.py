"""The verb `doctor`: what this machine has, and which ways of computing run on it and why."""

from __future__ import annotations

import copy
import json as json_format
import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from u2net3d import files
from u2net3d.cli.countdown import size
from u2net3d.errors import U2Net3dError, UsageError
from u2net3d.infer import openvino_engine
from u2net3d.infer.engines import Engines
from u2net3d.io.stream import memory_bytes
from u2net3d.losses import LOSSES, supervised
from u2net3d.models import network
from u2net3d.models.network import BankShape, Network
from u2net3d.ops import gpu, library, memory
from u2net3d.prep.cache import default_cache
from u2net3d.spec import (
    PRESETS,
    DomainSpec,
    Frozen,
    ModelSpec,
    Plan,
    TrainSpec,
    ZScoreNormalisation,
)

LIMIT = 3e-3  # relative error of float32 against float64: usually 1e-5 to 2e-4, see `disagreement`
CUDA_LIMIT = 1e-2  # torch's convolutions round to TF32 there
_STRIDES = ((1, 1, 1), (2, 2, 2), (1, 2, 2))
_KERNELS = ((3, 3, 3), (1, 3, 3), (3, 3, 3))
_REINSTALL = "install a C compiler (gcc), then this package anew with `pip install --no-cache-dir`"


class Item(Frozen):
    """One thing that was looked at.

    status: ok, note (works, but slower or without something) or wrong (to be mended).
    """

    name: str
    status: Literal["ok", "note", "wrong"]
    said: str


def doctor(json: bool) -> None:
    """Prints a line per item, or JSON; U2Net3dError, after all of them, where one is wrong."""
    items = [_guarded(name, look) for name, look in ITEMS.items()]
    wrong = [item.name for item in items if item.status == "wrong"]
    if json:
        content = {"wrong": len(wrong), "items": [item.model_dump() for item in items]}
        print(json_format.dumps(content, indent=2))  # noqa: T201
    else:
        for item in items:
            print(f"{item.status:<5}  {item.name}: {item.said}")  # noqa: T201
    if wrong:
        what = f"something is wrong with: {', '.join(wrong)}"
        raise U2Net3dError("doctor", what, "mend what the lines above name, then ask again")


def _guarded(name: str, look: Callable[[], tuple[str, str]]) -> Item:
    """A look that fails is itself a finding."""
    try:
        status, said = look()
    except Exception as error:
        status, said = "wrong", f"{type(error).__name__}: {error}"
    return Item.model_validate({"name": name, "status": status, "said": " ".join(said.split())})


def _python() -> tuple[str, str]:
    packages = ("u2net3d", "torch", "numpy", "nnunetv2", "monai")
    versions = ", ".join(f"{name} {_version(name) or 'absent'}" for name in packages)
    return "ok", f"{platform.python_version()}; {versions}"


def _machine() -> tuple[str, str]:
    said = f"{platform.system()} {platform.machine()}, {_cores()} cores, {size(memory_bytes())}"
    return "ok", f"{said} of memory; torch computes for {torch.backends.cpu.get_cpu_capability()}"


def _threads() -> tuple[str, str]:
    threads, cores = torch.get_num_threads(), _cores()
    openmp = "OpenMP" if "OpenMP" in torch.__config__.show() else "no OpenMP"
    said = f"{threads} of {cores} cores, {openmp}"
    if "OMP_NUM_THREADS" in os.environ:
        said += f", OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    if threads < cores:
        return "note", f"{said}: slower than it could be; unset OMP_NUM_THREADS or raise it"
    if threads > cores:
        return "note", f"{said}: more threads than cores are slow; set OMP_NUM_THREADS={cores}"
    return "ok", said


def _gpu() -> tuple[str, str]:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built} but finds none" if built else "torch is a CPU build"
        return ("note" if built else "ok"), f"none ({why}); --device auto computes on the CPU"
    found = torch.cuda.get_device_properties(0)
    return "ok", f"{found.name}, {size(found.total_memory)}; --device auto computes on it"


def _kernels() -> tuple[str, str]:
    """The library beside library.py is the one that was loaded: there is one per installation."""
    built = sorted(Path(library.__file__).parent.glob("_kernels*.so"))
    loaded = library.library()
    if loaded is not None:
        return "ok", f"for {loaded.processor}, from {', '.join(path.name for path in built)}"
    if built:
        names = ", ".join(path.name for path in built)
        return "wrong", f"{names} cannot be used here: of another machine or version; {_REINSTALL}"
    return "note", f"not built: the pure-torch way runs, which is slower; {_REINSTALL}"


def _self_check() -> tuple[str, str]:
    """One training step of a small network, in float32 as training runs it, against float64."""
    found = {"cpu": disagreement(torch.device("cpu"))}
    if torch.cuda.is_available():
        found["cuda"] = disagreement(torch.device("cuda"))
    limits = {"cpu": LIMIT, "cuda": CUDA_LIMIT}
    wrong = [name for name, error in found.items() if not error <= limits[name]]
    errors = ", ".join(f"{error:.1e} on {name}" for name, error in found.items())
    said = f"outputs and gradients differ from torch in float64 by at most {errors} (relative)"
    if wrong:
        return "wrong", f"{said}; do not train or predict with this installation: report it"
    return "ok", said


def _triton() -> tuple[str, str]:
    """Without a CUDA device nothing asks for these kernels, so none is compiled to say so."""
    found = find_spec("triton")
    said = f"{_version('triton') or 'installed'}" if found else "not installed"
    if not torch.cuda.is_available():
        return "ok", f"{said}; not needed, its kernels are for a CUDA device"
    if not found:
        return "note", f"{said}: the GPU goes the pure-torch way, which is slower"
    why = gpu.checked(torch.device("cuda", torch.cuda.current_device()))
    if why is not None:
        return "note", f"{said}, does not run: {why}; the GPU goes the pure-torch way"
    return "ok", f"{said}, runs on the GPU: its kernels agree with torch (not tuned for any GPU)"


def _allocator() -> tuple[str, str]:
    if memory.keep_freed_memory():
        return "ok", "glibc takes thresholds: freed memory stays with the process"
    return "note", "no glibc: freed memory goes back to the system each time, which is slower"


def _cache() -> tuple[str, str]:
    folder = default_cache()
    try:
        files.require_writable(folder, "cache")
    except (UsageError, OSError) as error:
        return "note", f"{error}; cases are prepared anew in memory, or give --cache"
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    return ("ok" if free > 2**30 else "note"), f"{folder} is writable, {size(free)} free"


def _engine() -> tuple[str, str]:
    """What `predict --engine auto` takes; OpenVINO is tried on a small network of each preset."""
    there = openvino_engine.installed()
    if there is None:
        return "ok", "predict takes torch: openvino is not installed (`pip install u2net3d[cpu]`)"
    if torch.cuda.is_available():
        return "ok", f"predict takes torch on the GPU; openvino {there} with --device cpu"
    refused = [why for model in _universal() if (why := _refused(model))]
    if refused:
        said = f"predict asks openvino {there} and goes on with torch"
        return "note", f"{said}, small networks differ: {refused[0]}"
    return "ok", f"predict takes openvino {there}: small networks answer as in torch"


def _refused(model: ModelSpec) -> str | None:
    """Why OpenVINO is not believed of a small network, None where it is."""
    normalisation = (ZScoreNormalisation(), ZScoreNormalisation())
    plan = Plan(
        spacing_mm=(1, 1, 1), normalisation=normalisation, patch_size=(9, 10, 8), batch_size=1,
        strides=_STRIDES, kernels=_KERNELS,
    )  # fmt: skip
    spec = DomainSpec(name="check", channels=("a", "b"), labels=("0", "1", "2"), plan=plan)
    with torch.random.fork_rng(devices=[]):
        net = _small(model).eval()
    engines = Engines("openvino", "cpu", lambda: net, None)
    engines.name(spec, "", "")
    return engines.note(spec)


ITEMS: dict[str, Callable[[], tuple[str, str]]] = {
    "python": _python,
    "machine": _machine,
    "threads": _threads,
    "gpu": _gpu,
    "native kernels": _kernels,
    "self-check": _self_check,
    "triton": _triton,
    "allocator": _allocator,
    "cache": _cache,
    "engine": _engine,
}


def disagreement(device: torch.device) -> float:
    """Largest relative error of small networks' outputs and gradients, float32 against float64.

    One of each preset of the universal network, on `device` and as training runs it; the reference
    is the same network on the CPU, where float64 goes the pure-torch way. Relative to the largest
    value of each tensor; rounding that turns an activation over at 0 is most of it.
    """
    return max(_disagreement(model, device) for model in _universal())


def _universal() -> list[ModelSpec]:
    """Of the presets of which our own kernels and graphs do the work, the first of each design."""
    ours = [model for model in PRESETS.values() if model.family == "universal"]
    return list({model.design: model for model in reversed(ours)}.values())


def _disagreement(model: ModelSpec, device: torch.device) -> float:
    with torch.random.fork_rng(devices=[]):
        net = _small(model)
        image = torch.randn(2, 2, 9, 10, 8)
        target = torch.randint(3, (2, 9, 10, 8))
    exact = copy.deepcopy(net).double()
    expected = _step(exact, image.double(), target)
    found = _step(net.to(device), image.to(device), target.to(device))
    return max(
        ((a.cpu().double() - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()
        for a, b in zip(found, expected, strict=True)
    )


def _small(model: ModelSpec) -> Network:
    """Always the same one; torch's generator is seeded for it."""
    torch.manual_seed(0)
    net = network(model.model_copy(update={"stages": len(_STRIDES)}))
    net.add_bank("check", BankShape(channels=2, classes=3, strides=_STRIDES, kernels=_KERNELS))
    for weight in net.parameters():
        if weight.ndim == 1:  # with biases of 0 a norm's scale has no gradient to compare
            nn.init.normal_(weight, std=0.5)
    return net


def _step(net: Network, image: Tensor, target: Tensor) -> list[Tensor]:
    """Outputs and the gradients of all weights."""
    outputs = net.train()(image, "check")
    loss = supervised(LOSSES[TrainSpec().loss], outputs, target)
    weights: list[nn.Parameter] = list(net.parameters())
    gradients = torch.autograd.grad(loss, weights)
    return [*(output.detach() for output in outputs), *gradients]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
