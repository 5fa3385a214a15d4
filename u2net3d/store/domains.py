"""The life of a domain in a model folder: remove, rename, roll back, export, import.

Each changes one domain's files, the manifest and the ledger, and nothing else. What is replaced or
taken away is kept in previous/<name>-<first 12 of its SHA-256>.safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2net3d import files
from u2net3d.errors import ModelError, UsageError
from u2net3d.spec import domain_name
from u2net3d.store import ledger, weights
from u2net3d.store.folder import add_bank, read_domains, require_domain, require_trunk
from u2net3d.store.ledger import Change
from u2net3d.store.manifest import (
    FileEntry,
    Manifest,
    changing,
    commit,
    file_of,
    kept,
    sha256_in,
    sha256_of,
)
from u2net3d.store.saving import put
from u2net3d.store.weights import HALF, DomainFile

if TYPE_CHECKING:
    from torch import Tensor


def remove(folder: Path, name: str) -> None:
    """Takes a domain out of a model, a damaged or foreign file too; it is kept for `rollback`."""
    with changing(folder) as manifest:
        if sha256_in(folder, manifest, name) is None:
            require_domain(read_domains(folder), name, folder)
        others = {other: entry for other, entry in manifest.domains.items() if other != name}
        change = Change(was=sha256_in(folder, manifest, name))
        without = manifest.model_copy(update={"domains": others})
        commit(folder, without, {}, "remove", {name: change})


def rename(folder: Path, old: str, new: str) -> None:
    """Gives a domain another name. UsageError where that name is taken."""
    with changing(folder) as manifest:
        records = read_domains(folder)
        record = require_domain(records, old, folder)
        _require_free(records, new, folder, "choose another name")
        sha256 = sha256_in(folder, manifest, old)
        said, tensors = weights.read_domain(record.path, sha256)
        content = _renamed(said, new).encoded(tensors)
        entry = FileEntry(file=file_of(new), sha256=sha256_of(content))
        others = {name: listed for name, listed in manifest.domains.items() if name != old}
        changes = {old: Change(was=sha256), new: Change(file_sha256=entry.sha256)}
        renamed = manifest.model_copy(update={"domains": {**others, new: entry}})
        commit(folder, renamed, {entry.file: content}, "rename", changes)


def rollback(folder: Path, name: str, to: str | None = None) -> str:
    """Puts an earlier version of a domain in the place of the present one; its SHA-256.

    to: the beginning of the version's SHA-256; None takes the last one that is not the present one,
    so that a second rollback goes forward again. UsageError where there is no such version.
    """
    with changing(folder) as manifest:
        now = sha256_in(folder, manifest, name)
        earlier = [sha256 for sha256 in versions(folder, name) if sha256 != now]
        if to is not None:
            earlier = [sha256 for sha256 in earlier if sha256.startswith(to.lower())]
        if not earlier:
            there = ", ".join(sha256[:12] for sha256 in versions(folder, name)) or "none"
            what = f"'{name}' has no earlier version" + (f" {to}" if to else "")
            raise UsageError("--domain", what, f"versions in {folder}: {there}")
        path = kept(folder, name, earlier[-1])
        said, _ = weights.read_domain(path, earlier[-1])
        require_trunk(path, said, manifest.trunk_id)
        put(folder, manifest, name, path.read_bytes(), "rollback")
        return earlier[-1]


def versions(folder: Path, name: str) -> list[str]:
    """SHA-256 of the versions of a domain in previous/, in the order they were last in force.

    Those of an earlier trunk are left out.
    """
    known = ledger.read(folder)
    found: list[str] = []
    for line in known.lines if known else ():
        change = line.domains.get(name, Change())
        if line.event == "train":
            found, change = [], Change(file_sha256=change.file_sha256)
        for sha256 in (change.was, change.file_sha256):
            if sha256 is not None:
                found = [other for other in found if other != sha256] + [sha256]
    return [sha256 for sha256 in found if kept(folder, name, sha256).is_file()]


def export(
    folder: Path,
    name: str,
    output: Path,
    *,
    half: bool = False,
    parity: dict[str, Any] | None = None,
) -> DomainFile:
    """Writes one file that `import_file` and `Model.add` take; what it says.

    half: in half precision; else it is the domain's file, byte for byte. parity: what was measured
    between the two, for the card. UsageError for a place inside the model.
    """
    if output.resolve().is_relative_to(folder.resolve()):
        raise UsageError("-o", f"{output} lies in the model itself", "name another place")
    with changing(folder) as manifest:
        record = require_domain(read_domains(folder), name, folder)
        sha256 = sha256_in(folder, manifest, name)
        said, tensors = weights.read_domain(record.path, sha256)
        content = record.path.read_bytes()
        if half:
            rounded, error = halved(record.path, tensors)
            measured = {"largest_rounding": error, **(parity or {})}
            said = said.model_copy(update={"card": {**said.card, HALF: measured}})
            content = said.encoded({key: tensor.half() for key, tensor in rounded.items()})
        change = Change(file_sha256=sha256, was=sha256, sent_sha256=sha256_of(content))
        files.write_bytes(output, content)
        commit(folder, manifest, {}, "export", {name: change})
    return said


def halved(path: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """A bank's tensors rounded to half precision, in float32, and the largest rounding error.

    The error is that of a weight as a share of the largest weight of its tensor. ModelError for
    weights beyond the range of half precision.
    """
    rounded, largest = {}, 0.0
    for name, tensor in tensors.items():
        rounded[name] = tensor.half().float()
        if not bool(rounded[name].isfinite().all()):
            what = f"its tensor {name} holds a weight beyond the range of half precision"
            raise ModelError(path, what, "export it without --half")
        scale = float(tensor.abs().max())
        if scale > 0:
            largest = max(largest, float((rounded[name] - tensor).abs().max()) / scale)
    return rounded, largest


def import_file(folder: Path, path: Path, name: str | None = None) -> str:
    """Adds an exported domain to a model, under another name where given; the name.

    UsageError where the name is taken, ModelError for a file that cannot be trusted or belongs to
    another trunk.
    """
    with changing(folder) as manifest:
        said, tensors = read_file(path, manifest.trunk_id, name)
        name = said.domain.name
        _require_free(read_domains(folder), name, folder, "import it with --as NAME")
        _require_fits(path, manifest, said, tensors)
        put(folder, manifest, name, said.encoded(tensors), "import")
    return name


def read_file(
    path: Path, trunk_id: str, name: str | None = None
) -> tuple[DomainFile, dict[str, Tensor]]:
    """A domain file from elsewhere, under another name where given.

    ModelError for a file that cannot be trusted or belongs to another trunk than `trunk_id`.
    """
    require_trunk(path, weights.read_said(path), trunk_id)
    said, tensors = weights.read_domain(path)
    try:
        given = domain_name(said.domain.name)
    except UsageError as error:
        raise ModelError(path, f"names its domain badly: {error.what}", error.mend) from error
    if given != said.domain.name:
        mend = "get a file that u2net3d wrote"
        raise ModelError(path, f"names its domain badly: '{said.domain.name:.40}'", mend)
    return _renamed(said, domain_name(name) if name else given), tensors


def _require_fits(
    path: Path, manifest: Manifest, said: DomainFile, tensors: dict[str, Tensor]
) -> None:
    from u2net3d.models import network

    net = network(manifest.model)
    add_bank(net, path, said, tensors)


def _renamed(said: DomainFile, name: str) -> DomainFile:
    return said.model_copy(update={"domain": said.domain.model_copy(update={"name": name})})


def _require_free(records: Mapping[str, Any], name: str, folder: Path, mend: str) -> None:
    if name in records:
        raise UsageError("--domain", f"'{name}' is in {folder} already", mend)
