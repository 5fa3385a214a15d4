"""What a label says about where it came from: `<case>.json` beside it.

No name of a person, no path and no text of a header stands in it: hashes say which image and which
weights, so it may travel with the label. docs/formats.md lists the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from u2net3d import files
from u2net3d.errors import DataError
from u2net3d.infer.predict import Options, Origin
from u2net3d.io import parts
from u2net3d.spec import DomainSpec, Frozen
from u2net3d.volume import TripleF

_LONGEST = 1_000_000  # bytes; a real one has about 1,500


class Record(Frozen):
    """The content of a sidecar. outputs: SHA-256 of `label`, `preview` and `probabilities`."""

    format: Literal["u2net3d-prediction"] = "u2net3d-prediction"
    version: Literal[1] = 1
    input_sha256: str
    trunk_id: str
    domain: str
    domain_sha256: str
    labels: tuple[str, ...]
    largest_component: tuple[str, ...]
    options: dict[str, float | bool | str]
    versions: dict[str, str]
    engine: str = "torch"
    device: str
    spacing_mm: TripleF
    seconds: float
    notes: tuple[str, ...] = ()
    outputs: dict[str, str] = Field(default_factory=dict)

    def difference(self, other: Record) -> str | None:
        """Why `other` may hold other voxels than this, in words; None where it may not."""
        for what, said in (
            ("from another image", "input_sha256"),
            ("with another domain", "domain"),
            ("on another trunk", "trunk_id"),
            ("with another version of the domain", "domain_sha256"),
            ("with other options", "options"),
            ("by another engine", "engine"),
            ("by other versions of u2net3d, torch or openvino", "versions"),
        ):
            if getattr(self, said) != getattr(other, said):
                return what
        return None


def expected_record(
    input_sha256: str,
    spec: DomainSpec,
    origin: Origin,
    options: Options,
    engine: str = "torch",
    packages: Sequence[str] = ("torch",),
) -> Record:
    """The record of a case before it is segmented; `finish` adds what is known after.

    packages: those that compute its label, beside u2net3d.
    """
    from u2net3d import __version__

    said: dict[str, float | bool | str] = {
        "overlap": options.overlap,
        "tta": options.tta,
        "cleanup": options.cleanup,
    }
    if options.level is not None:
        said["level"] = str(options.level)
    return Record(
        input_sha256=input_sha256,
        trunk_id=origin.trunk_id,
        domain=spec.name,
        domain_sha256=origin.domain_sha256,
        labels=spec.labels,
        largest_component=origin.largest_component if options.cleanup else (),
        options=said,
        versions={"u2net3d": __version__, **{name: version(name) for name in packages}},
        engine=engine,
        device="",
        spacing_mm=(0, 0, 0),
        seconds=0,
    )


def read_record(path: Path) -> Record | None:
    """The record in a sidecar; None where there is none, or what is there is no record of ours."""
    try:
        if path.stat().st_size > _LONGEST:
            return None
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write_record(path: Path, record: Record) -> None:
    """Writes a sidecar whole or not at all."""
    files.write_text(path, record.model_dump_json(indent=2) + "\n")


class Content:
    """The files of an image as they are now: their hash, and whether they stay as they are."""

    def __init__(self, images: Sequence[Path]) -> None:
        self._files = [file for image in images for file in parts(image)]
        self._before = self._state()
        hashes = [files.sha256_file(file) for file in self._files]
        self.sha256 = hashes[0] if len(hashes) == 1 else files.sha256_json(hashes)

    def require_unchanged(self) -> None:
        """Raises DataError where a file was written to since it was hashed."""
        for file, before, now in zip(self._files, self._before, self._state(), strict=True):
            if before != now:
                mend = "wait until it is written, then run the command again"
                raise DataError(file, "was changed while it was read", mend)

    def _state(self) -> list[tuple[int, int, int]]:
        found = [file.stat() for file in self._files]
        return [(state.st_ino, state.st_size, state.st_mtime_ns) for state in found]
