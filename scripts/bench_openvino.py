"""Networks in OpenVINO: ours by its own graph, peers' converted; all with the same settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from bench_contenders import Job, Setting
from numpy.typing import NDArray
from torch import Tensor, nn

from u2net3d.infer import openvino_engine
from u2net3d.infer.openvino_graph import build
from u2net3d.volume import Triple

Floats = NDArray[np.float32]
Run = Callable[[Floats], Floats]  # (1, C, D, H, W) to logits (1, K, D, H, W), OpenVINO's memory
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


def forward(job: Job, net: nn.Module) -> Run:
    """A network in `eval()` that sees patches of the job's setting. RuntimeError without OpenVINO.

    ours: a `UniversalNet` whose one domain is called domain0.
    """
    if job.contender.family == "ours":
        return _compiled(_our_graph(net, job.setting), job)
    return _compiled(_converted(net, job.setting.channels, job.setting.patch), job)


class InOpenVino(nn.Module):
    """A peer's network where its own program expects a module of torch.

    Weights that are loaded again are those that it was converted with.
    """

    def __init__(self, net: nn.Module, job: Job, patch: Triple) -> None:
        super().__init__()
        self._run = _compiled(_converted(net.eval(), job.setting.channels, patch), job)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of one patch (1, C, D, H, W)."""
        return torch.from_numpy(self._run(image.contiguous().numpy()).copy())

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """Nothing: see above."""


def _module() -> Any:
    """openvino with its telemetry shut out; RuntimeError where it is absent."""
    if openvino_engine.installed() is None:
        raise RuntimeError("absent: openvino is not installed")
    return openvino_engine.silenced()


def _converted(net: nn.Module, channels: int, patch: Triple) -> Any:
    shape = (1, channels, *patch)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit.trace, by which OpenVINO reads networks
        return _module().convert_model(net, example_input=torch.zeros(shape), input=[list(shape)])


def _our_graph(net: nn.Module, setting: Setting) -> Any:
    _module()
    whole: Any = net
    trunk, bank = (
        {name: weight.detach().numpy() for name, weight in part.state_dict().items()}
        for part in (whole.trunk, whole.bank("domain0"))
    )
    return build(trunk, bank, whole.design, setting.domain("domain0"))


def _compiled(model: Any, job: Job) -> Run:
    """Compiled for the CPU with the job's precision and threads, one stream."""
    wanted = _PRECISIONS[job.contender.precision]
    settings = {
        "INFERENCE_PRECISION_HINT": wanted,
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": job.threads,
    }
    network = _module().Core().compile_model(model, "CPU", settings)
    taken = network.get_property("INFERENCE_PRECISION_HINT").to_string()
    if taken != wanted:
        raise RuntimeError(f"OpenVINO computes in {taken} on this processor, not in {wanted}")
    request = network.create_infer_request()

    def run(patch: Floats) -> Floats:
        found: Floats = request.infer({0: patch}, share_inputs=True, share_outputs=True)[0]
        return found

    return run
