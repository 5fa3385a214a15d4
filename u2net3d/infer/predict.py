"""A model that segments: loaded once, many volumes. Torch is imported when a model is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from u2net3d import files, store
from u2net3d.errors import ModelError, UsageError
from u2net3d.infer.cleanup import keep_largest
from u2net3d.infer.engine import Engine, middle_tile, sliding_slices, torch_engine
from u2net3d.infer.engines import Engines, choose_engine
from u2net3d.infer.restore import Slices, joined, restore, restore_both
from u2net3d.infer.scratch import Room, bytes_of
from u2net3d.infer.sums import Floats
from u2net3d.io import read_image
from u2net3d.io.dataset import require_channels
from u2net3d.io.nifti import Source, from_array, from_nibabel, to_nibabel
from u2net3d.ops.library import library
from u2net3d.ops.memory import hand_back_freed_memory, keep_freed_memory
from u2net3d.prep.cache import default_cache
from u2net3d.prep.pipeline import Preparation, nonzero_box, prepare
from u2net3d.spec import DomainSpec, Level, domain_name
from u2net3d.store.domains import read_file
from u2net3d.volume import Array, TripleF, Volume

if TYPE_CHECKING:
    import torch

    from u2net3d.models.network import Network


@dataclass(frozen=True)
class Options:
    """What decides about the voxels of a label.

    overlap: share of a patch that neighbouring tiles share; tta: average over reflections;
    cleanup: of the labels that the domain's card names, keep the largest component alone; level: of
    a family that answers at several depths, which (see `Origin.level`).
    """

    overlap: float = 0.5
    tta: bool = False
    cleanup: bool = True
    level: Level | Literal["auto"] | None = None


DEFAULT = Options()
FAR = 2.0  # times the largest image to learn from: what is larger shows what was never seen


@dataclass(frozen=True)
class Origin:
    """Which weights answer for a domain: what a result says about where it came from.

    trunk_id: as in the manifest; domain_sha256: of the domain file's bytes; largest_component:
    names of the labels of which only the largest component is kept, by the domain's validation;
    levels: what they were worth when training ended, None where nobody judged them;
    largest_image_mm: the most that the images to learn from measure (D, H, W), None if unknown.
    """

    trunk_id: str
    domain_sha256: str
    largest_component: tuple[str, ...] = ()
    levels: store.Levels | None = None
    largest_image_mm: TripleF | None = None

    def beyond(self, image: Volume, domain: str) -> str | None:
        """What to know of an image (C, D, H, W) far larger than any that the domain learnt from."""
        if self.largest_image_mm is None:
            return None
        start, stop = nonzero_box(image.array)
        found = [(b - a) * mm for a, b, mm in zip(start, stop, image.spacing_mm, strict=True)]
        if all(mm <= FAR * most for mm, most in zip(found, self.largest_image_mm, strict=True)):
            return None
        size, most = ("×".join(f"{mm:.0f}" for mm in mms) for mms in (found, self.largest_image_mm))
        return (
            f"it measures {size} mm (D×H×W), {domain} learnt from images of at most {most} mm:"
            " cut out the region, or expect labels where none belong"
        )

    def level(self, domain: str, asked: Level | Literal["auto"] | None, count: int) -> Level | None:
        """The level of `count` at which a domain answers. UsageError for one that there is not."""
        if asked is None:
            return None
        if not count:
            what = f"the network of {domain} answers at its full depth alone"
            raise UsageError("--level", what, "leave it out")
        auto = self.levels.auto if self.levels else None
        chosen = auto if asked == "auto" else asked
        there = "give 1" if count == 1 else f"give 1 to {count}"
        mend = f"{there}, auto or mean" if auto else f"{there} or mean"
        if chosen is None:
            what = (
                f"those of {domain} were never judged: no validation cases, or no end of training"
            )
            raise UsageError("--level", what, mend)
        if chosen != "mean" and not 1 <= chosen <= count:
            raise UsageError("--level", f"{domain} has no level {chosen}", mend)
        return chosen


@dataclass(frozen=True)
class Answer:
    """label (D, H, W) uint8; probabilities (classes, D, H, W) uint16 in units of 1/65535, if asked.

    Both lie on the image's own grid; the clean-up concerns the label alone. engine: which one
    answered; notes: why that is not the one that was asked for, where it is not, and whether the
    image is far larger than those that the domain learnt from.
    """

    label: Array
    probabilities: Array | None = None
    engine: str = "torch"
    notes: tuple[str, ...] = ()


class Model:
    """A model folder ready to segment; `u2net3d.load` makes one. Nothing is printed.

    max_memory: bytes that the process is to keep within, as far as sums and probabilities go: what
    does not fit lies in a temporary file. None: they take 256 MB at most.
    """

    def __init__(
        self,
        engines: Engines,
        specs: dict[str, DomainSpec],
        folder: Path,
        origins: Mapping[str, Origin],
        max_memory: int | None = None,
    ) -> None:
        self.folder, self.max_memory = folder, max_memory
        self._engines, self._specs, self._origins = engines, specs, dict(origins)

    @property
    def device(self) -> str:
        """Where the network computes: `cpu` or `cuda`."""
        return self._engines.device

    def engine(self, domain: str, options: Options = DEFAULT) -> str:
        """Which engine answers for a domain, `torch` or `openvino`; made when it is first asked.

        Raises UsageError for a level that the domain has not.
        """
        spec, origin = self.spec(domain), self.origin(domain)
        level = self._level(spec, options)
        return self._engines.name(spec, origin.trunk_id, origin.domain_sha256, level)

    def engine_note(self, domain: str, options: Options = DEFAULT) -> str | None:
        """Why that is not the engine that was asked for; None where it is."""
        spec = self.spec(domain)
        return self._engines.note(spec, self._level(spec, options))

    def packages(self, domain: str, options: Options = DEFAULT) -> tuple[str, ...]:
        """The packages that compute a domain's labels, beside this one: they may decide about them.

        Without the native kernels torch brings the logits to the image's grid.
        """
        engine = self.engine(domain, options)
        return (engine,) if engine == "torch" or library() else ("torch", engine)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains that `predict` knows."""
        return tuple(self._specs)

    def labels(self, domain: str) -> tuple[str, ...]:
        """Names of a domain's labels in order of their value; the first is the background."""
        return self.spec(domain).labels

    def spec(self, domain: str) -> DomainSpec:
        """What a domain is. Raises UsageError where the model does not know it."""
        name = domain_name(domain)
        if name not in self._specs:
            store.require_domain(store.read_domains(self.folder), name, self.folder)
            raise UsageError("domain", f"'{name}' was not loaded", "load the model with it")
        return self._specs[name]

    def origin(self, domain: str) -> Origin:
        """The weights that answer for a domain. Raises UsageError as `spec` does."""
        return self._origins[self.spec(domain).name]

    def add(self, file: str | Path, *, domain: str | None = None) -> str:
        """Adds an exported domain to what was loaded; its name, which `domain` may give anew.

        The folder is left alone. Raises ModelError for a file that cannot be trusted or belongs to
        another trunk, UsageError for a name that is loaded already.
        """
        path, net = Path(file), self._engines.net()
        trunk_id = store.tensors_id(net.trunk.state_dict())
        said, tensors = read_file(path, trunk_id, domain)
        name = said.domain.name
        if name in self._specs:
            raise UsageError("domain", f"'{name}' is loaded already", "give another, domain=NAME")
        self._specs[name] = store.add_bank(net, path, said, tensors)
        net.bank(name).to(self.device)
        net.eval()
        sha256 = files.sha256_file(path)
        origin = _origin(trunk_id, sha256, said)
        self._origins[name] = origin
        return name

    def predict(
        self,
        image: Any,
        *,
        domain: str,
        affine: Any = None,
        overlap: float = 0.5,
        tta: bool = False,
        cleanup: bool = True,
        level: Level | Literal["auto"] | None = None,
    ) -> Any:
        """The label of an image as a nibabel image of the input's shape, affine and form codes.

        image: a path, a list of paths (one per channel), a nibabel image, or an array (I, J, K) or
        (C, I, J, K) with its `affine` (4, 4) from voxel index to R, A, S in mm. overlap, tta,
        cleanup, level: as in `Options`. Raises UsageError for an unknown domain or level, DataError
        for an unusable image.
        """
        volume, source = _opened(image, affine)
        options = Options(overlap, tta, cleanup, level)
        return to_nibabel(self.answer(volume, source.path, domain, options).label, source)

    def answer(
        self,
        image: Volume,
        path: Path,
        domain: str,
        options: Options,
        *,
        probabilities: bool = False,
    ) -> Answer:
        """The answer to an image (C, D, H, W); `path` names it in error messages."""
        spec = self.spec(domain)
        require_channels(image, path, spec.channels)
        shares = None
        if probabilities:
            slices, limit_bytes = self.slices(image, domain, options), Room(self.max_memory).left()
            label, shares = joined(slices, image.shape, len(spec.labels), limit_bytes)
        else:
            label = self._label(image, domain, options)
        if options.cleanup:
            names = self._origins[spec.name].largest_component
            label = keep_largest(label, [spec.labels.index(name) for name in names])
        said = self.engine_note(domain, options), self._origins[spec.name].beyond(image, spec.name)
        notes = tuple(note for note in said if note)
        return Answer(label, shares, self.engine(domain, options), notes)

    def slices(self, image: Volume, domain: str, options: Options, streams: int = 1) -> Slices:
        """Label (H, W) and probabilities (classes, H, W) of slice after slice of an image.

        uint8 and uint16, not cleaned up, written over by the next slice's. streams: by how many of
        these the room for sums is shared.
        """
        spec = self.spec(domain)
        logits, preparation = self._logits(image, spec, options, streams)
        return restore_both(logits, preparation, len(spec.labels))

    def _level(self, spec: DomainSpec, options: Options) -> Level | None:
        """At which a domain answers; the network is asked how many there are if no card says it."""
        if options.level is None:
            return None
        origin = self._origins[spec.name]
        count = origin.levels.count if origin.levels else self._engines.net().levels(spec.name)
        return origin.level(spec.name, options.level, count)

    def _label(self, image: Volume, domain: str, options: Options) -> Array:
        return restore(*self._logits(image, self.spec(domain), options))

    def _logits(
        self, image: Volume, spec: DomainSpec, options: Options, streams: int = 1
    ) -> tuple[Iterator[Floats], Preparation]:
        room = Room(self.max_memory, streams)
        prepared, preparation = prepare(image, spec.plan)
        hand_back_freed_memory()  # several times the image; sums may have its place
        origin = self._origins[spec.name]
        level, tile = self._level(spec, options), middle_tile(prepared, spec.plan)
        engine = self._engines.run(spec, origin.trunk_id, origin.domain_sha256, tile, level)
        return _slices(engine, spec, prepared, preparation, options, room), preparation


def load(
    folder: str | Path | None = None,
    *,
    domains: Sequence[str] | None = None,
    device: str = "auto",
    engine: str = "auto",
    max_memory: int | str | None = None,
) -> Model:
    """Loads a model folder (all its domains, or those named) onto `auto`, `cpu` or `cuda`.

    folder: None takes ./model where it is there, else the model that ships with the package; which
    one says `Model.folder`. engine: `torch`, `openvino` (on the CPU), or `auto`, which takes
    OpenVINO on a CPU where it is installed; where it does not agree with torch, torch answers, and
    `Model.engine_note` says why. Of a folder of folds all are loaded, and their answers averaged.
    max_memory: bytes, or a size like `4G`; see `Model`. Raises ModelError for a folder or file that
    cannot be used, UsageError for an unknown domain, a device or an engine there is not, or what is
    no size.
    """
    max_bytes = None if max_memory is None else bytes_of(max_memory)
    folder = store.default_model() if folder is None else Path(folder)
    if store.read_folds(folder):
        from u2net3d.infer.folds import FoldedModel

        folds = [
            load(part, domains=domains, device=device, engine=engine, max_memory=max_bytes)
            for part in store.models_in(folder)
        ]
        return FoldedModel(folds, folder)
    keep_freed_memory()
    names = None if domains is None else [domain_name(name) for name in domains]
    place = device_name("cpu" if (engine, device) == ("openvino", "auto") else device)
    chosen = choose_engine(engine, place)
    before = _origins(folder)

    def net() -> Network:
        found, _, _ = store.load(folder, names)
        if _origins(folder) != before:
            raise ModelError(folder, "was changed while it was read", "run the command again")
        return found.to(place)

    engines = Engines(chosen, place, net, default_cache())
    if chosen == "torch" or not store.all_listed(folder, names):
        engines.net()  # what it finds wrong is said now
    return Model(engines, store.read_specs(folder, names), folder, before, max_bytes)


def device_name(asked: str) -> str:
    """`cpu` or `cuda`; `auto` takes CUDA where there is one. UsageError as `choose_device`.

    torch is imported only where there may be a GPU.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise UsageError("--device", f"'{asked}' is no device", "use auto, cpu or cuda")
    if asked == "cpu" or (asked == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device", "there is no CUDA device here", "use --device cpu or auto")
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises UsageError for `cuda` without a device."""
    import torch

    return torch.device(device_name(name))


def _may_have_gpu() -> bool:
    """Linux shows drivers of GPUs as files; elsewhere torch must be asked."""
    drivers = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    return not sys.platform.startswith("linux") or any(Path(path).exists() for path in drivers)


def segment(
    net: Network, spec: DomainSpec, image: Volume, device: torch.device, options: Options
) -> Array:
    """Label (D, H, W) uint8 of an image (C, D, H, W) on its own grid, as the network answers.

    The network is put in eval(). Nothing is cleaned up, and no level is `auto`: that is for who
    knows the domain's card.
    """
    return restore(*slices_of(net, spec, image, device, options))


def slices_of(
    net: Network, spec: DomainSpec, image: Volume, device: torch.device, options: Options
) -> tuple[Iterator[Floats], Preparation]:
    """Logits of an image (C, D, H, W) on the plan's grid, slices (K, h, w), and the way back.

    By torch, whatever is installed.
    """
    net.eval()
    prepared, preparation = prepare(image, spec.plan)
    assert options.level != "auto"
    engine = torch_engine(net, spec.name, device, options.level)
    return _slices(engine, spec, prepared, preparation, options, Room()), preparation


def logits_of(
    net: Network, spec: DomainSpec, image: Volume, device: torch.device, options: Options
) -> tuple[Floats, Preparation]:
    """All logits (K, d, h, w) on the plan's grid at once, and the way back."""
    slices, preparation = slices_of(net, spec, image, device, options)
    return np.stack([plane.copy() for plane in slices], axis=1), preparation


def _slices(
    engine: Engine,
    spec: DomainSpec,
    prepared: Array,
    preparation: Preparation,
    options: Options,
    room: Room,
) -> Iterator[Floats]:
    return sliding_slices(
        engine,
        prepared,
        spec,
        overlap=options.overlap,
        tta=options.tta,
        limit_bytes=room.left(prod(preparation.shape)),
    )


def _origin(trunk_id: str, sha256: str, said: store.DomainFile) -> Origin:
    return Origin(trunk_id, sha256, said.largest_component, said.levels, said.largest_image_mm)


def _origins(folder: Path) -> dict[str, Origin]:
    manifest, origins = store.read_manifest(folder), {}
    for name, record in store.read_domains(folder).items():
        listed = manifest.domains.get(name)
        sha256 = listed.sha256 if listed else files.sha256_file(record.path)
        origins[name] = _origin(manifest.trunk_id, sha256, record.said)
    return origins


def _opened(image: Any, affine: Any) -> tuple[Volume, Source]:
    if isinstance(image, str | Path):
        return read_image([Path(image)])
    if isinstance(image, list | tuple) and image and all(isinstance(i, str | Path) for i in image):
        return read_image([Path(path) for path in image])
    if hasattr(image, "dataobj"):
        return from_nibabel(image)
    if affine is None:
        what = "an array alone does not say where its voxels lie"
        raise UsageError("affine", what, "pass affine=(4, 4) with it, or a path")
    return from_array(image, affine)
