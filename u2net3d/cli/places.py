"""Which model a verb works on where none is named: ./model, or the one that ships."""

from __future__ import annotations

from pathlib import Path

from u2net3d import store
from u2net3d.cli.say import say
from u2net3d.errors import UsageError


def to_read(named: Path | None) -> Path:
    """The model that is named; else ./model; else, which is said, the one that ships.

    Where none ships it is ./model all the same, and who reads it says what is missing.
    """
    model = named or store.default_model()
    if named is None and model == store.shipped():
        trunk = store.read_manifest(model).trunk_id[:12]
        say(f"no ./model here: the model that ships with u2net3d is used (trunk {trunk})")
    return model


def to_predict_with(model: Path, domain: str) -> store.DomainRecord:
    """The record of a domain of `model`, or of its first fold.

    Raises UsageError where it has none of that name, and says if the model that ships does.
    """
    records, ships = store.read_domains(store.models_in(model)[0]), store.shipped()
    if domain not in records and ships and domain in store.read_domains(ships):
        mend = f"the model that ships with u2net3d has it: --model {ships}"
        raise UsageError("--domain", f"'{domain}' is not in {model}", mend)
    return store.require_domain(records, domain, model)


def begin(source: Path, model: Path, domain: str, *, replacing: bool) -> None:
    """Makes `model` a copy of the one that ships and says so.

    Raises UsageError, with nothing copied, where that knows the domain that is to be added.
    """
    if domain in store.read_domains(source) and not replacing:
        mend = "predict with it, or give yours another name (name=PATH), or replace it: --overwrite"
        raise UsageError("domain", f"{domain} is in the model that ships with u2net3d", mend)
    store.copy_shipped(source, model)
    say(f"{model}: begun as a copy of the model that ships with u2net3d, its licences in NOTICE")
