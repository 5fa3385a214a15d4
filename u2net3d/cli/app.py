"""The verbs and options of `u2net3d`; what they do stands in the files beside.

Only typer is imported here, so that `--help` is quick; every verb imports what it needs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="u2net3d",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="One 3-D segmentation network for many organs; add one without touching the others.",
)

Data = Annotated[Path, typer.Option("--data", help="Folder of the data sets.")]
ModelFolder = Annotated[Path, typer.Option("--model", help="Folder of the model.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Steps in all, over all domains.")
]
Time = Annotated[str | None, typer.Option("--time", help="Time to train, such as 30m or 2h.")]
Fold = Annotated[str, typer.Option("--fold", help="0 to 4, or all (train on every case).")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Prepared cases; the user's cache by default.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

DATA, MODEL = Path("data"), Path("model")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    debug: Debug = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """One 3-D segmentation network for many organs; add one without touching the others."""
    context.obj = {"debug": debug}
    if version:
        from u2net3d import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def train(
    domains: Annotated[str, typer.Option("--domains", help="Names, or name=PATH, with commas.")],
    data: Data = DATA,
    model: ModelFolder = MODEL,
    steps: Steps = None,
    time: Time = None,
    fold: Fold = "0",
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    cache: Cache = None,
) -> None:
    """Train a new model on one or more domains."""
    from u2net3d.cli import training

    training.train(
        domains.split(","),
        data,
        training.Options(model, steps, time, fold, device, resume, overwrite, seed, cache),
    )


@app.command("add-domain")
def add_domain(
    name: Annotated[str, typer.Argument(help="The domain, or name=PATH.")],
    data: Data = DATA,
    model: ModelFolder = MODEL,
    cases: Annotated[
        int | None, typer.Option("--cases", min=1, help="Learn from this many patients.")
    ] = None,
    init: Annotated[
        str, typer.Option("--init", help="fresh, mean, or a domain of the model to start from.")
    ] = "fresh",
    steps: Steps = None,
    time: Time = None,
    fold: Fold = "0",
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    cache: Cache = None,
) -> None:
    """Teach a model one more domain; its trunk stays frozen."""
    from u2net3d.cli import training

    options = training.Options(model, steps, time, fold, device, resume, overwrite, seed, cache)
    training.add_domain(name, data, cases, init, options)


@app.command()
def predict(
    images: Annotated[
        list[Path],
        typer.Option("-i", help="Image, folder, or one file per channel (-i repeated in order)."),
    ],
    output: Annotated[Path, typer.Option("-o", help="Label file, or folder of labels.")],
    domain: Annotated[str, typer.Option("--domain", help="Which domain's labels.")],
    model: ModelFolder = MODEL,
    device: Device = "auto",
    overlap: Annotated[
        float, typer.Option("--overlap", min=0, max=0.95, help="Share of a patch.")
    ] = 0.5,
    tta: Annotated[bool, typer.Option("--tta/--no-tta", help="Average over reflections.")] = False,
) -> None:
    """Segment a volume, or every volume of a folder."""
    from u2net3d.cli import predicting

    predicting.predict(images, output, domain, model, device, overlap, tta)


@app.command()
def evaluate(
    pred: Annotated[Path, typer.Option("--pred", help="Folder of predicted labels.")],
    ref: Annotated[Path, typer.Option("--ref", help="Folder of reference labels.")],
    domain: Annotated[str | None, typer.Option("--domain", help="Names the labels.")] = None,
    model: ModelFolder = MODEL,
    tolerance_mm: Annotated[
        float, typer.Option("--tolerance-mm", min=0, help="Tolerance of the NSD.")
    ] = 2.0,
    json: Annotated[Path | None, typer.Option("--json", help="Write JSON here.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write CSV here.")] = None,
) -> None:
    """Compare labels with reference labels: Dice, IoU, HD95, NSD."""
    from u2net3d.cli import reading

    reading.evaluate(pred, ref, domain, model, tolerance_mm, json, csv)


@app.command()
def domains(model: ModelFolder = MODEL, json: Json = False) -> None:
    """List what a model can do."""
    from u2net3d.cli import reading

    reading.domains(model, json)


@app.command()
def verify(model: ModelFolder = MODEL) -> None:
    """Recompute every hash of a model; exit 1 on any difference."""
    from u2net3d.cli import reading

    reading.verify(model)


def run(arguments: list[str]) -> int:
    """Runs a command; gives the exit code. Errors are one line on stderr."""
    from u2net3d.errors import U2Net3dError

    debug = "--debug" in arguments or os.environ.get("U2NET3D_DEBUG") == "1"
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments or ["--help"], prog_name="u2net3d", standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.TyperException as error:
        return _usage(error)
    except U2Net3dError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except Exception as error:
        if debug:
            raise
        return _unforeseen(error)
    if code == 130:  # what typer makes of Ctrl-C
        print("stopped — a training that has a checkpoint goes on with --resume", file=sys.stderr)  # noqa: T201
    return code if isinstance(code, int) else 0


def _usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "u2net3d"
    what = " ".join(error.format_message().split()).rstrip(".")
    print(f"error: {where}: {what} — see `{where} --help`", file=sys.stderr)  # noqa: T201
    return 2


def _unforeseen(error: Exception) -> int:
    """A fault of the disk, or of this program: one line all the same."""
    where, mend = "u2net3d", "give --debug for the traceback, and report it"
    what = f"{type(error).__name__}: " + " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename and error.strerror:
        where, what, mend = str(error.filename), error.strerror, "check the place and its rights"
    print(f"error: {where}: {what} — {mend}", file=sys.stderr)  # noqa: T201
    return 1
