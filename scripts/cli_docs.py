"""docs/cli.md: every verb and option of `u2net3d`, read off the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.main import get_command

from u2net3d import errors, files
from u2net3d.cli.app import app
from u2net3d.infer.predict import Options
from u2net3d.spec import PRESET_STEPS, STEPS_PER_DOMAIN, TrainSpec

PLACE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

HEAD = """\
# Command line

Written by `scripts/cli-docs` from the commands themselves; a test keeps it current.

Results go to stdout; progress and errors go to stderr. An error is one line,
`error: <where>: <what> — <mend>`. `--debug` (or `U2NET3D_DEBUG=1`) shows its traceback.
`u2net3d VERB --help` prints the options of a verb, `u2net3d --version` the version.
`python -m u2net3d` is the same program.

Where no `--model` is named and there is no folder `model` here, `predict`, `evaluate`, `domains`,
`card`, `models` and `verify` read the model that ships with the package, if one does, and say so on
stderr in one line. A folder `model` that exists always wins.
"""

# What an option without a value stands for, where the command line cannot say it itself.
ABSENT = {
    "steps": f"{STEPS_PER_DOMAIN} for each domain, "
    + ", ".join(f"of `{preset}` {steps}" for preset, steps in PRESET_STEPS.items()),
    "time": "steps count",
    "cache": "the user's cache folder",
    "cases": "all of them",
    "init": "its own weights",
    "to": "the last other version",
    "name": "its own",
    "overlap": f"{Options().overlap}",
    "tta": "no",
    "max_memory": "256 MB for sums",
    "preset": "every preset",
    "level": "the deepest",
    "loss": "the preset's",
    "model": "`model`, else what ships",
    "output": "stdout",
}

NOTES = {
    "doctor": """\
A line per item on stdout: `ok`, `note` (works, but slower or without something) or `wrong`, then
what was found and what to do. The self-check runs a training step of a small network, in float32
the way training runs it and in float64 by torch alone, and compares outputs and gradients. `--json`
prints `{"wrong": N, "items": [{"name", "status", "said"}]}`.
""",
    "train": f"""\
`--preset tiny` takes minutes on a laptop, `base` is the usual one, `large` is for a GPU and a day
(see [design](design.md#presets)); others are networks of papers, and any may be changed:
`unetpp:stages=4:block=residual` ([families](families.md), with every field and loss). `--steps` or
`--time`, not both: a bare number is minutes, `90s`, `30m` and `1.5h` say their unit. Without
`--time` the expected duration is printed first. `--fold` chooses the validation
cases (see [formats](formats.md#splits));
with `--fold all` there are none, and the last step is kept instead of the best. `--fold 0-4` or
`--fold 0,2` trains a whole model per fold, see [formats](formats.md#folds). An existing model is
refused without `--resume` or `--overwrite`.
`--resume` goes on from the last checkpoint and wants the same data, domains, seed, fold and budget.
The whole folder of `--model` is described in [formats](formats.md#model-folder). Whole validation
cases are segmented up to {TrainSpec().validations} times in a run (with `--time` never oftener than
training has five times as long between). `--elastic` deforms every patch as
published for U-Net, see [design](design.md#elastic-deformation). `--loss border_ce` weighs most
what lies between objects that nearly touch, see [design](design.md#border-weights).
""",
    "add-domain": """\
Where neither `--model` is given nor `./model` is there, `./model` begins as a copy of the model
that ships with the package, if one does; stderr says so. `--cases` counts patients. `--init`
says what the new bank begins from: `nearest` from the model's bank that fits best, with its stem
where the channels are the same and its heads of labels of the same name; a domain's name likewise
from that one; `mean` from the mean of all, with fresh stem and heads; `fresh` from nothing. To a
folder of folds the domain is added fold by fold. See [add a domain](add-a-domain.md).
""",
    "update-domain": """\
Without `--init` the bank goes on from its own weights with its own plan; with it, it begins anew.
Patients stay on the side of the split on which they were seen. The new bank is taken if it is not
worse on the same validation cases, or with `--force`. See [add a domain](add-a-domain.md#update).
""",
    "rollback": """\
After `update-domain` a second `rollback` goes forward again. A removed domain comes back too.
""",
    "export-domain": """\
`--half` writes float16 and states what that changes: the rounding of the weights and, on an image
given with `-i`, the share of voxels with the same label. See [formats](formats.md#domain-file).
""",
    "import-reference": """\
`CHECKPOINT` holds tensors alone: a state dict of
[u2net_torch](https://github.com/huangmozhilv/u2net_torch), bare or as `model_state_dict`. What that
code saves by itself holds whole Python objects too and is refused; where you trust the file, take
the state dict out of it with the official code on the path:

    content = torch.load("its.pth.tar", weights_only=False)
    torch.save(content["model_state_dict"], "state.pth")

Adapter, width and depth are read off the tensors. A net without adapters becomes the preset
`reference-shared` where it has several domains and `reference-independent` where it has one.
`--domains` knows the six of the official code (heart, liver, hippocampus, prostate, pancreas,
spleen) with their spacing, patch, channels, labels and normalisation: an independent net sees its
own patch as it is, every other one a cube of 128 voxels. Which it is, is printed. The tensors of a
shared net that was trained further on one domain alone look independent: for it, for other domains
and for other depths `--plan` gives a JSON list of specifications, each as `run.json` of a
training holds it. See
[design](design.md#the-official-architecture).
""",
    "predict": """\
`-i` is a file (3-D, or 4-D with the channels last), a folder, or is repeated: one file per channel,
in order. A folder of `case_0000.nii.gz`, `case_0001.nii.gz` holds the channels of one case. The
output is NIfTI (`.nii.gz` or `.nii`) on the input's own grid, see [geometry](geometry.md). Of a
folder every case is tried: those that fail are named, and the exit code is 3. `--tta` averages over
the reflections that keep the domain's labels true. `--no-cleanup` keeps every component of labels
of which the domain's card (`largest_component`) says that the largest one alone is better. `--fast`
is `--overlap 0.25 --no-tta`, `--best` is `--overlap 0.5 --tta`; what is typed beside them is kept.

`--level` is for networks that answer at several depths (UNet++): a number from 1 on runs only what
that level needs, `auto` takes the smallest one within 0.01 validation Dice of the deepest, as the
domain's card has it, `mean` averages all of them. Networks without levels refuse it.

Sums of tiles, and probabilities, that are larger than `--max-memory` leaves room for lie in a
temporary file in `TMPDIR`, which has no name; labels are the same. The image itself, its label and
the network must fit into memory.

Beside each label lies its record, `<case>.json`: hashes of image, model and results, options and
versions. By it the same command goes on after a kill: a label that would come out the same is
skipped. One that was made otherwise, was changed since or has no record is left as it is and the
case is called failed; `--overwrite` replaces it, `--skip` keeps any label that is there (for a
folder that fills up, seen by one version after another). Several runs may share an output folder:
each case is done by one of them. A case at which a run died is taken over, at once on the same
machine, after three minutes without a sign of life from another machine or container. Ctrl-C and
SIGTERM stop a folder after the case at hand.

`--statistics` writes volumes and intensities of every label of every case, `--preview` a picture
`<case>.png` of three planes, `--probabilities` the softmax of every class as
`<case>.probabilities.nii.gz`; all are described in [formats](formats.md#predictions).
""",
    "evaluate": """\
Compares the files that have one name in both folders, whatever their suffix. `--domain` takes the
names of the labels from `--model`. Definitions and both file formats: see
[formats](formats.md#evaluation). `--cross-validated` takes a folder of folds as `--model` in the
place of `--pred` and `--ref`: every validation case is predicted by the fold that never saw it.
`--metrics` adds the errors of the ISBI 2012 challenge for objects that touch; where probabilities
lie beside a prediction (`predict --probabilities`) each is the best over nine thresholds, and the
line below the table says of how many cases that is so. A warping error of 0 says that the topology
is right, not that the mask is: read it beside Dice.
""",
    "check": """\
Looks at every data set of `--data`, or at those named, before any training: files that are missing,
not listed or listed twice, files that cannot be read, image and label (or channels) that differ in
shape or affine, wrong numbers of channels, values that `dataset.json` does not name, NaN, labels
without foreground, the same voxels under two names, labels of the left and the right that do not
lie so by the headers (see [geometry](geometry.md#headers-that-name-the-wrong-axes)), `numTraining`,
and in `splits_final.json` unknown cases and patients on both sides. Each finding is a line on
stdout, `fault: <file>: <what> — <mend>` or `warning: ...`; warnings alone leave the exit code 0. A
summary follows with memory, disk and time for training and prediction with the preset `base`, from
one trial step on this machine. Nothing is written. `--json` prints the same as
`{"faults": N, "warnings": N, "domains": {name: {"cases", "without_label", "faults": [{"where",
"what", "mend"}], "warnings", "facts", "expected"}}}`.
""",
    "download": """\
`NAME` is a data set of the [Decathlon](http://medicaldecathlon.com), by domain name. The archive is
held against its published MD5, and everything in it is looked at before anything is written. A
download that broke off is taken up by the same command. It needs free room for the archive and its
content; a data set that is there already is never touched. `--mirror https://host/folder` asks that
folder for `TaskNN_Name.tar` instead of the publisher; several are asked in turn. Prints the new
folder.
""",
    "card": """\
Without `-o` the Markdown of one domain, or of the model, goes to stdout. With it the folder gets
`<domain>.md`, `.json` and `.png` (Dice of every validation case, label by label) of one domain or
of all, and `model-card.md` and `.json` of the model. What the model does not know, such as a
licence that `dataset.json` did not state, is said to be unknown. See [formats](formats.md#cards).
""",
    "domains": """\
`weights` are those of the whole bank, `adapters` those without stem and heads.
""",
    "models": """\
Counted while the network runs on shapes alone, so any patch takes a second and no memory: every
convolution of one pass in prediction, padding included; norms, activations and pooling are not.
`pointwise` is the share of the multiply-adds in 1×1×1 convolutions, `of dense` what the separable
units take of what dense convolutions in their place would, counted, beside 1/N + 1/k of their N
channels and kernels of k voxels. Without `--domain` voxels are cubes and strides follow the rules
of planning, which may enlarge the patch. `--json` prints `{preset: {"family", "base_channels",
"channels", "classes", "strides", "kernels", "stages", "patch", "seen" (by a network without padding
more), "trunk_weights", "bank_weights", "adapter_weights", "multiply_adds", "flops" (twice that),
"multiply_adds_by_kind", "pointwise_share", "separable"}}`.
""",
    "verify": """\
Also checks the ledger and the kept versions, and says which domain files were put in by hand.
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
    rows = {0: ["done"], 130: ["stopped by Ctrl-C"], 143: ["stopped by SIGTERM"]}
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
    given = {*get_args(hint), hint}
    kinds = given | {inner for kind in given for inner in get_args(kind)}
    if bool in kinds:
        return names
    value = "PATH" if Path in kinds else "N" if int in kinds else "X" if float in kinds else "TEXT"
    return f"{names} {value}"


def shown(option: Any) -> str:
    """The default of an option that need not be given."""
    if isinstance(option.show_default, str):
        return option.show_default
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
