"""Reading and checking a model folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2net3d import files
from u2net3d.errors import ModelError, UsageError
from u2net3d.spec import DomainSpec, ModelSpec
from u2net3d.store import ledger, weights
from u2net3d.store.manifest import (
    PREVIOUS,
    SUFFIX,
    TRUNK,
    Manifest,
    domain_files,
    file_of,
    place_of,
    read_manifest,
)
from u2net3d.store.weights import DomainFile

if TYPE_CHECKING:
    from torch import Tensor

    from u2net3d.models.network import Network


@dataclass(frozen=True)
class DomainRecord:
    """A domain of a model folder; listed: the manifest knows the file."""

    path: Path
    said: DomainFile
    listed: bool


def read_domains(folder: Path) -> dict[str, DomainRecord]:
    """The domains of a model folder by name, those put in by hand included; no weight is read.

    Raises ModelError for a domain file of another trunk, one that says another name than its file,
    and a listed file that is missing.
    """
    manifest = read_manifest(folder)
    paths = {path.name.removesuffix(SUFFIX): path for path in domain_files(folder)}
    paths |= {name: place_of(folder, entry) for name, entry in manifest.domains.items()}
    records = {}
    for name, path in sorted(paths.items()):
        said = weights.read_said(path)
        if said.domain.name != name:
            mend = f"rename it to {said.domain.name}.safetensors"
            raise ModelError(path, f"holds the domain {said.domain.name}", mend)
        require_trunk(path, said, manifest.trunk_id)
        records[name] = DomainRecord(path, said, name in manifest.domains)
    return records


def require_trunk(path: Path, said: DomainFile, trunk_id: str) -> None:
    """Raises ModelError, naming both ids, for a domain that was trained on another trunk."""
    if said.trunk_id != trunk_id:
        what = f"{said.domain.name} was trained on trunk {said.trunk_id[:12]}, this is "
        raise ModelError(path, what + trunk_id[:12], "put it into a model with its own trunk")


def verify(folder: Path) -> list[str]:
    """Recomputes every hash of a model folder; one line per difference, none when all is well."""
    manifest = read_manifest(folder)
    differences = []
    for entry in manifest.entries:
        path = place_of(folder, entry)
        if not path.is_file():
            differences.append(f"{entry.file}: missing")
        elif files.sha256_file(path) != entry.sha256:
            differences.append(f"{entry.file}: its bytes are not those that were saved")
    differences += [
        f"{PREVIOUS}/{path.name}: its bytes are not those that were kept"
        for path in sorted((folder / PREVIOUS).glob(f"*{SUFFIX}"))
        if not path.name.removesuffix(SUFFIX).endswith(files.sha256_file(path)[:12])
    ]
    differences += ledger.check(folder, manifest.ledger, manifest.state())[0]
    return differences or _contents(folder, manifest)


def remarks(folder: Path) -> list[str]:
    """What `verify` passes over and a person should know, a line each."""
    manifest = read_manifest(folder)
    lines = [
        f"{entry.file}: a change was cut off; the next one puts the file into its place"
        for entry in manifest.entries
        if place_of(folder, entry) != folder / entry.file
    ]
    return lines + ledger.check(folder, manifest.ledger, manifest.state())[1]


def load(
    folder: Path, domains: Iterable[str] | None = None
) -> tuple[Network, ModelSpec, dict[str, DomainSpec]]:
    """The network of a model folder with the banks of `domains` (all of them when None).

    Hashes are checked. Raises ModelError for bytes that are not those saved, UsageError (through
    `require_domain`) for a domain there is not.
    """
    from u2net3d.models import network

    manifest, records = read_manifest(folder), read_domains(folder)
    path = place_of(folder, manifest.trunk)
    said, tensors = weights.read_trunk(path, manifest.trunk.sha256)
    if said.trunk_id != manifest.trunk_id:
        what = f"is trunk {said.trunk_id[:12]}, the manifest's is {manifest.trunk_id[:12]}"
        raise ModelError(path, what, "restore the folder from a copy")
    net = network(manifest.model)
    _fill(net.trunk, tensors, path)
    specs = {}
    for name in records if domains is None else domains:
        record = require_domain(records, name, folder)
        sha256 = manifest.domains[name].sha256 if record.listed else None
        specs[name] = add_bank(net, record.path, *weights.read_domain(record.path, sha256))
    return net.eval(), manifest.model, specs


def read_specs(folder: Path, domains: Iterable[str] | None = None) -> dict[str, DomainSpec]:
    """The specifications of `domains` (all when None), the bytes of their files and of the trunk's
    checked by hash; no weight is made of them, and no torch imported. Raises as `load` does.
    """
    manifest, records = read_manifest(folder), read_domains(folder)
    weights.require_bytes(place_of(folder, manifest.trunk), manifest.trunk.sha256)
    specs = {}
    for name in records if domains is None else domains:
        record = require_domain(records, name, folder)
        if record.listed:
            weights.require_bytes(record.path, manifest.domains[name].sha256)
        specs[name] = record.said.domain
    return specs


def all_listed(folder: Path, domains: Iterable[str] | None = None) -> bool:
    """Whether the manifest knows the files of `domains` (all when None), and so their hashes."""
    records = read_domains(folder)
    return all(
        require_domain(records, name, folder).listed
        for name in (records if domains is None else domains)
    )


def add_bank(
    net: Network, path: Path, said: DomainFile, tensors: Mapping[str, Tensor]
) -> DomainSpec:
    """Gives `net` the bank of a domain file that was read; ModelError where it does not fit."""
    import torch

    from u2net3d.models.network import BankShape

    shape = BankShape.of(said.domain)
    if shape.stages > net.stages:
        what = f"asks for {shape.stages} stages, the trunk has {net.stages}"
        raise ModelError(path, what, "put it into a model with its own trunk")
    with torch.device("meta"):  # no memory: a file may ask for any size
        expected = net.make_bank(shape).state_dict()
    if {n: t.shape for n, t in expected.items()} != {n: t.shape for n, t in tensors.items()}:
        what = f"its tensors are not those of its plan in a network of {net.model.family}"
        mend = "put it into a model with the network that it was trained with, or get it again"
        raise ModelError(path, what, mend)
    _fill(net.add_bank(said.domain.name, shape), tensors, path)
    return said.domain


def not_of_training(folder: Path) -> list[str]:
    """Names of the listed domains whose file is none that a training of the trunk wrote.

    They were added, imported or trained again since. None where the ledger cannot be had.
    """
    known = _ledger_lines(folder)
    if not known:
        return []
    # a ledger that began later: what it found may be of a training
    lines = [line for line in known if line.event in ("train", "found")]
    trained = {(name, said.file_sha256) for line in lines for name, said in line.domains.items()}
    listed = read_manifest(folder).domains
    return [name for name, entry in listed.items() if (name, entry.sha256) not in trained]


def trained_on(folder: Path) -> tuple[str, ...] | None:
    """Names, as they were then, of the domains that the trunk was trained on; None if unknown."""
    for line in reversed(_ledger_lines(folder)):
        if line.event == "train":
            return tuple(name for name, change in line.domains.items() if change.file_sha256)
    return None


def data_sha256(folder: Path, name: str) -> str | None:
    """Hash of the cases that a domain's file was trained on; None where the ledger has none."""
    entry = read_manifest(folder).domains.get(name)
    for line in _ledger_lines(folder) if entry else ():
        change = line.domains.get(name)
        if change and change.data_sha256 and entry and change.file_sha256 == entry.sha256:
            return change.data_sha256
    return None


def require_domain(records: Mapping[str, DomainRecord], name: str, folder: Path) -> DomainRecord:
    """The record of a domain. Raises UsageError that names the nearest one there is."""
    if name in records:
        return records[name]
    from difflib import get_close_matches

    near = get_close_matches(name, records, n=1, cutoff=0.5)
    mend = f"did you mean {near[0]}? " if near else ""
    known = ", ".join(records) or "none"
    raise UsageError("--domain", f"'{name}' is not in {folder}", f"{mend}there are: {known}")


def _ledger_lines(folder: Path) -> Sequence[ledger.Line]:
    """The lines of a folder's ledger; none where it cannot be had."""
    try:
        known = ledger.read(folder)
    except ModelError:
        return ()
    return known.lines if known else ()


def _contents(folder: Path, manifest: Manifest) -> list[str]:
    """Do the files, whose bytes are right, hold what they say?"""
    try:
        said, _ = weights.read_trunk(place_of(folder, manifest.trunk), manifest.trunk.sha256)
    except ModelError as error:
        return [f"{TRUNK}: {error.what}"]
    if said.trunk_id != manifest.trunk_id:
        return [f"{TRUNK}: its weights are not trunk {manifest.trunk_id[:12]}"]
    differences = []
    for name, record in read_domains(folder).items():
        try:
            weights.read_domain(record.path)
        except ModelError as error:
            differences.append(f"{file_of(name)}: {error.what}")
    return differences


def _fill(module: Any, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        mend = "restore the file from a copy"
        raise ModelError(path, "its tensors are not those of this network", mend) from error
