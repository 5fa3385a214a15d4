"""The verbs of a domain's life: remove, rename, roll back, export and import; none trains."""

from __future__ import annotations

from pathlib import Path

from u2net3d import files, store
from u2net3d.cli.say import say
from u2net3d.errors import UsageError
from u2net3d.spec import domain_name
from u2net3d.store import domains


def remove(name: str, model: Path) -> None:
    """Takes a domain out of a model."""
    name = domain_name(name)
    domains.remove(model, name)
    say(f"{name} is out of {model}; `u2net3d rollback {name}` brings it back")


def rename(old: str, new: str, model: Path) -> None:
    """Gives a domain another name."""
    old, new = domain_name(old), domain_name(new)
    domains.rename(model, old, new)
    say(f"{old} is {new} now; its weights are the same")


def rollback(name: str, to: str | None, model: Path) -> None:
    """Brings an earlier version of a domain back."""
    name = domain_name(name)
    sha256 = domains.rollback(model, name, to)
    say(f"{name} is version {sha256[:12]} again")


def export(name: str, output: Path, half: bool, images: list[Path], model: Path) -> None:
    """Writes a domain into one file and says its size and, in half precision, its parity."""
    name = domain_name(name)
    if output.is_dir():
        output = output / f"{name}.safetensors"
    if images and not half:
        raise UsageError("-i", "is for the parity of half precision", "give --half, or no image")
    record = store.require_domain(store.read_domains(model), name, model)
    files.require_writable(output, "-o")
    measured = None
    if images:
        from u2net3d.evaluate.parity import parity

        measured = parity(model, name, images)
    said = domains.export(model, name, output, half=half, parity=measured)
    size = output.stat().st_size
    say(f"{output}: {name}, {size:,} bytes, for models of trunk {record.said.trunk_id[:12]}")
    if half:
        _say_parity(said.card[store.HALF])


def import_file(path: Path, name: str | None, model: Path) -> None:
    """Adds an exported domain to a model."""
    if not path.is_file():
        raise UsageError("FILE", f"{path} is no file", "name an exported domain")
    given = domains.import_file(model, path, domain_name(name) if name else None)
    say(f"{given} is in {model}; no other domain changed by a byte")


def _say_parity(measured: dict[str, object]) -> None:
    rounding = measured["largest_rounding"]
    assert isinstance(rounding, float)
    say(f"half precision: weights rounded by at most {rounding:.1e} of their tensor's largest")
    equal = measured.get("equal_labels")
    if isinstance(equal, float):
        say(f"on the image given: {equal:.4%} of the voxels have the same label as before")
    else:
        say("what that does to labels was not measured: give an image with -i")
