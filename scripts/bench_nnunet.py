"""A trained model of nnU-Net's, made on the fly: its folder as its trainer leaves it, untrained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from bench_contenders import Setting

CONFIGURATION = "3d_fullres"
_RESAMPLING = "resample_data_or_seg_to_shape"


def write(setting: Setting, folder: Path, *, network: bool = True) -> int:
    """A trained model of nnU-Net's as its trainer leaves it, but untrained; its weights."""
    import bench_nets

    (folder / "fold_0").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(dataset(setting)))
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
    return sum(weight.numel() for weight in net.parameters())


def dataset(setting: Setting) -> dict[str, Any]:
    """What nnU-Net is told of the labels; no image beyond those of the setting."""
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
        "spacing": setting.spacing_mm,
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
