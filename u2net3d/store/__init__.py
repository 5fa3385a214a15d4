"""The model folder: manifest.json, trunk.safetensors, domains/<name>.safetensors, ledger.jsonl.

The metadata of a domain file is the truth about that domain, names the trunk it was trained on and
carries a hash of the file's content; the manifest lists names, files and SHA-256. A domain file
that was put into the folder by hand is used when it names this trunk. torch is imported only where
weights are read or written.
"""

from __future__ import annotations

from u2net3d.store.folder import (
    DomainRecord,
    add_bank,
    all_listed,
    data_sha256,
    load,
    not_of_training,
    read_domains,
    read_specs,
    remarks,
    require_domain,
    trained_on,
    verify,
)
from u2net3d.store.folds import FOLDS, Folds, fold_folder, models_in, read_folds, write_folds
from u2net3d.store.ledger import LEDGER
from u2net3d.store.manifest import (
    DOMAINS,
    MANIFEST,
    PREVIOUS,
    TRUNK,
    FileEntry,
    Manifest,
    domain_files,
    place_of,
    read_manifest,
)
from u2net3d.store.saving import save_domain, save_model, tidy
from u2net3d.store.shipping import copy_shipped, default_model, require_own, shipped
from u2net3d.store.weights import HALF, DomainFile, Levels, tensors_id

__all__ = [
    "DOMAINS",
    "FOLDS",
    "HALF",
    "LEDGER",
    "MANIFEST",
    "PREVIOUS",
    "TRUNK",
    "DomainFile",
    "DomainRecord",
    "FileEntry",
    "Folds",
    "Levels",
    "Manifest",
    "add_bank",
    "all_listed",
    "copy_shipped",
    "data_sha256",
    "default_model",
    "domain_files",
    "fold_folder",
    "load",
    "models_in",
    "not_of_training",
    "place_of",
    "read_domains",
    "read_folds",
    "read_manifest",
    "read_specs",
    "remarks",
    "require_domain",
    "require_own",
    "save_domain",
    "save_model",
    "shipped",
    "tensors_id",
    "tidy",
    "trained_on",
    "verify",
    "write_folds",
]
