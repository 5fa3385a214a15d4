"""What a training step costs beside the network: sampling, augmentation, loss, optimiser, guard.

CPU milliseconds of all threads, medians, on drawn noise in a memory map as the cache of prepared
cases gives it. A transform that happens with a probability counts with that part of its cost; the
average patch is measured apart, on patches drawn as in training.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from u2net3d import files
from u2net3d.losses import dice_ce, supervised
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.ops.memory import keep_freed_memory
from u2net3d.patches import augment
from u2net3d.patches.intensity import Intensity, change_channel
from u2net3d.patches.loader import DomainLoader
from u2net3d.patches.sample import choose_patch, generator, read_patch
from u2net3d.patches.spatial import Spatial, mirror, resample_patch
from u2net3d.prep.cache import PreparedCase
from u2net3d.spec import DomainSpec, Plan, TrainSpec, ZScoreNormalisation
from u2net3d.train.guard import COPY_EVERY, Guard
from u2net3d.train.history import History
from u2net3d.train.optimiser import optimiser_for

CLASSES = 3


@dataclass(frozen=True)
class Row:
    """One piece of work; share: how much of it a patch (or a step) has on average."""

    per: str
    piece: str
    ms: float
    share: float = 1.0


def main() -> None:
    asked = arguments()
    keep_freed_memory()
    torch.set_num_threads(asked.threads)
    spec = domain(asked.patch, asked.batch, asked.channels)
    with tempfile.TemporaryDirectory() as name:
        case = mapped_case(Path(name), asked.channels, asked.volume)
        rows = [*patch_rows(case, spec, asked.repeats), *loss_rows(spec, asked.repeats)]
        rows += step_rows(spec, Path(name), asked.repeats)
    report(rows, asked)


def domain(patch: tuple[int, int, int], batch: int, channels: int) -> DomainSpec:
    """A domain of four isotropic stages, as planned for small patches."""
    plan = Plan(
        spacing_mm=(1.0, 1.0, 1.0),
        normalisation=(ZScoreNormalisation(nonzero_only=False),) * channels,
        patch_size=tuple(patch),
        batch_size=batch,
        strides=((1, 1, 1), *((2, 2, 2),) * 3),
        kernels=((3, 3, 3),) * 4,
    )
    names = tuple(f"channel{n}" for n in range(channels))
    labels = ("background", *(f"label{n}" for n in range(1, CLASSES)))
    return DomainSpec(name="noise", channels=names, labels=labels, plan=plan)


def mapped_case(folder: Path, channels: int, shape: tuple[int, int, int]) -> PreparedCase:
    rng = np.random.default_rng(0)
    np.save(folder / "image.npy", rng.standard_normal((channels, *shape), np.float32))
    np.save(folder / "label.npy", rng.integers(0, CLASSES, shape).astype(np.int16))
    image = np.load(folder / "image.npy", mmap_mode="r")
    label = np.load(folder / "label.npy", mmap_mode="r")
    foreground = {value: np.argwhere(label == value)[:10_000] for value in range(1, CLASSES)}
    return PreparedCase("noise", image, label, foreground)


def patch_rows(case: PreparedCase, spec: DomainSpec, repeats: int) -> list[Row]:
    """Milliseconds a patch (of one channel, where a transform takes a channel)."""
    size, rng = spec.plan.patch_size, np.random.default_rng(0)
    start = choose_patch(case, size, rng, foreground=True)
    image, label = read_patch(case, start, size)
    pieces: list[tuple[str, float, Callable[[], object]]] = [
        ("draw numbers", 1, lambda: draw_all(case, spec)),
        ("read", (1 - augment.P_TURN) * (1 - augment.P_ZOOM) * (1 - augment.P_BEND),
         lambda: read_patch(case, start, size)),
        ("mirror, three axes", augment.P_MIRROR**3,
         lambda: mirror(image, label, (0, 1, 2), spec.mirroring)),
    ]  # fmt: skip
    for name, share, change in spatial_changes():
        work = (case, start, size, spec.plan.spacing_mm, change)
        pieces.append((name, share, lambda work=work: resample_patch(*work)))
    for name, share, one in intensity_changes():
        pieces.append((name, share, lambda one=one: change_channel(image[0], one)))
    rows = [Row("patch", name, cpu_ms(work, repeats), share) for name, share, work in pieces]
    loader = DomainLoader(spec, [case], 0, 1 / 3)
    batches = [once_ms(lambda step=step: loader.batch(step)) for step in range(max(repeats, 60))]
    return [*rows, Row("patch", "average patch", statistics.mean(batches) / spec.plan.batch_size)]


def draw_all(case: PreparedCase, spec: DomainSpec) -> None:
    rng = generator(0, spec.name, "patch", 0, 0)
    choose_patch(case, spec.plan.patch_size, rng, foreground=True)
    augment.draw(rng, spec)


def spatial_changes() -> list[tuple[str, float, Spatial]]:
    p, zoomed = augment.P_TURN, augment.P_ZOOM * (1 - augment.P_TURN)
    plain = 1 - augment.P_BEND
    return [
        ("turn", p * plain, Spatial((0.3, -0.2, 0.4))),
        ("zoom alone", zoomed * plain, Spatial(zoom=0.8)),
        ("bend", augment.P_BEND * (1 - p), Spatial(bend=0.3, bend_seed=5)),
        ("turn, zoom, bend", augment.P_BEND * p, Spatial((0.3, -0.2, 0.4), 0.8, 0.3, 5)),
    ]


def intensity_changes() -> list[tuple[str, float, Intensity]]:
    half = augment.P_CHANNEL
    return [
        ("noise", augment.P_NOISE, Intensity(noise_std=0.05, noise_seed=4)),
        ("blur", augment.P_BLUR * half, Intensity(blur_voxels=(0.6, 0.75, 0.9))),
        ("brightness", augment.P_BRIGHTNESS, Intensity(brightness=1.1)),
        ("contrast", augment.P_CONTRAST, Intensity(contrast=1.1)),
        ("low resolution", augment.P_LOW_RESOLUTION * half, Intensity(detail=(0.7, 0.7, 0.7))),
        ("inverted gamma", augment.P_INVERTED_GAMMA, Intensity(inverted_gamma=1.2)),
        ("gamma", augment.P_GAMMA, Intensity(gamma=1.2)),
    ]


def loss_rows(spec: DomainSpec, repeats: int) -> list[Row]:
    """Loss forward and backward at every level, and all levels together, milliseconds a step."""
    batch, size, rows = spec.plan.batch_size, spec.plan.patch_size, []
    target = torch.randint(-1, CLASSES, (batch, *size))
    shapes = [tuple(math.ceil(n / 2**level) for n in size) for level in range(3)]
    outputs = [
        torch.randn(batch, *shape, CLASSES).permute(0, 4, 1, 2, 3).requires_grad_()
        for shape in shapes
    ]
    for level, (shape, logits) in enumerate(zip(shapes, outputs, strict=True)):
        step = 2**level
        at = target[:, ::step, ::step, ::step]
        for balance in (0.0, 0.5):
            name = f"loss {'×'.join(map(str, shape))}, balance {balance}"
            work = lambda one=logits, at=at, b=balance: dice_ce(one, at, b).backward()  # noqa: E731
            rows.append(Row("step", name, cpu_ms(work, repeats)))
    whole = cpu_ms(lambda: supervised(dice_ce, outputs, target, 0.5).backward(), repeats)
    return [*rows, Row("step", "loss, all levels", whole)]


def step_rows(spec: DomainSpec, folder: Path, repeats: int) -> list[Row]:
    """What follows the backward pass, with gradients of the real shapes; milliseconds a step."""
    net = UniversalNet(base_channels=16, stages=spec.plan.stages)
    net.add_bank(spec.name, BankShape.of(spec))
    for weight in net.parameters():
        weight.grad = torch.randn_like(weight)
    training = TrainSpec()
    optimiser = optimiser_for(net, training)
    optimiser.step()
    guard = Guard(net, optimiser, (spec.name,))
    history, rng = History(folder / "run"), iter(range(10**9))
    pieces: list[tuple[str, float, Callable[[], object]]] = [
        (
            "clip",
            1,
            lambda: torch.nn.utils.clip_grad_norm_(net.parameters(), training.clip_norm).item(),
        ),
        ("optimiser", 1, optimiser.step),
        ("guard copies the state", 1 / COPY_EVERY, lambda: guard.before(0)),
        ("guard judges", 1, lambda: guard.after(spec.name, 0.5, True)),
        ("history", 1, lambda: history.step(next(rng), spec.name, 0.5, 1e-3, 1.0)),
    ]
    return [Row("step", name, cpu_ms(work, repeats), share) for name, share, work in pieces]


def cpu_ms(work: Callable[[], object], repeats: int) -> float:
    """CPU milliseconds of all threads: median after two warm-ups."""
    for _ in range(2):
        work()
    return statistics.median(once_ms(work) for _ in range(repeats))


def once_ms(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return 1e3 * (time.process_time() - began)


def report(rows: list[Row], asked: argparse.Namespace) -> None:
    threads = torch.get_num_threads()
    title = f"CPU ms, median of {asked.repeats}, {threads} thread(s), patch {asked.patch}"
    table = Table(title=title)
    for column in ("per", "piece", "ms", "how often", "ms on average"):
        table.add_column(column, justify="left" if column in ("per", "piece") else "right")
    for row in rows:
        mean = f"{row.ms * row.share:.3f}"
        table.add_row(row.per, row.piece, f"{row.ms:.3f}", f"{row.share:.3f}", mean)
    Console().print(table)
    if asked.json is not None:
        kept = ("patch", "volume", "batch", "channels", "repeats", "threads")
        settings = {name: getattr(asked, name) for name in kept}
        files.write_json(asked.json, {**settings, "rows": [asdict(row) for row in rows]})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench-augment", description=__doc__)
    parser.add_argument("--patch", type=int, nargs=3, default=(40, 56, 40))
    parser.add_argument("--volume", type=int, nargs=3, default=(36, 50, 35), help="of the noise")
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in one operator")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
