"""Which engine answers for a domain: torch, or OpenVINO where it is there and agrees with torch.

OpenVINO is believed in two steps. When a network is compiled, torch and it see one and the same
drawn patch; then, once for every cache entry, the tile in the middle of the first image that comes.
After that no torch is needed. docs/design.md says why no patch is kept with a domain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from u2net3d.errors import U2Net3dError, UsageError
from u2net3d.infer import openvino_engine
from u2net3d.infer.engine import Engine, is_flat, torch_engine
from u2net3d.infer.openvino_engine import Compiled
from u2net3d.infer.openvino_graph import build, traced
from u2net3d.infer.sums import Floats
from u2net3d.spec import DomainSpec, Level

if TYPE_CHECKING:
    from u2net3d.models.network import Network

ENGINES = ("auto", "torch", "openvino")
LEAST_AGREEMENT = 0.9999  # share of voxels whose label both engines give alike
MOST_DIFFERENCE = 3e-3  # of logits, as a share of the largest of the patch; usually 1e-5


@dataclass(frozen=True)
class _Made:
    """name: torch or openvino; note: why it is not the one that was asked for, if it is not.

    unproven: the compiled network that has not met a real image yet.
    """

    name: str
    run: Engine
    note: str | None = None
    unproven: Compiled | None = None


@dataclass(frozen=True)
class _Wanted:
    """Whose answer, at which level, and the hashes of the weights that give it."""

    spec: DomainSpec
    level: Level | None
    trunk_id: str
    domain_sha256: str

    @property
    def key(self) -> tuple[str, Level | None]:
        """What an engine is found by."""
        return self.spec.name, self.level


class Engines:
    """The engines of a model's domains and their levels, each made when it is first asked for.

    engine: `torch` or `openvino`; device: `cpu` or `cuda`, of torch; net: loads the network onto
    it, in eval(), when that is needed; cache: where compiled networks are kept, None for nowhere.
    """

    def __init__(
        self, engine: str, device: str, net: Callable[[], Network], cache: Path | None
    ) -> None:
        self.engine, self.device, self.net = engine, device, functools.cache(net)
        self._cache = cache
        self._made: dict[tuple[str, Level | None], _Made] = {}

    def name(
        self, spec: DomainSpec, trunk_id: str, domain_sha256: str, level: Level | None = None
    ) -> str:
        """`torch` or `openvino`: which one answers for a domain at a level."""
        return self._of(_Wanted(spec, level, trunk_id, domain_sha256)).name

    def note(self, spec: DomainSpec, level: Level | None = None) -> str | None:
        """Why a domain answers by another engine than was asked for; None where it does not."""
        made = self._made.get((spec.name, level))
        return made.note if made else None

    def run(
        self,
        spec: DomainSpec,
        trunk_id: str,
        domain_sha256: str,
        tile: Floats,
        level: Level | None = None,
    ) -> Engine:
        """The engine of a domain for an image of which `tile` (1, C, D, H, W) is a part.

        A compiled network that has met no image yet is compared with torch on that tile, unless it
        is of one value: norms make noise of that, and two engines never agree on noise.
        """
        wanted = _Wanted(spec, level, trunk_id, domain_sha256)
        made = self._of(wanted)
        if made.unproven is not None and not is_flat(tile):
            torch = self._torch(wanted)
            refused = difference("an image", made.run(tile), torch.run(tile))
            openvino_engine.judge(made.unproven, refused)
            made = self._torch(wanted, refused) if refused else replace(made, unproven=None)
            self._made[wanted.key] = made
        return made.run

    def _of(self, wanted: _Wanted) -> _Made:
        if wanted.key not in self._made:
            made = self._torch(wanted)
            if self.engine == "openvino":
                try:
                    made = self._openvino(wanted)
                except U2Net3dError:
                    raise
                except Exception as failure:  # a broken installation, or not for this machine
                    reason = (str(failure).splitlines() or [type(failure).__name__])[0]
                    made = self._torch(wanted, f"it does not work here ({reason})")
            self._made[wanted.key] = made
        return self._made[wanted.key]

    def _torch(self, wanted: _Wanted, refused: str | None = None) -> _Made:
        def run(patch: Floats) -> Floats:
            engine = torch_engine(self.net(), wanted.spec.name, self.device, wanted.level)
            return engine(patch)

        return _Made("torch", run, f"torch answers, not openvino: {refused}" if refused else None)

    def _openvino(self, wanted: _Wanted) -> _Made:
        key = openvino_engine.key_of(
            wanted.trunk_id, wanted.domain_sha256, wanted.spec, wanted.level
        )
        found = openvino_engine.kept(self._cache, key) if self._cache else None
        if found is None:
            found = self._compiled(wanted)
            found = openvino_engine.keep(self._cache, key, found) if self._cache else found
        if found.refused:
            return self._torch(wanted, found.refused)
        return _Made("openvino", found.infer, unproven=None if found.proven else found)

    def _compiled(self, wanted: _Wanted) -> Compiled:
        """Made from the network's weights, and compared with it on the drawn patch."""
        net = self.net()
        made = openvino_engine.compiled(_graph(net, wanted.spec, wanted.level))
        patch = drawn_patch(wanted.spec)
        refused = difference("a drawn patch", made.infer(patch), self._torch(wanted).run(patch))
        return replace(made, refused=refused)


def _graph(net: Network, spec: DomainSpec, level: Level | None) -> Any:
    """An `openvino.Model`: of our own network built, of other families and units traced."""
    from u2net3d.models import UniversalNet

    if not isinstance(net, UniversalNet) or net.dense:
        return traced(net, spec.name, drawn_patch(spec), level)
    trunk, bank = (
        {name: weight.detach().cpu().numpy() for name, weight in part.state_dict().items()}
        for part in (net.trunk, net.bank(spec.name))
    )
    return build(trunk, bank, net.design, spec)


def choose_engine(name: str, device: str) -> str:
    """`torch` or `openvino`, by what was asked for and what is installed alone.

    device: `cpu` or `cuda`. auto: OpenVINO on a CPU where it is installed. Raises UsageError for
    another name, and for an OpenVINO that is not there, or on a GPU.
    """
    if name not in ENGINES:
        raise UsageError("--engine", f"'{name}' is no engine", f"use {', '.join(ENGINES)}")
    there = openvino_engine.installed()
    if name == "openvino" and there is None:
        raise UsageError(
            "--engine", "openvino is not installed", "run `pip install u2net3d[cpu]`, or use torch"
        )
    if name == "openvino" and device != "cpu":
        raise UsageError("--engine", "openvino computes on the CPU here", "add --device cpu")
    return "openvino" if name != "torch" and there and device == "cpu" else "torch"


def drawn_patch(spec: DomainSpec) -> Floats:
    """A patch (1, C, D, H, W) as normalisation leaves them: mean 0, std 1, coarse and fine parts.

    The same for every call: it decides whether an engine is believed, and must not be chance.
    """
    rng = np.random.default_rng(0)
    shape = (1, len(spec.channels), *spec.plan.seen)
    coarse = rng.standard_normal((*shape[:2], *(-(-n // 8) for n in shape[2:])), np.float32)
    for axis, size in enumerate(shape[2:], start=2):
        coarse = coarse.repeat(8, axis).take(range(size), axis)
    patch: Floats = 0.9 * coarse + np.float32(0.44) * rng.standard_normal(shape, np.float32)
    return patch.astype(np.float32)


def difference(where: str, found: Floats, expected: Floats) -> str | None:
    """How two logits (1, K, D, H, W) of one patch differ, in words; None where they hardly do."""
    share = float(np.mean(found.argmax(1) == expected.argmax(1)))
    error = float(np.abs(found - expected).max()) / max(float(np.abs(expected).max()), 1e-12)
    if share >= LEAST_AGREEMENT and error <= MOST_DIFFERENCE:
        return None
    return f"on {where} they agree on {share:.3%} of the voxels, logits differ by {error:.1e}"
