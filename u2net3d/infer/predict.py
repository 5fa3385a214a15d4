"""A model that segments: loaded once, many volumes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from u2net3d import store
from u2net3d.errors import DataError, U2Net3dError, UsageError
from u2net3d.infer.engine import sliding_logits, torch_engine
from u2net3d.io import IMAGE_SUFFIXES, read_image, stem
from u2net3d.io.dataset import require_channels
from u2net3d.io.nifti import (
    NIFTI_SUFFIXES,
    Source,
    from_array,
    from_nibabel,
    to_nibabel,
    write_label,
)
from u2net3d.models.universal import UniversalNet
from u2net3d.ops.memory import keep_freed_memory
from u2net3d.prep.pipeline import prepare, restore
from u2net3d.spec import DomainSpec, domain_name
from u2net3d.volume import Array, Volume


@dataclass(frozen=True)
class Options:
    """overlap: share of a patch that neighbouring tiles share; tta: average over reflections."""

    overlap: float = 0.5
    tta: bool = False


class Model:
    """A model folder ready to segment; `u2net3d.load` makes one. Nothing is printed."""

    def __init__(self, net: UniversalNet, specs: dict[str, DomainSpec], folder: Path) -> None:
        self.folder = folder
        self._net, self._specs = net, specs
        self._device = next(net.parameters()).device

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains that `predict` knows."""
        return tuple(self._specs)

    def labels(self, domain: str) -> tuple[str, ...]:
        """Names of a domain's labels in order of their value; the first is the background."""
        return self._spec(domain).labels

    def predict(
        self,
        image: Any,
        *,
        domain: str,
        affine: Any = None,
        overlap: float = 0.5,
        tta: bool = False,
    ) -> Any:
        """The label of an image as a nibabel image of the input's shape, affine and form codes.

        image: a path, a list of paths (one per channel), a nibabel image, or an array (I, J, K) or
        (C, I, J, K) with its `affine` (4, 4) from voxel index to R, A, S in mm. overlap, tta: as
        in `Options`. Raises UsageError for an unknown domain, DataError for an unusable image.
        """
        volume, source = _opened(image, affine)
        label = self.label_of(volume, source.path, domain, Options(overlap, tta))
        return to_nibabel(label, source)

    def label_of(self, image: Volume, path: Path, domain: str, options: Options) -> Array:
        """Label (D, H, W) uint8 of an image (C, D, H, W); `path` names it in error messages."""
        spec = self._spec(domain)
        require_channels(image, path, spec.channels)
        return segment(self._net, spec, image, self._device, options)

    def _spec(self, domain: str) -> DomainSpec:
        name = domain_name(domain)
        if name not in self._specs:
            store.require_domain(store.read_domains(self.folder), name, self.folder)
            raise UsageError("domain", f"'{name}' was not loaded", "load the model with it")
        return self._specs[name]


def load(
    folder: str | Path, *, domains: Sequence[str] | None = None, device: str = "auto"
) -> Model:
    """Loads a model folder (all its domains, or those named) onto `auto`, `cpu` or `cuda`.

    Raises ModelError for a folder or file that cannot be used, UsageError for an unknown domain or
    a device there is not.
    """
    keep_freed_memory()
    names = None if domains is None else [domain_name(name) for name in domains]
    place = choose_device(device)
    net, _, specs = store.load(Path(folder), names)
    return Model(net.to(place), specs, Path(folder))


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises UsageError for `cuda` without a device."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError("--device", f"'{name}' is no device", "use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device", "there is no CUDA device here", "use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def segment(
    net: UniversalNet, spec: DomainSpec, image: Volume, device: torch.device, options: Options
) -> Array:
    """Label (D, H, W) uint8 of an image (C, D, H, W) on its own grid; the net is put in eval()."""
    net.eval()
    prepared, preparation = prepare(image, spec.plan)
    engine = torch_engine(net, spec.name, device)
    logits = sliding_logits(engine, prepared, spec, overlap=options.overlap, tta=options.tta)
    return restore(logits, preparation)


@dataclass(frozen=True)
class Job:
    """One case to segment: the files of its channels in order, and where the label goes."""

    images: tuple[Path, ...]
    output: Path


@dataclass(frozen=True)
class Outcome:
    """A case that is done (error None) or that failed."""

    job: Job
    seconds: float
    error: U2Net3dError | None


def jobs_of(inputs: Sequence[Path], output: Path, channels: int) -> list[Job]:
    """What `-i` and `-o` ask for: one case, or every case of a folder.

    In a folder, `case_0000.nii.gz, case_0001.nii.gz` are the channels of one case where the domain
    has so many; for one channel `_0000` is taken off where every file ends so. Raises UsageError
    for an output that is an input, a folder without images, two files of one case and channel, and
    a file and a folder mixed.
    """
    if len(inputs) == 1 and inputs[0].is_dir():
        if output.is_file():
            mend = "name a folder with -o"
            raise UsageError("-o", f"{output} is a file, but -i is a folder", mend)
        if output.resolve() == inputs[0].resolve():
            raise UsageError("-o", "is the input folder itself", "name another folder")
        cases = _cases_in(inputs[0], channels)
        return [Job(paths, output / f"{name}.nii.gz") for name, paths in cases.items()]
    for path in inputs:
        if path.is_dir():
            raise UsageError("-i", f"{path} is a folder, one of several inputs", "give it alone")
        if not path.is_file():
            raise UsageError("-i", f"{path} does not exist", "check the path")
    if output.is_dir():
        output = output / f"{stem(inputs[0])}.nii.gz"
    if not output.name.lower().endswith(NIFTI_SUFFIXES):
        raise UsageError("-o", f"{output} is no NIfTI name", "end it in .nii.gz")
    if any(output.resolve() == path.resolve() for path in inputs):
        raise UsageError("-o", f"{output} is the input itself", "name another file")
    return [Job(tuple(inputs), output)]


def run_jobs(model: Model, jobs: Sequence[Job], domain: str, options: Options) -> Iterator[Outcome]:
    """Segments case after case; one that fails is reported in its outcome and the next begun."""
    for job in jobs:
        started, error = time.perf_counter(), None
        try:
            image, source = read_image(job.images)
            label = model.label_of(image, source.path, domain, options)
            write_label(job.output, label, source)
        except U2Net3dError as failure:
            error = failure
        except (MemoryError, RuntimeError) as failure:  # torch raises the latter where memory ends
            reason = (str(failure).splitlines() or ["out of memory"])[0]
            what = f"could not be segmented ({reason})"
            error = DataError(job.images[0], what, "give it alone, on a machine with more memory")
        yield Outcome(job, time.perf_counter() - started, error)


def _cases_in(folder: Path, channels: int) -> dict[str, tuple[Path, ...]]:
    found = sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(IMAGE_SUFFIXES) and not path.name.startswith(".")
    )
    if not found:
        what, mend = f"{folder} holds no image", f"use files of {', '.join(IMAGE_SUFFIXES)}"
        raise UsageError("-i", what, mend)
    are_channels = channels > 1 or all(_channel(path, channels) is not None for path in found)
    cases: dict[str, dict[int | None, Path]] = {}
    for path in found:
        number = _channel(path, channels) if are_channels else None
        name = stem(path) if number is None else stem(path)[: -len("_0000")]
        case = cases.setdefault(name, {})
        if number in case or (case and None in (number, *case)):
            twin = next(iter(case.values()))
            what = f"{twin.name} and {path.name} would both be {name}.nii.gz"
            raise UsageError("-i", what, "take one of them out of the folder, or rename it")
        case[number] = path
    return {name: tuple(case.values()) for name, case in cases.items()}


def _channel(path: Path, channels: int) -> int | None:
    """The number that `_0001` at the end of a name gives; None where it can be no channel's."""
    match = re.fullmatch(r".+_(\d{4})", stem(path))
    return int(match[1]) if match and int(match[1]) < channels else None


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
