"""What overlap and reflections cost and bring: Dice and time on a model's validation cases.

The cases are those that the model's runs were judged by and never learnt from. Time is that of all
threads of this process, from the volume that was read to its label, so what else the machine does
changes little. Nothing is written.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from u2net3d.evaluate.metrics import dice
from u2net3d.infer.predict import Model, Options, load
from u2net3d.io.dataset import Case, Dataset, find_datasets, read_case
from u2net3d.train.sides import judged_cases

OVERLAPS = (0.25, 0.5, 0.625)
WAYS = [Options(overlap, tta) for tta in (False, True) for overlap in OVERLAPS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--domains", help="names with commas; all of the model by default")
    parser.add_argument("--cases", type=int, help="of each domain, at most")
    asked = parser.parse_args()
    model = load(asked.model, device="cpu")
    names = asked.domains.split(",") if asked.domains else model.domains
    table = Table("domain", "cases", "overlap", "reflections", "Dice", "lowest case", "s a case")
    for dataset in find_datasets(asked.data, names):
        cases = judged_cases(dataset, asked.model)[: asked.cases]
        found = {way: [] for way in WAYS}
        for case in cases:  # case by case, so that a busy hour falls on all ways alike
            for way in WAYS:
                found[way].append(judged(model, dataset, case, way))
        for way, pairs in found.items():
            scores, seconds = np.array(pairs).T
            numbers = f"{scores.mean():.4f}", f"{scores.min():.3f}", f"{seconds.mean():.2f}"
            reflections = "yes" if way.tta else "no"
            table.add_row(dataset.domain, str(len(cases)), f"{way.overlap}", reflections, *numbers)
    Console(width=110).print(table)


def judged(model: Model, dataset: Dataset, case: Case, way: Options) -> tuple[float, float]:
    """Mean Dice over a case's labels, and seconds of all threads."""
    loaded = read_case(dataset, case)
    began = time.process_time()
    answer = model.answer(loaded.image, loaded.source.path, dataset.domain, way)
    seconds = time.process_time() - began
    reference = loaded.label.array[0]
    values = dice(answer.label, reference, len(dataset.labels), dataset.ignore_label)
    return float(np.nanmean(values)), seconds


if __name__ == "__main__":
    main()
