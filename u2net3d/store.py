"""The model folder: manifest.json, trunk.safetensors and one domains/<name>.safetensors per domain.

The metadata of a domain file is the truth about that domain, names the trunk it was trained on and
carries a hash of the file's content; the manifest lists names, files and SHA-256. A domain file
that was put into the folder by hand is used when it names this trunk. torch is imported only where
weights are read or written.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from u2net3d import files
from u2net3d.errors import ModelError, UsageError
from u2net3d.spec import DomainSpec, Frozen, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from u2net3d.models.universal import UniversalNet

MANIFEST, TRUNK, DOMAINS = "manifest.json", "trunk.safetensors", "domains"
_KEY = "u2net3d"  # the one metadata entry of our safetensors files
_HEADER_LIMIT = 10_000_000  # bytes; a real header is a few kB


class FileEntry(Frozen):
    """A file of the model folder: its path in the folder and the SHA-256 of its bytes."""

    file: str
    sha256: str


class Manifest(Frozen):
    """What a model folder holds. trunk_id names the trunk's weights, whatever file they lie in."""

    format: Literal["u2net3d-model"] = "u2net3d-model"
    version: Literal[1] = 1
    model: ModelSpec
    trunk_id: str
    trunk_weights: int
    trunk: FileEntry
    domains: dict[str, FileEntry] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _own_files(self) -> Manifest:
        if self.trunk.file != TRUNK:
            raise ValueError(f"the trunk's file must be {TRUNK}")
        for name, entry in self.domains.items():
            if entry.file != _file_of(name):
                raise ValueError(f"the file of {name} must be {_file_of(name)}")
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

    def identified(self, tensors: Mapping[str, Tensor]) -> DomainFile:
        """The same with the `content_id` that goes with `tensors`."""
        said = self.model_dump(mode="json", exclude={"content_id"})
        content = files.sha256_json([said, tensors_id(tensors)])
        return self.model_copy(update={"content_id": content})


@dataclass(frozen=True)
class DomainRecord:
    """A domain of a model folder; listed: the manifest knows the file."""

    path: Path
    said: DomainFile
    listed: bool


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a model folder. Raises ModelError where there is none or it is unreadable."""
    path = folder / MANIFEST
    if not path.is_file():
        what = "holds no model" if folder.is_dir() else "is no folder"
        mend = "train one with `u2net3d train`, or name another with --model"
        raise ModelError(folder, what, mend)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        what = f"is no manifest of this version ({error.errors()[0]['msg']})"
        raise ModelError(path, what, "restore the file, or update u2net3d") from error


def read_domains(folder: Path) -> dict[str, DomainRecord]:
    """The domains of a model folder by name, those put in by hand included; no weight is read.

    Raises ModelError for a domain file of another trunk, one that says another name than its file,
    and a listed file that is missing.
    """
    manifest = read_manifest(folder)
    records = {}
    for path in domain_files(folder):
        said = _domain_file(path)
        name = said.domain.name
        if name != path.stem:
            mend = f"rename it to {name}.safetensors"
            raise ModelError(path, f"holds the domain {name}", mend)
        if said.trunk_id != manifest.trunk_id:
            what = f"{name} was trained on trunk {said.trunk_id[:12]}, this is {_short(manifest)}"
            raise ModelError(path, what, "put it into a model with its own trunk")
        records[name] = DomainRecord(path, said, name in manifest.domains)
    for name, entry in manifest.domains.items():
        if name not in records:
            mend = "put the file back; the manifest lists it"
            raise ModelError(folder / entry.file, "is missing", mend)
    return records


def verify(folder: Path) -> list[str]:
    """Recomputes every hash of a model folder; one line per difference, none when all is well."""
    manifest = read_manifest(folder)
    differences = []
    for entry in [manifest.trunk, *manifest.domains.values()]:
        path = folder / entry.file
        if not path.is_file():
            differences.append(f"{entry.file}: missing")
        elif files.sha256_file(path) != entry.sha256:
            differences.append(f"{entry.file}: its bytes are not those that were saved")
    if not differences:
        if tensors_id(_tensors(folder / TRUNK)) != manifest.trunk_id:
            differences.append(f"{TRUNK}: its weights are not trunk {_short(manifest)}")
        for name, record in read_domains(folder).items():
            if record.said.identified(_tensors(record.path)) != record.said:
                differences.append(f"{_file_of(name)}: its content is not what was saved")
    return differences


def load(
    folder: Path, domains: Iterable[str] | None = None
) -> tuple[UniversalNet, ModelSpec, dict[str, DomainSpec]]:
    """The network of a model folder with the banks of `domains` (all of them when None).

    Hashes are checked. Raises ModelError for bytes that are not those saved, UsageError (through
    `require_domain`) for a domain there is not.
    """
    from u2net3d.models.banks import BankShape
    from u2net3d.models.universal import UniversalNet

    manifest, records = read_manifest(folder), read_domains(folder)
    net = UniversalNet(manifest.model.base_channels, manifest.model.stages)
    _require_bytes(folder / manifest.trunk.file, manifest.trunk.sha256)
    _fill(net.trunk, _tensors(folder / manifest.trunk.file), folder / manifest.trunk.file)
    specs = {}
    for name in records if domains is None else domains:
        record = require_domain(records, name, folder)
        if record.listed:
            _require_bytes(record.path, manifest.domains[name].sha256)
        spec, tensors = record.said.domain, _tensors(record.path)
        if record.said.identified(tensors) != record.said:
            mend = "get the file again, or take it out of the folder"
            raise ModelError(record.path, "its content is not what was saved", mend)
        bank = net.add_bank(name, BankShape.of(spec))
        _fill(bank, tensors, record.path)
        specs[name] = spec
    return net.eval(), manifest.model, specs


def require_domain(records: Mapping[str, DomainRecord], name: str, folder: Path) -> DomainRecord:
    """The record of a domain. Raises UsageError that names the nearest one there is."""
    if name in records:
        return records[name]
    from difflib import get_close_matches

    near = get_close_matches(name, records, n=1, cutoff=0.5)
    mend = f"did you mean {near[0]}? " if near else ""
    known = ", ".join(records) or "none"
    raise UsageError("--domain", f"'{name}' is not in {folder}", f"{mend}there are: {known}")


def save_model(
    folder: Path,
    net: UniversalNet,
    model: ModelSpec,
    domains: Mapping[str, DomainSpec],
    cards: Mapping[str, dict[str, Any]],
) -> Manifest:
    """Writes trunk, banks and, last, the manifest of a newly trained model.

    Banks that lie in the folder on another trunk, of a model that is replaced, are removed.
    """
    trunk = _state(net.trunk)
    entries = {}
    identity = tensors_id(trunk)
    _write(folder / TRUNK, trunk, {"format": "u2net3d-trunk", "version": 1, "trunk_id": identity})
    for name, spec in domains.items():
        entries[name] = _write_domain(folder, net, spec, identity, cards.get(name, {}))
    manifest = Manifest(
        model=model,
        trunk_id=identity,
        trunk_weights=sum(tensor.numel() for tensor in trunk.values()),
        trunk=FileEntry(file=TRUNK, sha256=files.sha256_file(folder / TRUNK)),
        domains=entries,
    )
    files.write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    for path in domain_files(folder):
        if path.stem not in entries:
            path.unlink()
    return manifest


def save_domain(
    folder: Path, net: UniversalNet, spec: DomainSpec, card: dict[str, Any]
) -> Manifest:
    """Writes the bank of one domain, then its entry in the manifest; no other file changes.

    Raises ModelError when the network's trunk is not the folder's.
    """
    manifest = read_manifest(folder)
    identity = tensors_id(_state(net.trunk))
    if identity != manifest.trunk_id:
        what = f"its trunk is {_short(manifest)}, the network's is {identity[:12]}"
        raise ModelError(folder, what, "nothing was written; train the domain on this trunk")
    entry = _write_domain(folder, net, spec, identity, card)
    manifest = manifest.model_copy(update={"domains": {**manifest.domains, spec.name: entry}})
    files.write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def domain_files(folder: Path) -> list[Path]:
    """The domain files of a model folder, sorted; names that begin with a dot are not ours."""
    found = (folder / DOMAINS).glob("*.safetensors")
    return sorted(path for path in found if not path.name.startswith("."))


def tensors_id(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over sorted names, shapes and float32 bytes; of a trunk's tensors, its `trunk_id`."""
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().float().contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _write_domain(
    folder: Path, net: UniversalNet, spec: DomainSpec, identity: str, card: dict[str, Any]
) -> FileEntry:
    bank = net.bank(spec.name)
    tensors = _state(bank)
    said = DomainFile(
        trunk_id=identity,
        weights=sum(tensor.numel() for tensor in tensors.values()),
        adapters=bank.adapters(),
        domain=spec,
        card=card,
    ).identified(tensors)
    path = folder / _file_of(spec.name)
    _write(path, tensors, said.model_dump(mode="json"))
    return FileEntry(file=_file_of(spec.name), sha256=files.sha256_file(path))


def _file_of(name: str) -> str:
    return f"{DOMAINS}/{name}.safetensors"


def _write(path: Path, tensors: dict[str, Tensor], said: dict[str, Any]) -> None:
    from safetensors.torch import save

    files.write_bytes(path, save(tensors, {_KEY: json.dumps(said, sort_keys=True)}))


def _state(module: Any) -> dict[str, Tensor]:
    return {
        name: tensor.detach().cpu().float().contiguous()
        for name, tensor in module.state_dict().items()
    }


def _fill(module: Any, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        mend = "restore the file from a copy"
        raise ModelError(path, "its tensors are not those of this network", mend) from error


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(path, f"cannot be read ({error})", "restore it from a copy") from error


def _domain_file(path: Path) -> DomainFile:
    """The metadata of a domain file, read from its header alone."""
    try:
        with path.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > _HEADER_LIMIT:
                raise ValueError("its header is too long")
            header = json.loads(handle.read(length))
        return DomainFile.model_validate_json(header["__metadata__"][_KEY])
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        mend = "restore it from a copy, or take it out of the folder"
        raise ModelError(path, "is no domain file of u2net3d", mend) from error


def _require_bytes(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise ModelError(path, "is missing", "put the file back; the manifest lists it")
    if files.sha256_file(path) != sha256:
        what = "its bytes are not those that were saved"
        raise ModelError(path, what, "restore it from a copy; `u2net3d verify` names every file")


def _short(manifest: Manifest) -> str:
    return manifest.trunk_id[:12]
