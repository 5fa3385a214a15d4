"""Weight files as data: safetensors with one JSON in the metadata, checked before they are used.

Nothing in a file is run. What is no safetensors file (a pickle, a zip) is refused by what it is; a
header that does not fit the bytes, tensors that are no finite floats and content that is not what
its own hash says are refused by what is wrong. torch is imported only where tensors are made.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from u2net3d import files
from u2net3d.errors import ModelError
from u2net3d.spec import DomainSpec, Frozen
from u2net3d.volume import TripleF

if TYPE_CHECKING:
    from torch import Tensor

HALF = "half_precision"  # the entry of a card without which a file in float16 is refused
_KEY = "u2net3d"  # the one metadata entry of our safetensors files
_HEADER_LIMIT = 10_000_000  # bytes; a real header is some 20 kB
_FOREIGN = ((b"\x80", "a pickle"), (b"PK", "a zip archive"), (b"\x1f\x8b", "a gzip archive"))
_COPY = "restore it from a copy, or take it out of the folder"
Said = TypeVar("Said", bound=Frozen)


class Levels(Frozen):
    """At how many depths the network of a domain can answer, and what they were worth.

    validation_dice: mean over the foreground labels, from level 1 on, empty without validation
    cases; auto: the smallest level that is nearly as good as the deepest.
    """

    count: int = Field(ge=1)
    auto: int | None = Field(default=None, ge=1)
    validation_dice: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _among_them(self) -> Levels:
        if (self.auto or 1) > self.count or len(self.validation_dice) not in (0, self.count):
            raise ValueError("levels of its card are not those that it counts")
        return self


class DomainFile(Frozen):
    """What a domain file says about itself.

    card: how it was trained and how well it did; content_id: SHA-256 over the tensors, as for a
    trunk, and everything else that is said here.
    """

    format: Literal["u2net3d-domain"] = "u2net3d-domain"
    version: Literal[1] = 1
    trunk_id: str
    weights: int = Field(ge=0)
    adapters: int = Field(ge=0)
    domain: DomainSpec
    card: dict[str, Any] = Field(default_factory=dict)
    content_id: str = ""

    @model_validator(mode="after")
    def _known_labels(self) -> DomainFile:
        said = self.card.get("largest_component", [])
        if not isinstance(said, list | tuple) or any(n not in self.domain.labels[1:] for n in said):
            raise ValueError("largest_component of its card is no list of its labels")
        Levels.model_validate(self.card.get("levels", {"count": 1}))
        size = self.card.get("largest_image_mm", [1, 1, 1])
        if not isinstance(size, list | tuple) or len(size) != 3 or not all(map(_is_length, size)):
            raise ValueError("largest_image_mm of its card is no three lengths")
        return self

    @property
    def largest_component(self) -> tuple[str, ...]:
        """Names of the labels of which only the largest component is to be kept."""
        return tuple(self.card.get("largest_component", ()))

    @property
    def largest_image_mm(self) -> TripleF | None:
        """The most that the images to learn from measure in each direction; None in older files."""
        if "largest_image_mm" not in self.card:
            return None
        depth, height, width = self.card["largest_image_mm"]
        return depth, height, width

    @property
    def levels(self) -> Levels | None:
        """What its depths were worth; None where there is but one, or training never ended."""
        said = self.card.get("levels")
        return None if said is None else Levels.model_validate(said)

    def identified(self, tensors: Mapping[str, Tensor]) -> DomainFile:
        """The same with the `content_id` that goes with `tensors`."""
        said = self.model_dump(mode="json", exclude={"content_id"})
        content = files.sha256_json([said, tensors_id(tensors)])
        return self.model_copy(update={"content_id": content})

    def encoded(self, tensors: Mapping[str, Tensor]) -> bytes:
        """The bytes of the domain file with `tensors`; the `content_id` is set here."""
        return encode(tensors, self.identified(tensors).model_dump(mode="json"))


def _is_length(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < inf


class TrunkFile(Frozen):
    """What a trunk file says about itself."""

    format: Literal["u2net3d-trunk"] = "u2net3d-trunk"
    version: Literal[1] = 1
    trunk_id: str


def encode(tensors: Mapping[str, Tensor], said: dict[str, Any]) -> bytes:
    """A safetensors file with `said` in its metadata; the same input gives the same bytes."""
    from safetensors.torch import save

    return save(dict(tensors), {_KEY: json.dumps(said, sort_keys=True)})


def state(module: Any) -> dict[str, Tensor]:
    """The tensors of a module by name, float32 on the CPU."""
    return {
        name: tensor.detach().cpu().float().contiguous()
        for name, tensor in module.state_dict().items()
    }


def in_half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers in float16. ModelError where half precision does not hold one of them."""
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    for name, tensor in halves.items():
        if not bool((tensor.float() == tensors[name]).all()):
            what = "holds numbers that are not whole in half precision"
            raise ModelError(name, what, "round the weights before anything is trained on them")
    return halves


def tensors_id(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over sorted names, shapes and float32 bytes; of a trunk's tensors, its `trunk_id`."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().float().contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def read_said(path: Path) -> DomainFile:
    """What a domain file says, from its header alone; ModelError where it is none."""
    try:
        with path.open("rb") as handle:
            head = handle.read(8)
            (length,) = struct.unpack("<Q", head.ljust(8, b"\0"))
            fits = length <= min(_HEADER_LIMIT, path.stat().st_size - 8)
            head += handle.read(length) if fits else handle.read(8)
    except OSError as error:
        raise _unreadable(path, error) from error
    return _parsed(path, head, DomainFile)


def read_domain(path: Path, sha256: str | None = None) -> tuple[DomainFile, dict[str, Tensor]]:
    """A domain file: what it says, and its tensors in float32.

    sha256: of its bytes, where known. Raises ModelError for other bytes, a file that is none, and
    content that is not what was saved. float16 is read where the card says that the file was sent
    in half precision.
    """
    content = _bytes_of(path, sha256)
    said = _parsed(path, content, DomainFile)
    tensors = _decoded(path, content, half_allowed=HALF in said.card)
    if said.identified(tensors) != said:
        raise ModelError(path, "its content is not what was saved", _COPY)
    return said, tensors


def read_trunk(path: Path, sha256: str) -> tuple[TrunkFile, dict[str, Tensor]]:
    """A trunk file, as `read_domain`; ModelError where its weights are not the trunk it names.

    That name is of the numbers, so float16 is read too: nothing was lost if they have it.
    """
    content = _bytes_of(path, sha256)
    said = _parsed(path, content, TrunkFile)
    tensors = _decoded(path, content, half_allowed=True)
    if tensors_id(tensors) != said.trunk_id:
        what = f"its weights are not trunk {said.trunk_id[:12]}"
        raise ModelError(path, what, "restore it from a copy")
    return said, tensors


def require_bytes(path: Path, sha256: str) -> None:
    """Raises ModelError where a file is missing or does not have these bytes."""
    _bytes_of(path, sha256)


def _bytes_of(path: Path, sha256: str | None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        what = "its bytes are not those that were saved"
        raise ModelError(path, what, "restore it from a copy; `u2net3d verify` names every file")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; two readers may take different ones of two entries with one name."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an entry stands there twice")
    return found


def _unreadable(path: Path, error: OSError) -> ModelError:
    if isinstance(error, FileNotFoundError):
        return ModelError(path, "is missing", "put the file back")
    return ModelError(path, f"cannot be read ({error.strerror})", _COPY)


def _parsed(path: Path, content: bytes, kind: type[Said]) -> Said:
    """What a file says about itself, from the header at the beginning of `content`."""
    wanted = str(kind.model_fields["format"].default)
    for magic, what in _FOREIGN:
        if content.startswith(magic) and content[8:9] != b"{":
            raise ModelError(path, f"is {what}, no safetensors file; it was not opened", _COPY)
    try:
        said = _own_json(content)
        if said.get("format") == wanted and said.get("version") != 1:
            what = f"is of the format {wanted} {said.get('version')!r:.20}, known is {wanted} 1"
            raise ModelError(path, what, "update u2net3d")
        return kind.model_validate(said)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        why = f" ({error.errors()[0]['msg']})" if isinstance(error, ValidationError) else ""
        what = f"is no {wanted.removeprefix('u2net3d-')} file of u2net3d{why}"
        raise ModelError(path, what, _COPY) from error


def _own_json(content: bytes) -> dict[str, Any]:
    """The JSON that this package puts into the header of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(_HEADER_LIMIT, len(content) - 8):
        raise ValueError("its header is longer than the file, or than any header of ours")
    header = json.loads(content[8 : 8 + length], object_pairs_hook=_once)
    return dict(json.loads(header["__metadata__"][_KEY], object_pairs_hook=_once))


def _decoded(path: Path, content: bytes, *, half_allowed: bool) -> dict[str, Tensor]:
    """The tensors in float32; ModelError for a header that lies and for what is no finite float."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        what = f"its header does not fit its bytes ({reason})"
        raise ModelError(path, what, "restore it from a copy") from error
    allowed = {torch.float32} | ({torch.float16} if half_allowed else set())
    for name, tensor in tensors.items():
        if tensor.dtype not in allowed:
            kind = str(tensor.dtype).removeprefix("torch.")
            what = f"its tensor {name:.60} is of {kind}, not float32"
            raise ModelError(path, what, "get a file that u2net3d wrote")
        if not bool(torch.isfinite(tensor).all()):
            what = f"its tensor {name:.60} holds values that are no finite numbers"
            raise ModelError(path, what, "get the file again, or train the domain anew")
    return {name: tensor.float() for name, tensor in tensors.items()}
