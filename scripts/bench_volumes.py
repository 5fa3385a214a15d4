"""How whole predictions are built inside a worker: volumes, models made on the fly, and a step.

Everything lies in the folder of the job, which the bench removes. Networks are untrained: what they
cost does not depend on what they say.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from bench_contenders import Job, Setting

Step = Callable[[], object]
CONFIGURATION = "3d_fullres"
_RESAMPLING = "resample_data_or_seg_to_shape"


def built(job: Job) -> tuple[Step, int]:
    """A step of `predict`, `start`, `scaling`, `export` or prediction's memory; its weights."""
    torch.set_num_threads(job.threads)
    folder = Path(job.folder) / f"{job.contender.family} {abs(hash(job.model_dump_json()))}"
    folder.mkdir()
    if job.kind == "export":
        return _export(job, folder), 0
    image = _image(job.setting, folder / "images" / "case_0000.nii.gz")
    make = {"ours": _ours, "nnunet": _nnunet, "monai": _monai}[job.contender.family]
    return make(job, folder, image)


def _image(setting: Setting, path: Path) -> Path:
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
    nib.save(nib.Nifti1Image(array, np.diag([*[setting.voxel_mm] * 3, 1.0])), path)
    return path


def _ours(job: Job, folder: Path, image: Path) -> tuple[Step, int]:
    """`u2net3d predict`: as a command (`start`), or with its model loaded before."""
    from u2net3d import store
    from u2net3d.infer.jobs import Job as Case
    from u2net3d.infer.predict import Options, load
    from u2net3d.infer.work import Wishes, run_jobs
    from u2net3d.spec import PRESETS
    from u2net3d.train.run import fresh_net

    spec = job.setting.domain("noise")
    design = PRESETS[job.contender.preset].model_copy(update={"stages": job.setting.stages})
    net = fresh_net(design, {"noise": spec}, 0)
    store.save_model(folder / "model", net, design, {"noise": spec}, {})
    weights, out = _count(net), folder / "out" / "case.nii.gz"
    if job.kind == "start":
        words = ["-i", image, "-o", out, "--domain", "noise", "--model", folder / "model"]
        command = [sys.executable, "-m", "u2net3d", "predict", *map(str, words), "--device"]
        return lambda: _again(out.parent, lambda: _ran([*command, job.device])), weights
    model = load(folder / "model", device=job.device)

    def step() -> None:
        (outcome,) = run_jobs(model, [Case((image,), out)], "noise", Options(), Wishes())
        if outcome.error is not None:
            raise outcome.error

    return lambda: _again(out.parent, step), weights


def _nnunet(job: Job, folder: Path, image: Path) -> tuple[Step, int]:
    """`nnUNetPredictor` without its pools of processes, or its command with them (`start`)."""
    weights = _write_nnunet(job.setting, folder / "model")
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
    kernels, strides = list(setting.kernels), list(setting.strides)
    if job.contender.variant == "DynUNet":
        net = DynUNet(3, 1, setting.classes, kernels, strides, strides[1:])
    else:
        net = BasicUNet(3, 1, setting.classes)
    net.to(job.device).eval()
    load = Compose([LoadImage(image_only=True), EnsureChannelFirst()])
    ready = Compose([Spacing((1.0, 1.0, 1.0)), NormalizeIntensity()])

    @torch.inference_mode()
    def step() -> None:
        stored = load(image)
        prepared = ready(stored)[None].as_tensor().to(job.device)
        logits = sliding_window_inference(prepared, setting.patch, 1, net, 0.5, mode="gaussian")
        size = tuple(stored.shape[1:])
        fine = torch.nn.functional.interpolate(logits, size=size, mode="trilinear")
        label = fine[0].argmax(0).to(torch.uint8).cpu().numpy()
        nib.save(nib.Nifti1Image(label, np.asarray(stored.affine)), out / "case.nii.gz")

    return lambda: _again(out, step), _count(net)


def _export(job: Job, folder: Path) -> Step:
    """Logits (K, d, h, w) in regions, on the plan's grid, to the label of the volume."""
    setting = job.setting
    shape = tuple(int(n * setting.voxel_mm) for n in setting.volume)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, setting.classes, *(max(2, n // 12) for n in shape), generator=generator)
    logits = torch.nn.functional.interpolate(4 * coarse, size=shape, mode="trilinear")[0]
    if job.contender.family == "ours":
        from u2net3d.prep.resample import label_of_logits

        return lambda: label_of_logits(logits, setting.volume)
    from nnunetv2.inference import export_prediction
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    _write_nnunet(setting, folder / "model", network=False)
    plans = PlansManager(str(folder / "model" / "plans.json"))
    labels = plans.get_label_manager(_dataset(setting))
    said = {
        "spacing": [setting.voxel_mm] * 3,
        "shape_before_cropping": setting.volume,
        "shape_after_cropping_and_before_resampling": setting.volume,
        "bbox_used_for_cropping": [[0, n] for n in setting.volume],
    }
    convert = export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape
    configuration = plans.get_configuration(CONFIGURATION)
    return lambda: convert(
        logits, plans, configuration, labels, said, num_threads_torch=job.threads
    )


def _write_nnunet(setting: Setting, folder: Path, *, network: bool = True) -> int:
    """A trained model of nnU-Net's as its trainer leaves it, but untrained; its weights."""
    import bench_nets

    (folder / "fold_0").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(_dataset(setting)))
    (folder / "plans.json").write_text(json.dumps(_plans(setting)))
    if not network:
        return 0
    net = bench_nets.plain_net(setting)
    state = {
        "network_weights": net.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(state, folder / "fold_0" / "checkpoint_final.pth")
    return _count(net)


def _dataset(setting: Setting) -> dict[str, Any]:
    labels = {"background": 0, **{f"label{n}": n for n in range(1, setting.classes)}}
    return {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}


def _plans(setting: Setting) -> dict[str, Any]:
    """What nnU-Net's planner writes for this patch, its own widths and interpolations."""
    stages = setting.stages
    norm, activation = "torch.nn.modules.instancenorm.InstanceNorm3d", "torch.nn.LeakyReLU"
    arguments = {
        "n_stages": stages,
        "features_per_stage": [min(320, 32 * 2**stage) for stage in range(stages)],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": setting.kernels,
        "strides": setting.strides,
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": norm,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": activation,
        "nonlin_kwargs": {"inplace": True},
    }
    configuration: dict[str, Any] = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": setting.patch,
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    for what, seg, order in (("data", False, 3), ("seg", True, 1), ("probabilities", False, 1)):
        how = {"is_seg": seg, "order": order, "order_z": 0, "force_separate_z": None}
        configuration |= {f"resampling_fn_{what}": _RESAMPLING}
        configuration |= {f"resampling_fn_{what}_kwargs": how}
    return {
        "dataset_name": "Dataset001_Noise",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": {"mean": 0.0, "std": 1.0}},
        "configurations": {CONFIGURATION: configuration},
    }


def _again(out: Path, step: Step) -> None:
    """The step into an empty folder: what was predicted before is predicted again."""
    out.mkdir(exist_ok=True)
    for path in out.iterdir():
        path.unlink()
    step()


def _ran(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed"])[-1])


def _count(net: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())
