"""What `-i` and `-o` ask for: cases, the files of each, and where its results go."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from u2net3d.errors import UsageError
from u2net3d.io import IMAGE_SUFFIXES, stem
from u2net3d.io.nifti import NIFTI_SUFFIXES

LABEL, PREVIEW, PROBABILITIES = "label", "preview", "probabilities"


@dataclass(frozen=True)
class Job:
    """One case to segment: the files of its channels in order, and where the label goes."""

    images: tuple[Path, ...]
    output: Path

    @property
    def case(self) -> str:
        """The name that the case's results have in common."""
        return stem(self.output)

    @property
    def sidecar(self) -> Path:
        """Where the record of the label goes."""
        return self.output.with_name(f"{self.case}.json")

    @property
    def lock(self) -> Path:
        """The file that says that a run is at this case."""
        return self.output.with_name(f".{self.case}.lock")

    def place(self, kind: str) -> Path:
        """Where the result of a kind goes."""
        if kind == LABEL:
            return self.output
        ends = {PREVIEW: ".png", PROBABILITIES: ".probabilities.nii.gz"}
        return self.output.with_name(f"{self.case}{ends[kind]}")


def jobs_of(inputs: Sequence[Path], output: Path, channels: int) -> list[Job]:
    """One case, or every case of a folder.

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


def require_apart(jobs: Sequence[Job], kinds: Sequence[str], more: Path | None = None) -> None:
    """Raises UsageError where two results would have one path, or a result that of an image.

    kinds: the results that every case gets, sidecars beside; more: a file of the whole run.
    """
    taken = {path.resolve(): path for job in jobs for path in job.images}
    for path in [*_results(jobs, kinds), *([more] if more else [])]:
        twin = taken.setdefault(path.resolve(), path)
        if twin is not path:
            what = f"{path.name} would be written, but is another result or an input"
            raise UsageError("-o", what, "name another place")


def _results(jobs: Sequence[Job], kinds: Sequence[str]) -> Iterator[Path]:
    for job in jobs:
        yield from (job.sidecar, *(job.place(kind) for kind in kinds))


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
