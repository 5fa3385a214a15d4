"""This package as a peer: its own training, by the clock, and its own sliding window."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from versus_rows import Asked, Trained

from u2net3d import store
from u2net3d.io.dataset import Case, Dataset
from u2net3d.train.history import History


def train(asked: Asked, datasets: Sequence[Dataset], folder: Path) -> Trained:
    """Trains by the package's own door, from the checkpoint in `folder` where there is one.

    Its only validation is the one behind the last step, so the last state is kept. Raises Stopped
    after a checkpoint.
    """
    import torch
    from compare_settle import recipe
    from compare_worker import Listener, trained

    run = asked.compared()
    device = torch.device(asked.device)
    trained([*datasets], run, None, folder, device, Listener(run, quiet=False))
    model = folder / "model"
    net, _, specs = store.load(model)
    made = [row for row in History(model / "runs" / "train").rows() if row["kind"] == "train"]
    spec = recipe(run, None)
    how = f"{spec.optimiser}, {spec.learning_rate:g}, weight decay {spec.weight_decay:g}, "
    return Trained(
        steps=made[-1]["step"] + 1,
        seconds=round(made[-1]["seconds"], 2),
        weights=sum(weight.numel() for weight in net.parameters()),
        how=f"{how}warm-up over {spec.warmup_steps} steps; allocator thresholds raised",
        plans={name: (each.plan.patch_size, each.plan.batch_size) for name, each in specs.items()},
    )


def predict(
    asked: Asked, dataset: Dataset, cases: Sequence[Case], folder: Path, out: Path, *, tta: bool
) -> float:
    """Writes the label of each case into `out`, as <case>.nii.gz; seconds by the clock of all.

    By torch, and without the clean-up that the validation cases have chosen.
    """
    from u2net3d.infer.predict import load

    model = load(folder / "model", domains=[dataset.domain], device=asked.device, engine="torch")
    began = time.perf_counter()
    for case in cases:
        label = model.predict([*case.images], domain=dataset.domain, tta=tta, cleanup=False)
        label.to_filename(out / f"{case.name}.nii.gz")
    return time.perf_counter() - began
