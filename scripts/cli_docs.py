"""docs/cli.md: every verb and option of `u2net3d`, read off the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.main import get_command

from u2net3d import errors, files
from u2net3d.cli.app import app
from u2net3d.spec import STEPS_PER_DOMAIN, TrainSpec

PLACE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

HEAD = """\
# Command line

Written by `scripts/cli-docs` from the commands themselves; a test keeps it current.

Results go to stdout; progress and errors go to stderr. An error is one line,
`error: <where>: <what> — <mend>`. `--debug` (or `U2NET3D_DEBUG=1`) shows its traceback.
`u2net3d VERB --help` prints the options of a verb, `u2net3d --version` the version.
`python -m u2net3d` is the same program.
"""

# What an option without a value stands for, where the command line cannot say it itself.
ABSENT = {
    "steps": f"{STEPS_PER_DOMAIN} for each domain",
    "time": "steps count",
    "cache": "the user's cache folder",
    "cases": "all of them",
}

NOTES = {
    "train": f"""\
`--steps` or `--time`, not both: a bare number is minutes, `90s`, `30m` and `1.5h` say their unit.
Without `--time` the expected duration is printed first. `--fold` chooses the validation cases (see
[formats](formats.md#splits)); with `--fold all` there are none, and the last step is kept instead
of the best. An existing model is refused without `--resume` or `--overwrite`. `--resume` goes on
from the last checkpoint and wants the same data, domains, seed, fold and budget. The whole folder
of `--model` is described in [formats](formats.md#model-folder). Whole validation cases are
segmented {TrainSpec().validations} times in a run.
""",
    "add-domain": """\
`--cases` counts patients. `--init mean` starts from the mean of the model's banks, a domain's name
from that one; stem and heads always start fresh. See [add a domain](add-a-domain.md).
""",
    "predict": """\
`-i` is a file (3-D, or 4-D with the channels last), a folder, or is repeated: one file per channel,
in order. A folder of `case_0000.nii.gz`, `case_0001.nii.gz` holds the channels of one case. The
output is NIfTI (`.nii.gz` or `.nii`) on the input's own grid, see [geometry](geometry.md). Of a
folder every case is tried: those that fail are named, and the exit code is 3. `--tta` averages over
the reflections that keep the domain's labels true.
""",
    "evaluate": """\
Compares the files that have one name in both folders, whatever their suffix. `--domain` takes the
names of the labels from `--model`. Definitions and both file formats: see
[formats](formats.md#evaluation).
""",
    "domains": """\
`weights` are those of the whole bank, `adapters` those without stem and heads.
""",
    "verify": """\
Also says which domain files were put into the folder by hand.
""",
}


def document() -> str:
    """The whole of docs/cli.md."""
    group: Any = get_command(app)
    raw = {command.callback.__name__: command.callback for command in app.registered_commands}
    parts = [HEAD, exit_codes()]
    for name, command in group.commands.items():
        hints = get_type_hints(raw[name.replace("-", "_")])
        parts.append(verb(name, command, hints))
    return "\n".join(parts)


def exit_codes() -> str:
    """The table of exit codes, from the exceptions that carry them."""
    rows = {0: ["done"], 130: ["stopped by Ctrl-C"]}
    for kind in errors.U2Net3dError.__subclasses__():
        said = (kind.__doc__ or "").splitlines()[0].rstrip(".")
        rows.setdefault(kind.exit_code, []).append(said[0].lower() + said[1:])
    rows[1].append("any other failure")
    table = [f"| {code} | {'; '.join(rows[code])} |" for code in sorted(rows)]
    return "\n".join(["| exit code | meaning |", "|---|---|", *table, ""])


def verb(name: str, command: Any, hints: dict[str, Any]) -> str:
    """The chapter of one verb."""
    rows = [row(option, hints[option.name]) for option in command.params]
    table = ["| option | default | |", "|---|---|---|", *rows, ""]
    note = [NOTES[name]] if name in NOTES else []
    synopsis = " ".join(["u2net3d", name, *usage(command.params, hints)])
    lines = [f"## {name}", "", command.help, "", "```", f"{synopsis}", "```", "", *table, *note]
    return "\n".join(lines)


def usage(params: list[Any], hints: dict[str, Any]) -> Iterator[str]:
    """What must be typed, then `[options]` where there is more."""
    for option in params:
        if option.required:
            yield spelling(option, hints[option.name])
    if not all(option.required for option in params):
        yield "[options]"


def row(option: Any, hint: Any) -> str:
    """One line of a verb's table."""
    default = "required" if option.required else shown(option)
    words = option.help.rstrip(".") + limits(option)
    return f"| `{spelling(option, hint)}` | {default} | {words} |"


def spelling(option: Any, hint: Any) -> str:
    """`--steps N`, `--tta/--no-tta`, `NAME`."""
    names = "/".join([*option.opts, *option.secondary_opts])
    if not names.startswith("-"):
        return names.upper()
    kinds = {*get_args(hint), hint}
    if bool in kinds:
        return names
    value = "PATH" if Path in kinds else "N" if int in kinds else "X" if float in kinds else "TEXT"
    return f"{names} {value}"


def shown(option: Any) -> str:
    """The default of an option that need not be given."""
    if option.default is None:
        return ABSENT.get(option.name, "none")
    if isinstance(option.default, bool):
        return "yes" if option.default else "no"
    return f"`{option.default}`"


def limits(option: Any) -> str:
    """` (0 to 0.95)`, ` (at least 1)` or nothing."""
    low, high = getattr(option, "min", None), getattr(option, "max", None)
    if low is None and high is None:
        return ""
    return f" (at least {low})" if high is None else f" ({low or 0} to {high})"


if __name__ == "__main__":
    files.write_text(PLACE, document())
