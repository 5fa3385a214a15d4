"""Writing a model folder: a newly trained model, or one domain of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2net3d.errors import ModelError
from u2net3d.spec import DomainSpec, ModelSpec
from u2net3d.store import ledger, weights
from u2net3d.store.ledger import Change
from u2net3d.store.manifest import (
    TRUNK,
    FileEntry,
    Manifest,
    changing,
    commit,
    domain_files,
    file_of,
    read_manifest,
    sha256_in,
    sha256_of,
)
from u2net3d.store.weights import HALF, DomainFile, TrunkFile

if TYPE_CHECKING:
    from u2net3d.models.network import Network


def save_model(
    folder: Path,
    net: Network,
    model: ModelSpec,
    domains: Mapping[str, DomainSpec],
    cards: Mapping[str, dict[str, Any]],
    data: Mapping[str, str] | None = None,
    *,
    half: bool = False,
) -> Manifest:
    """Writes trunk and banks of a newly trained model; a kill leaves the old one or the new.

    data: hash of the cases that a domain was trained on. half: in float16, which the weights must
    be whole in; ModelError where one is not. Banks of a model that is replaced are removed: their
    trunk is gone.
    """
    trunk = weights.state(net.trunk)
    identity = weights.tensors_id(trunk)
    said = TrunkFile(trunk_id=identity).model_dump()
    contents = {TRUNK: weights.encode(weights.in_half(trunk) if half else trunk, said)}
    for name, spec in domains.items():
        card = cards.get(name, {})
        contents[file_of(name)] = _domain_bytes(net, spec, identity, card, half=half)
    entries = {
        file: FileEntry(file=file, sha256=sha256_of(made)) for file, made in contents.items()
    }
    manifest = Manifest(
        model=model,
        trunk_id=identity,
        trunk_weights=sum(tensor.numel() for tensor in trunk.values()),
        trunk=entries[TRUNK],
        domains={name: entries[file_of(name)] for name in domains},
    )
    with ledger.locked(folder):
        old = _listed(folder)
        changes = {
            name: Change(
                file_sha256=manifest.state().domains.get(name),
                was=old.get(name),
                data_sha256=(data or {}).get(name),
            )
            for name in sorted({*domains, *old, *(path.stem for path in domain_files(folder))})
        }
        return commit(folder, manifest, contents, "train", changes)


def save_domain(
    folder: Path,
    net: Network,
    spec: DomainSpec,
    card: dict[str, Any],
    data_sha256: str | None = None,
    *,
    half: bool = False,
) -> Manifest:
    """Writes the bank of one domain and its entry in the manifest; no other file changes.

    One that is replaced is kept in previous/; half: as in `save_model`. Raises ModelError when the
    network's trunk is not the folder's.
    """
    identity = weights.tensors_id(weights.state(net.trunk))
    with changing(folder) as manifest:
        if identity != manifest.trunk_id:
            what = f"its trunk is {manifest.trunk_id[:12]}, the network's is {identity[:12]}"
            raise ModelError(folder, what, "nothing was written; train the domain on this trunk")
        content = _domain_bytes(net, spec, identity, card, half=half)
        return put(folder, manifest, spec.name, content, None, data_sha256=data_sha256)


def tidy(folder: Path) -> None:
    """Puts into its place what a killed change left; nothing where there was none."""
    with changing(folder):
        pass


def put(
    folder: Path,
    manifest: Manifest,
    name: str,
    content: bytes,
    event: ledger.Event | None,
    *,
    data_sha256: str | None = None,
) -> Manifest:
    """Makes `content` the file of a domain, inside `changing`; event None: add or update."""
    was, sha256 = sha256_in(folder, manifest, name), sha256_of(content)
    entry = FileEntry(file=file_of(name), sha256=sha256)
    manifest = manifest.model_copy(update={"domains": {**manifest.domains, name: entry}})
    change = Change(file_sha256=sha256, was=was, data_sha256=data_sha256)
    event = event or ("add" if was is None else "update")
    return commit(folder, manifest, {entry.file: content}, event, {name: change})


def _listed(folder: Path) -> Mapping[str, str]:
    """The domains that a model lists which is to be replaced; it may be damaged."""
    try:
        listed: Mapping[str, str] = read_manifest(folder).state().domains
    except ModelError:
        return {}
    return listed


def _domain_bytes(
    net: Network, spec: DomainSpec, identity: str, card: dict[str, Any], *, half: bool
) -> bytes:
    bank = net.bank(spec.name)
    tensors = weights.state(bank)
    if half:
        tensors, card = weights.in_half(tensors), {HALF: {}, **card}
    return DomainFile(
        trunk_id=identity,
        weights=sum(tensor.numel() for tensor in tensors.values()),
        adapters=bank.adapters(),
        domain=spec,
        card=card,
    ).encoded(tensors)
