"""OpenVINO as an engine: compiled once for a trunk, a bank and a patch, and kept in the cache.

No torch is imported here, so that a start that finds its entry in the cache needs none. What is
kept is OpenVINO's own compiled model (reading it back takes a third of the time of compiling its
IR), in a folder named after all that it depends on, with the hash of its bytes.

OpenVINO reports every import to its makers where the package openvino-telemetry is installed, as
pip installs it: it is shut out before the first import (docs/privacy.md).
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from u2net3d import files
from u2net3d.errors import DiskError, UsageError
from u2net3d.infer.signal_stack import own_signal_stack
from u2net3d.ops.library import threads
from u2net3d.spec import DomainSpec, Level

VERSION = 1  # raise it whenever the graph, or what an entry holds, changes
_MODEL, _META = "model.bin", "meta.json"
Floats = NDArray[np.float32]


def installed() -> str | None:
    """The version of OpenVINO that is installed, None where there is none. It is not imported."""
    with suppress(PackageNotFoundError):
        return version("openvino") if find_spec("openvino") else None
    return None


def silenced() -> Any:
    """The module openvino, imported with its telemetry shut out."""
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if not installed
    import openvino

    return openvino


def converter() -> Any:
    """OpenVINO's `convert_model`, which the command line leaves out until it is asked for.

    Its import, too, would be reported: telemetry stays shut out.
    """
    silenced()
    if sys.modules.get("openvino.tools.ovc", sys) is None:
        del sys.modules["openvino.tools.ovc"]
    from openvino.tools.ovc import convert_model

    return convert_model


@dataclass(frozen=True)
class Compiled:
    """A compiled network: patch (1, C, D, H, W) float32 to logits (1, K, D, H, W).

    proven: on voxels of a real image it agreed with torch; refused: why it may not answer; entry:
    its folder in the cache, None where it is in memory alone.
    """

    infer: Callable[[Floats], Floats]
    network: Any
    refused: str | None = None
    proven: bool = False
    entry: Path | None = None


def key_of(trunk_id: str, domain_sha256: str, spec: DomainSpec, level: Level | None = None) -> str:
    """Names a cache entry after everything that its bytes and its answers depend on."""
    ov = silenced()
    return files.sha256_json(
        {
            "version": VERSION,
            "openvino": ov.__version__,
            "processor": silenced().Core().get_property("CPU", "FULL_DEVICE_NAME"),
            "trunk": trunk_id,
            "domain": domain_sha256,
            "patch": spec.plan.seen,
            "level": level,
        }
    )


def compiled(model: Any) -> Compiled:
    """Compiles an `openvino.Model`; it is in memory alone."""
    with own_signal_stack():
        network = silenced().Core().compile_model(model, "CPU", _settings())
        return Compiled(_runner(network), network)


def kept(cache: Path, key: str) -> Compiled | None:
    """The entry of a cache; None where there is none, or it is torn, altered or not readable."""
    entry = cache / key
    try:
        meta = json.loads((entry / _META).read_text(encoding="utf-8"))
        content = (entry / _MODEL).read_bytes()
        if files.sha256_file(entry / _MODEL) != meta["sha256"]:
            return None
        with own_signal_stack():
            network = silenced().Core().import_model(content, "CPU", _settings())
            return Compiled(_runner(network), network, meta["refused"], meta["proven"], entry)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def keep(cache: Path, key: str, made: Compiled) -> Compiled:
    """Puts a compiled network into the cache, whole or not at all.

    Where that cannot be written it stays in memory.
    """
    entry = cache / key
    content = made.network.export_model()
    data = content.getvalue() if hasattr(content, "getvalue") else bytes(content)
    folder = files.temporary_beside(entry)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        files.sweep(cache)
        folder.mkdir()
        files.write_bytes(folder / _MODEL, data)
        _say(folder, files.sha256_file(folder / _MODEL), made)
        if entry.exists():  # torn or altered: `kept` has just refused it
            shutil.rmtree(entry)
        folder.rename(entry)
    except (OSError, DiskError, UsageError):
        return made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return replace(made, entry=entry)


def judge(found: Compiled, refused: str | None) -> None:
    """Writes into the entry what an image has shown: proven, or why it is refused from now on."""
    if found.entry is not None:
        with suppress(OSError, DiskError, UsageError):
            sha256 = files.sha256_file(found.entry / _MODEL)
            _say(found.entry, sha256, replace(found, refused=refused, proven=refused is None))


def _say(folder: Path, sha256: str, made: Compiled) -> None:
    said = {"sha256": sha256, "refused": made.refused, "proven": made.proven}
    files.write_json(folder / _META, said)


def _settings() -> dict[str, Any]:
    """float32 throughout (its default is bfloat16 where the processor has it), torch's threads."""
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads(),
    }


def _runner(network: Any) -> Callable[[Floats], Floats]:
    request, alone = network.create_infer_request(), threading.Lock()

    def infer(patch: Floats) -> Floats:
        # The request uses the same memory every time: one thread at a time has it, and what is
        # given out is a copy. A second one would not be refused, but get the logits of the first.
        given = np.ascontiguousarray(patch, dtype=np.float32)
        with alone:
            found = request.infer({0: given}, share_inputs=True)[0]
            result: Floats = np.array(found, dtype=np.float32)
        return result

    return infer
