"""What the guards of the reader cost: CPU time of `predict` with them, and with nibabel alone.

Both ways take turns, file to label file, and the medians are compared. Without --model a network of
one training step on the phantoms is used: its answers are worthless, its time is that of any other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.table import Table

import u2net3d
from u2net3d import files, io
from u2net3d.io.forms import geometry_header
from u2net3d.io.nifti import Source
from u2net3d.volume import Volume, to_canonical

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 0.05  # of predict's CPU time
Read = Callable[[Sequence[Path]], tuple[Volume, Source]]


def main() -> None:
    asked = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = u2net3d.load(asked.model or trained(folder), domains=[asked.domain], device="cpu")
        image = asked.image or drawn(folder / "image.nii.gz", asked.shape)
        ways: dict[str, Read] = {"guarded": io.read_image, "nibabel alone": plain}
        reading: dict[str, list[float]] = {way: [] for way in ways}
        whole: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(asked.repeats + 1):
            for way in sorted(ways, reverse=turn % 2 == 1):
                seconds = once(model, ways[way], image, asked.domain, folder / "label.nii.gz")
                if turn:  # the first warms up
                    reading[way].append(seconds[0])
                    whole[way].append(seconds[1])
    report(reading, whole, asked.json)


def once(
    model: u2net3d.Model, read: Read, image: Path, domain: str, to: Path
) -> tuple[float, float]:
    """CPU seconds, of all threads, of reading alone and of the whole way."""
    spent = 0.0

    def timed(paths: Sequence[Path]) -> tuple[Volume, Source]:
        nonlocal spent
        began = time.process_time()
        found = read(paths)
        spent = time.process_time() - began
        return found

    began = time.process_time()
    with patch("u2net3d.infer.predict.read_image", timed):
        nib.save(model.predict(image, domain=domain), to)
    return spent, time.process_time() - began


def plain(paths: Sequence[Path]) -> tuple[Volume, Source]:
    """The same volume by nibabel alone: nothing is checked but what nibabel checks."""
    image = nib.load(paths[0])
    array = np.asarray(image.dataobj, dtype=np.float32)[None]
    volume, orientation = to_canonical(array, image.affine)
    volume = Volume(np.ascontiguousarray(volume.array), volume.affine)
    header = geometry_header(image.header, image.affine, image.shape)
    return volume, Source(paths[0], orientation, image.shape, image.affine, header)


def report(reading: dict[str, list[float]], whole: dict[str, list[float]], to: Path | None) -> None:
    """Prints the table, writes the JSON, and fails where the guards cost too much."""
    found = {
        way: {
            "reading_seconds": statistics.median(reading[way]),
            "predict_seconds": statistics.median(whole[way]),
            "predict_seconds_all": whole[way],
        }
        for way in whole
    }
    more = found["guarded"]["reading_seconds"] - found["nibabel alone"]["reading_seconds"]
    cost = more / found["nibabel alone"]["predict_seconds"]
    runs = len(whole["guarded"])
    table = Table(title=f"CPU time, median of {runs}; the guards cost {cost:.2%} of predict")
    for column in ("reader", "reading, s", "predict, s"):
        table.add_column(column)
    for way, row in found.items():
        table.add_row(way, f"{row['reading_seconds']:.4f}", f"{row['predict_seconds']:.3f}")
    Console().print(table)
    content = {"runs": runs, "guards_share_of_predict": cost, "limit": LIMIT, "readers": found}
    if to is not None:
        files.write_json(to, content)
    print(json.dumps(content))
    if cost > LIMIT:
        sys.exit(f"error: the guards cost {cost:.2%} of predict — the limit is {LIMIT:.0%}")


def trained(folder: Path) -> Path:
    """A model of one step on the liver phantoms."""
    command = [sys.executable, "-m", "u2net3d", "train", "--domains", "liver", "--steps", "1"]
    places = ["--data", str(ROOT / "data"), "--model", str(folder / "model")]
    more = ["--fold", "all", "--device", "cpu", "--cache", str(folder / "cache")]
    subprocess.run([*command, *places, *more], check=True, stdout=subprocess.DEVNULL)
    return folder / "model"


def drawn(path: Path, shape: tuple[int, int, int]) -> Path:
    """A volume of noise (I, J, K) in the range of CT, which gzip packs as badly as real ones."""
    voxels = np.random.default_rng(0).normal(0, 100, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 1.5, 1.0])), path)
    return path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench-reader", description=__doc__)
    parser.add_argument("--model", type=Path, help="a trained model; else one is made")
    parser.add_argument("--domain", default="liver")
    parser.add_argument("--image", type=Path, help="a NIfTI file; else noise is drawn")
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 160, 96), help="of the noise")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
