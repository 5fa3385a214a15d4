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
AnyModel = Annotated[Path | None, typer.Option("--model", help="Folder of the model.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Steps in all, over all domains.")
]
Time = Annotated[str | None, typer.Option("--time", help="Time to train, such as 30m or 2h.")]
Fold = Annotated[str, typer.Option("--fold", help="0 to 4, some (0,2 or 0-4), or all.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Prepared cases; the user's cache by default.")
]
Elastic = Annotated[bool, typer.Option("--elastic", help="Deform every patch, as for U-Net.")]
Loss = Annotated[
    str | None,
    typer.Option("--loss", help="dice_ce, border_ce, lovasz, focal or lovasz_focal."),
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
    preset: Annotated[
        str, typer.Option("--preset", help="The network; `u2net3d models` lists them.")
    ] = "base",
    steps: Steps = None,
    time: Time = None,
    fold: Fold = "0",
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    cache: Cache = None,
    elastic: Elastic = False,
    loss: Loss = None,
) -> None:
    """Train a new model on one or more domains."""
    from u2net3d.cli import training

    options = training.Options(
        model, steps, time, fold, device, resume, overwrite, seed, cache, elastic, loss
    )
    training.train(domains.split(","), data, preset, options)


@app.command("add-domain")
def add_domain(
    name: Annotated[str, typer.Argument(help="The domain, or name=PATH.")],
    data: Data = DATA,
    model: AnyModel = None,
    cases: Annotated[
        int | None, typer.Option("--cases", min=1, help="Learn from this many patients.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="nearest, fresh, mean, or a domain of the model.",
            show_default="nearest; fresh without other domains",
        ),
    ] = None,
    steps: Steps = None,
    time: Time = None,
    fold: Fold = "0",
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    cache: Cache = None,
    elastic: Elastic = False,
    loss: Loss = None,
) -> None:
    """Teach a model one more domain; its trunk stays frozen."""
    from u2net3d.cli import training

    options = training.Options(
        model or MODEL, steps, time, fold, device, resume, overwrite, seed, cache, elastic, loss
    )
    training.add_domain(name, data, cases, init, options, begins=model is None)


@app.command("update-domain")
def update_domain(
    name: Annotated[str, typer.Argument(help="The domain, or name=PATH.")],
    data: Data = DATA,
    model: ModelFolder = MODEL,
    init: Annotated[
        str | None,
        typer.Option("--init", help="Begin anew: fresh, nearest, mean, or a domain."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take a worse bank too.")] = False,
    steps: Steps = None,
    time: Time = None,
    fold: Fold = "0",
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    cache: Cache = None,
    elastic: Elastic = False,
    loss: Loss = None,
) -> None:
    """Train a domain further when cases arrive; the old bank is kept."""
    from u2net3d.cli import training

    options = training.Options(
        model, steps, time, fold, device, resume, overwrite, seed, cache, elastic, loss
    )
    training.update_domain(name, data, init, force, options)


@app.command("remove-domain")
def remove_domain(
    name: Annotated[str, typer.Argument(help="The domain.")], model: ModelFolder = MODEL
) -> None:
    """Take a domain out of a model; `rollback` brings it back."""
    from u2net3d.cli import domains

    domains.remove(name, model)


@app.command("rename-domain")
def rename_domain(
    old: Annotated[str, typer.Argument(help="The domain.")],
    new: Annotated[str, typer.Argument(help="Its new name.")],
    model: ModelFolder = MODEL,
) -> None:
    """Give a domain another name."""
    from u2net3d.cli import domains

    domains.rename(old, new, model)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The domain.")],
    to: Annotated[
        str | None, typer.Option("--to", help="Beginning of a version's SHA-256.")
    ] = None,
    model: ModelFolder = MODEL,
) -> None:
    """Bring back the version of a domain before the present one."""
    from u2net3d.cli import domains

    domains.rollback(name, to, model)


@app.command("export-domain")
def export_domain(
    name: Annotated[str, typer.Argument(help="The domain.")],
    output: Annotated[Path, typer.Option("-o", help="File to write, or a folder for it.")],
    half: Annotated[bool, typer.Option("--half", help="In half precision.")] = False,
    images: Annotated[
        list[Path] | None,
        typer.Option("-i", help="Image to measure half precision on (repeat for channels)."),
    ] = None,
    model: ModelFolder = MODEL,
) -> None:
    """Write a domain into one file, to be sent."""
    from u2net3d.cli import domains

    domains.export(name, output, half, images or [], model)


@app.command("import-domain")
def import_domain(
    file: Annotated[Path, typer.Argument(help="An exported domain.")],
    name: Annotated[str | None, typer.Option("--as", help="Give it this name.")] = None,
    model: ModelFolder = MODEL,
) -> None:
    """Add an exported domain to a model of the same trunk."""
    from u2net3d.cli import domains

    domains.import_file(file, name, model)


@app.command("import-reference")
def import_reference(
    checkpoint: Annotated[Path, typer.Argument(help="A state dict of the official code.")],
    domains: Annotated[
        str | None, typer.Option("--domains", help="Those of its --tasks, in that order.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="JSON list that describes other domains.")
    ] = None,
    model: ModelFolder = MODEL,
    overwrite: Overwrite = False,
) -> None:
    """Make a model of a checkpoint of u2net_torch, the official code of 3D U2-Net."""
    from u2net3d.cli import importing

    importing.import_reference(checkpoint, domains, plan, model, overwrite)


@app.command()
def predict(
    images: Annotated[
        list[Path],
        typer.Option("-i", help="Image, folder, or one file per channel (-i repeated in order)."),
    ],
    output: Annotated[Path, typer.Option("-o", help="Label file, or folder of labels.")],
    domain: Annotated[str, typer.Option("--domain", help="Which domain's labels.")],
    model: AnyModel = None,
    device: Device = "auto",
    engine: Annotated[
        str, typer.Option("--engine", help="auto, torch, or openvino (on a CPU).")
    ] = "auto",
    fast: Annotated[bool, typer.Option("--fast", help="Fewer tiles, no reflections.")] = False,
    best: Annotated[bool, typer.Option("--best", help="More tiles, with reflections.")] = False,
    overlap: Annotated[
        float | None, typer.Option("--overlap", min=0, max=0.95, help="Share of a patch.")
    ] = None,
    tta: Annotated[
        bool | None, typer.Option("--tta/--no-tta", help="Average over reflections.")
    ] = None,
    cleanup: Annotated[
        bool, typer.Option("--cleanup/--no-cleanup", help="Remove strays where that helps.")
    ] = True,
    level: Annotated[
        str | None, typer.Option("--level", help="Of a UNet++: 1 (quickest) on, auto or mean.")
    ] = None,
    overwrite: Annotated[
        bool | None, typer.Option("--overwrite/--skip", help="Replace, or keep, what is there.")
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option("--statistics", help="Write volumes to this .json or .csv.")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="A PNG beside each label.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="A 4-D file beside each label.")
    ] = False,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help="Keep within this, such as 800M or 4G.")
    ] = None,
) -> None:
    """Segment a volume, or every volume of a folder."""
    from u2net3d.cli import places, predicting

    options = predicting.options_of(fast, best, overlap, tta, cleanup, level)
    wanted = (overwrite, statistics, preview, probabilities)
    read = places.to_read(model)
    asked = predicting.Asked(domain, read, device, engine, *wanted, max_memory=max_memory)
    predicting.predict(images, output, asked, options)


@app.command()
def evaluate(
    pred: Annotated[Path | None, typer.Option("--pred", help="Folder of predicted labels.")] = None,
    ref: Annotated[Path | None, typer.Option("--ref", help="Folder of reference labels.")] = None,
    domain: Annotated[str | None, typer.Option("--domain", help="Names the labels.")] = None,
    model: AnyModel = None,
    tolerance_mm: Annotated[
        float, typer.Option("--tolerance-mm", min=0, help="Tolerance of the NSD.")
    ] = 2.0,
    json: Annotated[Path | None, typer.Option("--json", help="Write JSON here.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write CSV here.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help="Of objects besides: pixel, rand, warping, with commas."),
    ] = None,
    cross_validated: Annotated[
        bool,
        typer.Option("--cross-validated", help="Each case by the fold that never saw it."),
    ] = False,
    data: Data = DATA,
    device: Device = "auto",
) -> None:
    """Compare labels with reference labels: Dice, IoU, HD95, NSD."""
    from u2net3d.cli import reading
    from u2net3d.errors import UsageError

    if cross_validated:
        if metrics is not None:
            mend = "predict the cases, then give --pred and --ref"
            raise UsageError("--metrics", "is not for --cross-validated", mend)
        reading.cross_validated(domain, data, model or MODEL, device, tolerance_mm, json, csv)
        return
    reading.evaluate(pred, ref, domain, model, tolerance_mm, json, csv, metrics)


@app.command()
def check(
    data: Data = DATA,
    domains: Annotated[
        str | None, typer.Option("--domains", help="Names, or name=PATH, with commas.")
    ] = None,
    cache: Cache = None,
    json: Json = False,
) -> None:
    """Find every fault of data sets before any training; exit 1 on any fault."""
    from u2net3d.cli import checking

    checking.check_data(data, domains.split(",") if domains is not None else None, cache, json)


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="The data set, such as hippocampus.")],
    data: Data = DATA,
    mirror: Annotated[
        list[str] | None,
        typer.Option("--mirror", help="Web folder that holds the archives (repeat for more)."),
    ] = None,
) -> None:
    """Fetch a data set of the Medical Segmentation Decathlon."""
    from u2net3d.cli import downloading

    downloading.download_data(name, data, mirror or [])


@app.command()
def domains(model: AnyModel = None, json: Json = False) -> None:
    """List what a model can do."""
    from u2net3d.cli import places, reading

    reading.domains(places.to_read(model), json)


@app.command()
def card(
    domain: Annotated[str | None, typer.Argument(help="One domain; else the model.")] = None,
    model: AnyModel = None,
    output: Annotated[
        Path | None, typer.Option("-o", help="Folder for Markdown, JSON and pictures.")
    ] = None,
) -> None:
    """Say what a domain learnt from, how good it is, and what it is for."""
    from u2net3d.cli import cards

    cards.card(domain, model, output)


@app.command()
def models(
    preset: Annotated[str | None, typer.Option("--preset", help="One network alone.")] = None,
    patch: Annotated[str, typer.Option("--patch", help="Voxels: D,H,W.")] = "128,128,128",
    channels: Annotated[int, typer.Option("--channels", min=1, help="Of the image.")] = 1,
    classes: Annotated[
        int, typer.Option("--classes", min=2, help="Labels, background included.")
    ] = 2,
    domain: Annotated[
        str | None, typer.Option("--domain", help="A domain of --model in place of these three.")
    ] = None,
    model: AnyModel = None,
    json: Json = False,
) -> None:
    """Say what each preset costs: weights, and multiply-adds for a patch."""
    from u2net3d.cli import models as costs

    costs.models(preset, patch, channels, classes, domain, model, json)


@app.command()
def verify(model: AnyModel = None) -> None:
    """Recompute every hash of a model; exit 1 on any difference."""
    from u2net3d.cli import places, reading

    reading.verify(places.to_read(model))


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this machine has and which paths run, and why; exit 1 if something is wrong."""
    from u2net3d.cli import doctor as looked

    looked.doctor(json)


def run(arguments: list[str]) -> int:
    """Runs a command; gives the exit code. Errors are one line on stderr."""
    from u2net3d.errors import Stopped, U2Net3dError

    debug = "--debug" in arguments or os.environ.get("U2NET3D_DEBUG") == "1"
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        verbs = typer.main.get_command(app)
        with verbs.make_context("u2net3d", arguments or ["--help"]) as context:
            verbs.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.TyperException as error:
        return _usage(error)
    except U2Net3dError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped()
        print(stopped, file=sys.stderr)  # noqa: T201
        return stopped.exit_code
    except Exception as error:
        if debug:
            raise
        return _unforeseen(error)
    return 0


def _usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "u2net3d"
    what = " ".join(error.format_message().split()).rstrip(".")
    print(f"error: {where}: {what} — see `{where} --help`", file=sys.stderr)  # noqa: T201
    return 2


def _unforeseen(error: Exception) -> int:
    """A fault of the disk, or of this program: one line all the same."""
    from u2net3d.errors import one_line

    if isinstance(error, BrokenPipeError):  # who reads stdout has enough, as `head` does
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        return 1
    where, mend = "u2net3d", "give --debug for the traceback, and report it"
    what = f"{type(error).__name__}: " + " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename and error.strerror:
        where, what, mend = str(error.filename), error.strerror, "check the place and its rights"
    print(one_line(f"error: {where}: {what} — {mend}"), file=sys.stderr)  # noqa: T201
    return 1
