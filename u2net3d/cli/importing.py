"""The verb `import-reference`."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from u2net3d import files, store
from u2net3d.cli.say import say
from u2net3d.errors import UsageError
from u2net3d.spec import DomainSpec, domain_name
from u2net3d.store import official, official_domains


def import_reference(
    checkpoint: Path, domains: str | None, plan: Path | None, model: Path, overwrite: bool
) -> None:
    """Writes a model of the weights in a checkpoint of the official code."""
    if (domains is None) == (plan is None):
        mend = "name the domains of its --tasks with --domains, or describe them with --plan"
        raise UsageError("--domains", "one of --domains and --plan is needed", mend)
    if (model / store.MANIFEST).exists() and not overwrite:
        mend = "name another, or give --overwrite"
        raise UsageError("--model", f"{model} holds a model already", mend)
    files.require_writable(model, "--model")
    found = official.read_official(checkpoint)
    if plan is not None:
        specs = _described(plan)
    else:
        names = (domains or "").split(",")
        alone = found.adapter == "independent"
        specs = [
            official_domains.official_domain(name, found.stages, independent=alone)
            for name in names
        ]
    if len({spec.name for spec in specs}) < len(specs):
        raise UsageError("--domains", "a name is given twice", "name each domain once")
    manifest = official.import_reference(found, specs, model)
    say(f"{model}: {manifest.model.preset} of {found.base_channels} channels")
    for spec in specs:
        size = "×".join(map(str, spec.plan.patch_size))
        spacing = "×".join(f"{mm:.3g}" for mm in spec.plan.spacing_mm)
        say(f"{spec.name}: patches of {size} voxels of {spacing} mm")


def _described(plan: Path) -> list[DomainSpec]:
    """The specifications in a JSON file, in its order."""
    try:
        specs = TypeAdapter(list[DomainSpec]).validate_json(plan.read_bytes())
    except OSError as error:
        raise UsageError("--plan", f"{plan} cannot be read", "name a JSON file") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        mend = "write a list of specifications as in run.json of a training"
        raise UsageError("--plan", f"{plan}: {where}: {fault['msg']}", mend) from error
    for spec in specs:
        if domain_name(spec.name) != spec.name:
            mend = f"write {domain_name(spec.name)}"
            raise UsageError("--plan", f"'{spec.name}' is no name of a domain", mend)
    return specs
