"""One 3-D segmentation network for many organs, scanners and modalities.

    import u2net3d
    model = u2net3d.load("model")
    label = model.predict("scan.nii.gz", domain="liver")

Names are loaded when first used: importing the package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from u2net3d.errors import (
        CasesFailed,
        DataError,
        ModelError,
        TrainingError,
        U2Net3dError,
        UsageError,
    )
    from u2net3d.infer.predict import Model, load
    from u2net3d.models.universal import UniversalNet
    from u2net3d.spec import DomainSpec, ModelSpec, Plan, TrainSpec
    from u2net3d.volume import Volume

__version__ = "0.1.0"

_HOME = {
    "CasesFailed": "errors",
    "DataError": "errors",
    "DomainSpec": "spec",
    "Model": "infer.predict",
    "ModelError": "errors",
    "ModelSpec": "spec",
    "Plan": "spec",
    "TrainSpec": "spec",
    "TrainingError": "errors",
    "U2Net3dError": "errors",
    "UniversalNet": "models.universal",
    "UsageError": "errors",
    "Volume": "volume",
    "load": "infer.predict",
}

__all__ = [
    "CasesFailed",
    "DataError",
    "DomainSpec",
    "Model",
    "ModelError",
    "ModelSpec",
    "Plan",
    "TrainSpec",
    "TrainingError",
    "U2Net3dError",
    "UniversalNet",
    "UsageError",
    "Volume",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"u2net3d.{_HOME[name]}"), name)
    raise AttributeError(f"module 'u2net3d' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
