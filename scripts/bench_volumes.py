"""How whole predictions are built inside a worker: volumes, models made on the fly, and a step.

Everything lies in the folder of the job, which the bench removes. Networks are untrained: what they
cost does not depend on what they say.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_nnunet
import nibabel as nib
import numpy as np
import torch
from bench_contenders import Job, Setting
from bench_export import Export

from u2net3d.spec import DEFAULT_PRESET, PRESETS
from u2net3d.volume import Triple

Step = Callable[[], object]


def built(job: Job) -> tuple[Step, int]:
    """A step of `predict`, `start`, `scaling` or `export`, and its weights."""
    torch.set_num_threads(job.threads)
    folder = Path(tempfile.mkdtemp(prefix=f"{job.contender.family}-", dir=job.folder))
    if job.kind == "export":
        return Export(job, folder), 0
    image = drawn(job.setting, folder / "images" / "case_0000.nii.gz")
    make = {"ours": _ours, "nnunet": _nnunet, "monai": _monai}[job.contender.family]
    return make(job, folder, image)


def peak(job: Job) -> dict[str, Any]:
    """GiB of a prediction's peak, in a process of its own: see bench_peak.

    Ours has its compiled network in the cache, as every prediction but the first one has.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{job.contender.family}-", dir=job.folder))
    image = drawn(job.setting, folder / "images" / "case_0000.nii.gz")
    ours = job.contender.family == "ours"
    write = our_model if ours else bench_nnunet.write
    weights = write(job.setting, folder / "model")
    asked = {
        "family": job.contender.family,
        "model": str(folder / "model"),
        "image": str(image),
        "out": str(folder / "out"),
        "device": job.device,
        "engine": job.contender.engine,
    }
    if ours:
        tiny = job.setting.model_copy(update={"volume": (16, 16, 16), "file": ""})
        first = drawn(tiny, folder / "tiny" / "case_0000.nii.gz")
        _peak_of({**asked, "image": str(first)})
    return {**_peak_of(asked), "weights": weights}


def _peak_of(asked: dict[str, str]) -> dict[str, Any]:
    Path(asked["out"]).mkdir(exist_ok=True)
    script = Path(__file__).resolve().parent / "bench_peak.py"
    said = _ran([sys.executable, str(script), json.dumps(asked)])
    _emptied(Path(asked["out"]))
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def drawn(setting: Setting, path: Path) -> Path:
    """The volume of a setting as a file: a real one, or a bright body in noise."""
    path.parent.mkdir()
    if setting.file:
        path.write_bytes(Path(setting.file).read_bytes())
        return path
    shape = setting.volume[::-1]  # a file's axes are those of (W, H, D)
    rng = np.random.default_rng(0)
    array = rng.normal(0, 30, shape).astype(np.int16)
    body = tuple(slice(n // 6, n - n // 6) for n in shape)
    array[body] += 1000
    nib.save(nib.Nifti1Image(array, np.diag([*setting.voxel_mm[::-1], 1.0])), path)
    return path


def our_model(setting: Setting, folder: Path, preset: str = DEFAULT_PRESET) -> int:
    """An untrained model of ours with the domain `noise` in a folder; its weights."""
    from u2net3d import store
    from u2net3d.train.run import fresh_net

    spec = setting.domain("noise")
    design = PRESETS[preset].model_copy(update={"stages": setting.stages})
    net = fresh_net(design, {"noise": spec}, 0)
    store.save_model(folder, net, design, {"noise": spec}, {})
    return _count(net)


def _ours(job: Job, folder: Path, image: Path) -> tuple[Step, int]:
    """`u2net3d predict`: as a command (`start`), or with its model loaded before."""
    from u2net3d.infer.engines import choose_engine
    from u2net3d.infer.jobs import Job as Case
    from u2net3d.infer.predict import Options, load
    from u2net3d.infer.work import Wishes, run_jobs

    weights = our_model(job.setting, folder / "model", job.contender.preset)
    engine, out = job.contender.engine, folder / "out" / "case.nii.gz"
    if job.kind == "start":
        words = ["-i", image, "-o", out, "--domain", "noise", "--model", folder / "model"]
        command = [sys.executable, "-m", "u2net3d", "predict", *map(str, words)]
        command += ["--device", job.device, "--engine", engine]
        return lambda: _again(out.parent, lambda: _ran(command)), weights
    model = load(folder / "model", device=job.device, engine=engine)

    def step() -> None:
        (outcome,) = run_jobs(model, [Case((image,), out)], "noise", Options(), Wishes())
        if outcome.error is not None:
            raise outcome.error
        if model.engine("noise") != choose_engine(engine, job.device):
            raise RuntimeError(model.engine_note("noise"))

    return lambda: _again(out.parent, step), weights


def _nnunet(job: Job, folder: Path, image: Path) -> tuple[Step, int]:
    """`nnUNetPredictor` without its pools of processes, or its command with them (`start`)."""
    weights = bench_nnunet.write(job.setting, folder / "model")
    out = folder / "out"
    if job.kind == "start":
        entry = "predict_entry_point_modelfolder"
        code = f"from nnunetv2.inference.predict_from_raw_data import {entry} as p; p()"
        words = ["-i", image.parent, "-o", out, "-m", folder / "model", "-f", 0]
        command = [sys.executable, "-c", code, *map(str, words), "-device", job.device]
        return lambda: _again(out, lambda: _ran(command)), weights
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=job.contender.mirrors, device=torch.device(job.device), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(folder / "model"), (0,))
    if job.contender.engine == "openvino":
        predictor.network = _in_openvino(predictor.network, job, job.setting.patch)
    cases, names = [[str(image)]], [str(out / "case")]
    return lambda: _again(out, lambda: predictor.predict_from_files_sequential(cases, names)), (
        weights
    )


def _monai(job: Job, folder: Path, image: Path) -> tuple[Step, int]:
    """MONAI's transforms and sliding window; logits interpolated linearly as they are."""
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import BasicUNet, DynUNet
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, NormalizeIntensity, Spacing

    setting, out = job.setting, folder / "out"
    # its axes are those of the file: (W, H, D)
    kernels, strides = ([one[::-1] for one in each] for each in (setting.kernels, setting.strides))
    patch, spacing = setting.patch[::-1], setting.spacing_mm[::-1]
    if job.contender.variant == "DynUNet":
        net = DynUNet(3, 1, setting.classes, kernels, strides, strides[1:])
    else:
        net = BasicUNet(3, 1, setting.classes)
    weights = _count(net.to(job.device).eval())
    if job.contender.engine == "openvino":
        net = _in_openvino(net, job, patch)
    load = Compose([LoadImage(image_only=True), EnsureChannelFirst()])
    ready = Compose([Spacing(spacing), NormalizeIntensity()])

    @torch.inference_mode()
    def step() -> None:
        stored = load(image)
        prepared = ready(stored)[None].as_tensor().to(job.device)
        logits = sliding_window_inference(prepared, patch, 1, net, 0.5, mode="gaussian")
        size = tuple(stored.shape[1:])
        fine = torch.nn.functional.interpolate(logits, size=size, mode="trilinear")
        label = fine[0].argmax(0).to(torch.uint8).cpu().numpy()
        nib.save(nib.Nifti1Image(label, np.asarray(stored.affine)), out / "case.nii.gz")

    return lambda: _again(out, step), weights


def _in_openvino(net: torch.nn.Module, job: Job, patch: Triple) -> torch.nn.Module:
    from bench_openvino import InOpenVino

    return InOpenVino(net, job, patch)


def _again(out: Path, step: Step) -> None:
    """The step into an empty folder: what was predicted before is predicted again."""
    _emptied(out)
    step()


def _emptied(out: Path) -> None:
    out.mkdir(exist_ok=True)
    for path in out.iterdir():
        path.unlink()


def _ran(command: list[str]) -> str:
    """What a command printed; RuntimeError with its last words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed"])[-1])
    return done.stdout


def _count(net: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())
