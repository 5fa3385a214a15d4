"""nnU-Net as a peer: its own planner, preprocessing, trainer and sliding window, on our cases.

nnU-Net is given the training cases alone, so that no plan, fingerprint or statistic of intensities
sees a case that it is judged by. Everything it writes lies in two folders: what is made of the data
(once, for all its runs on them) and the run's own; its variables are set in this process only.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from versus_rows import Asked, Trained

from u2net3d import files
from u2net3d.errors import DataError, TrainingError
from u2net3d.io.dataset import Case, Dataset, source_hashes, split

if TYPE_CHECKING:
    from versus_trainer import Timed

CONFIGURATION = "3d_fullres"  # what nnU-Net trains first, and for many sets alone
PLANS = "nnUNetPlans"
CHECKPOINT = "checkpoint.pt"


def train(asked: Asked, datasets: Sequence[Dataset], folder: Path) -> Trained:
    """Trains until the time is used up, from the checkpoint in `folder` where there is one.

    Raises Stopped after a checkpoint.
    """
    threads_of(asked)
    from versus_trainer import HOW

    from u2net3d.ops.memory import keep_freed_memory

    (dataset,) = datasets
    data = prepared(dataset, asked, folder.parent)
    if asked.peer == "nnunet-adamw":
        keep_freed_memory()
    trainer = trainer_of(asked, data, folder)
    trainer.restore()
    trainer.run_training()
    plan = trainer.configuration_manager
    return Trained(
        steps=trainer.steps,
        seconds=round(trainer.spent_s, 2),
        weights=sum(weight.numel() for weight in trainer.network.parameters()),
        how=f"{HOW[asked.peer]}; loader processes: {loaders(asked)}",
        plans={dataset.domain: (tuple(int(n) for n in plan.patch_size), int(plan.batch_size))},
    )


def predict(
    asked: Asked, dataset: Dataset, cases: Sequence[Case], folder: Path, out: Path, *, tta: bool
) -> float:
    """Writes the label of each case into `out`, as <case>.nii.gz; seconds by the clock of all."""
    threads_of(asked)
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer = trainer_of(asked, prepared(dataset, asked, folder.parent), folder)
    if not trainer.restore():
        what = "the data, or nnU-Net, are others than it was trained with"
        raise TrainingError(folder, what, "remove the folder, and give the command again")
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # sets the axes to mirror
    predictor = nnUNetPredictor(
        use_mirroring=tta, device=torch.device(asked.device), allow_tqdm=False
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.module().state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    channels = folder / "channels"
    images = [[str(path) for path in channel_files(dataset, case, channels)] for case in cases]
    began = time.perf_counter()
    predictor.predict_from_files_sequential(images, [str(out / case.name) for case in cases])
    return time.perf_counter() - began


def trainer_of(asked: Asked, data: Path, folder: Path) -> Timed:
    """nnU-Net's trainer on prepared data, its network built of the seed."""
    variables(data, folder, asked)
    import numpy as np
    import torch
    from versus_trainer import TRAINERS

    (place,) = (data / "preprocessed").iterdir()
    plans = json.loads((place / f"{PLANS}.json").read_text())
    if CONFIGURATION not in plans["configurations"]:
        raise DataError(place.name, f"nnU-Net plans no {CONFIGURATION} here", "leave it out")
    said = json.loads((place / "dataset.json").read_text())
    torch.manual_seed(asked.seed)
    np.random.seed(asked.seed)  # noqa: NPY002
    kind = TRAINERS[asked.peer]
    device = torch.device(asked.device)
    trainer = kind({**plans, "continue_training": False}, CONFIGURATION, 0, said, device)
    return trainer.begun(asked.budget.amount, folder / CHECKPOINT, data.name)


def variables(data: Path, folder: Path, asked: Asked) -> None:
    """nnU-Net's environment, for this process and its children."""
    os.environ.update(
        nnUNet_raw=str(data / "raw"),
        nnUNet_preprocessed=str(data / "preprocessed"),
        nnUNet_results=str(folder / "results"),
        nnUNet_compile="true" if asked.compiled else "false",
        nnUNet_n_proc_DA=str(loaders(asked)),
    )


def threads_of(asked: Asked) -> None:
    """How many threads nnU-Net brings logits back with: read once, when it is imported."""
    os.environ.update(nnUNet_def_n_proc=str(asked.budget.threads or 1))


def loaders(asked: Asked) -> int:
    """Processes that load and augment, by nnU-Net's own rule: one for each core, at most 12."""
    return min(12, asked.budget.threads or 1)


def prepared(dataset: Dataset, asked: Asked, work: Path) -> Path:
    """The folder of a fold's data as nnU-Net planned and prepared them; made where it is missing.

    Named by the content of the training cases. It is made aside and renamed, so it is whole.
    """
    sides = split(dataset, asked.fold)
    said = {
        "nnunetv2": version("nnunetv2"),
        "description": description(dataset, ()),
        "training": {case.name: source_hashes(case) for case in sides.training},
        "validation": [case.name for case in sides.validation],
    }
    place = work / "nnunet" / f"{dataset.domain}-{files.sha256_json(said)[:16]}"
    if not place.exists():
        print(f"{dataset.domain}: nnU-Net plans and prepares {len(sides.training)} cases",
              file=sys.stderr)  # fmt: skip
        aside = files.temporary_beside(place)
        files.sweep(place.parent)
        try:
            _prepare(dataset, asked, aside)
            if not place.exists():  # another run may have been faster
                aside.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return place


def _prepare(dataset: Dataset, asked: Asked, place: Path) -> None:
    variables(place, place, asked)
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    sides = split(dataset, asked.fold)
    raw = place / "raw" / f"Dataset001_{dataset.domain}"
    files.write_json(raw / "dataset.json", description(dataset, sides.training, raw / "imagesTr"))
    fold = {side: [case.name for case in getattr(sides, name)]
            for side, name in (("train", "training"), ("val", "validation"))}  # fmt: skip
    files.write_json(raw / "splits_final.json", [fold])
    processes = asked.budget.threads or 1
    extract_fingerprint_dataset(1, num_processes=processes, verbose=False, show_progress_bar=False)
    plan_experiment_dataset(1)
    preprocess_dataset(1, PLANS, (CONFIGURATION,), (processes,), show_progress_bar=False)


def description(
    dataset: Dataset, cases: Sequence[Case], channels: Path | None = None
) -> dict[str, Any]:
    """nnU-Net's dataset.json: the cases are those that it will ever see.

    channels: where the files of single channels are put, of images that hold several.
    """
    labels = {"background": 0, **{name: n for n, name in enumerate(dataset.labels) if n}}
    if dataset.ignore_label is not None:
        labels["ignore"] = dataset.ignore_label
    listed = {
        case.name: {
            "images": [str(path) for path in channel_files(dataset, case, channels)],
            "label": str(case.label and case.label.resolve()),
        }
        for case in cases
    }
    return {
        "channel_names": {str(n): name for n, name in enumerate(dataset.channels)},
        "labels": labels,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "dataset": listed,
    }


def channel_files(dataset: Dataset, case: Case, folder: Path | None) -> list[Path]:
    """A file for each channel, as nnU-Net wants them; a 4-D image is taken apart into `folder`.

    Raises DataError for another format than .nii.gz, which nnU-Net would read by another reader.
    """
    for path in case.images:
        if not path.name.endswith(".nii.gz"):
            raise DataError(path, "is not .nii.gz", "convert the data set for this comparison")
    if len(case.images) == len(dataset.channels):
        return [path.resolve() for path in case.images]
    import nibabel as nib

    assert folder is not None
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, channel in enumerate(nib.funcs.four_to_three(nib.load(case.images[0]))):
        found.append(folder / f"{case.name}_{number:04d}.nii.gz")
        with files.replacing(found[-1]) as temporary:
            nib.save(channel, temporary)
    return found
