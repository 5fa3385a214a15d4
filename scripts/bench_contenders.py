"""Who is measured, in which form, and at which settings. Imports no torch: the workers do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from u2net3d.prep.plan import topology
from u2net3d.spec import DEFAULT_PRESET, PRESETS, DomainSpec, Plan, ZScoreNormalisation
from u2net3d.volume import Triple

Family = Literal["ours", "nnunet", "dense", "dense-paper", "monai", "torch"]
Kind = Literal[
    "forward",
    "step",
    "memory",
    "operators",
    "predict",
    "export",
    "prediction memory",
    "scaling",
    "start",
]
WHOLE = ("predict", "export", "prediction memory", "scaling", "start")  # of whole volumes
FASTER = "the faster"  # of fp32 and bf16, by their trial steps; settled before the worker starts
MOST_STAGES = 6
LARGE = 300  # slices of volumes for which nnU-Net needs more memory than most machines have


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Setting(_Value):
    """A patch (D, H, W) and what a plan for it says; topology by nnU-Net's rules.

    volume, voxel_mm, file: of an image to predict, in voxels of that size; plans have 1 mm.
    """

    name: str
    patch: Triple
    batch: int
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    channels: int = 1
    classes: int = 3
    volume: Triple = (1, 1, 1)
    voxel_mm: float = 1.0
    file: str = ""

    @property
    def stages(self) -> int:
        """Resolution stages, the bottom one included."""
        return len(self.strides)

    def domain(self, name: str) -> DomainSpec:
        """The same as a domain of ours."""
        plan = Plan(
            spacing_mm=(1.0, 1.0, 1.0),
            normalisation=(ZScoreNormalisation(),) * self.channels,
            patch_size=self.patch,
            batch_size=self.batch,
            strides=self.strides,
            kernels=self.kernels,
        )
        channels = tuple(f"channel{n}" for n in range(self.channels))
        labels = tuple(f"label{n}" for n in range(self.classes))
        return DomainSpec(name=name, channels=channels, labels=labels, plan=plan)


class Contender(_Value):
    """A network in one form. keeps_memory: glibc's thresholds raised, as `train` does.

    every_round: measured in all rounds; the other forms leave where they are clearly not the best.
    """

    name: str
    family: Family
    precision: str = "fp32"
    channels_last: bool = False
    compiled: bool = False
    keeps_memory: bool = False
    native: bool = False
    as_users_run_it: bool = False
    every_round: bool = False
    preset: str = DEFAULT_PRESET
    domains: int = 1
    mirrors: bool = False
    variant: str = ""


_DENSE = "dense net of our topology"
_DENSE_PAPER = "dense net of the paper's topology"
_MONAI = Contender(name="MONAI BasicUNet", family="monai", as_users_run_it=True, every_round=True)


class Job(_Value):
    """What a worker is told to build. quick: tiny buffers for the operators too.

    folder: for the volumes and models of whole predictions.
    """

    kind: Kind
    contender: Contender
    setting: Setting
    threads: int
    device: str
    quick: bool
    folder: str = ""


def setting(name: str, patch: Triple, batch: int) -> Setting:
    """A setting with the topology of its patch at isotropic voxels."""
    planned = topology((1.0, 1.0, 1.0), patch, MOST_STAGES)
    size = "×".join(map(str, patch))
    return Setting(
        name=f"{name}{size} × {batch}",
        patch=patch,
        batch=batch,
        strides=planned.strides,
        kernels=planned.kernels,
    )


def settings(kind: Kind, quick: bool, device: str) -> list[Setting]:
    """Those of a section. Inference runs a large patch one at a time."""
    if quick:
        return [setting("quick ", (32, 32, 32), 1)]
    if kind == "memory":
        return [setting("", (128, 128, 128), 1)]
    if device == "cuda":
        return [setting("", (128, 128, 128), 2)]
    batch = 2 if kind == "step" else 1
    return [setting("hippocampus plan, ", (40, 56, 40), 5), setting("", (96, 96, 96), batch)]


def contenders(kind: Kind, device: str, quick: bool) -> list[Contender]:
    """Those of a section, ours first: the others are compared with it.

    Compiling takes minutes, so it is for the training step alone, and not for a quick run.
    """
    raised, last, half, compiled = _forms("nnU-Net", "nnunet", device)
    dense = _dense(_DENSE, "dense", device)
    paper = _dense(_DENSE_PAPER, "dense-paper", device)
    if kind == "memory":
        return [ours(), *_other_presets(), nnunet(device), last, half]
    both = [ours(), *_other_presets(), ours("ours in pure torch", native=False), nnunet(device)]
    if kind == "forward":
        return [*both, last, half, dense[-1], paper[-1], _MONAI]
    more = [] if quick else [compiled]
    return [*both, raised, last, half, *more, *dense, *paper]


def domain_contenders(quick: bool) -> list[Contender]:
    """The same model with one domain and with many, a step of another one each time."""
    counts = (1, 3) if quick else (1, 64)
    return [ours(f"ours with {n} domain{'s' * (n > 1)}", domains=n) for n in counts]


def ours(
    name: str = "ours", *, native: bool = True, preset: str = DEFAULT_PRESET, domains: int = 1
) -> Contender:
    """Our network as `train` runs it."""
    return Contender(
        name=name,
        family="ours",
        channels_last=True,
        keeps_memory=True,
        native=native,
        as_users_run_it=native,
        every_round=native,
        preset=preset,
        domains=domains,
    )


def _other_presets() -> list[Contender]:
    ours_alone = [name for name, model in PRESETS.items() if model.family == "universal"]
    others = [name for name in ours_alone if name != DEFAULT_PRESET]
    return [ours(f"ours, preset {name}", preset=name) for name in others]


def nnunet(device: str) -> Contender:
    """As its trainer runs it: fp32 on a CPU; on a GPU compiled, fp16 with a gradient scaler."""
    cuda = device == "cuda"
    return Contender(
        name="nnU-Net as it comes",
        family="nnunet",
        precision="fp16" if cuda else "fp32",
        compiled=cuda,
        as_users_run_it=True,
        every_round=True,
    )


def _dense(name: str, family: Family, device: str) -> list[Contender]:
    raised, last, *_ = _forms(name, family, device)
    return [raised, last]


def _forms(name: str, family: Family, device: str) -> list[Contender]:
    """The forms among which the best one is looked for; the compiled one last."""
    base = Contender(name=name, family=family, keeps_memory=device == "cpu")

    def more(said: str, **changes: object) -> Contender:
        return base.model_copy(update={"name": f"{name}, {said}", **changes})

    plain = "thresholds raised" if device == "cpu" else "eager"
    return [
        more(plain),
        more("channels-last", channels_last=True),
        more("channels-last, bf16", channels_last=True, precision="bf16"),
        more("channels-last, compiled", channels_last=True, compiled=True, precision=FASTER),
    ]


def volume_settings(kind: Kind, quick: bool, volumes: Sequence[str]) -> list[Setting]:
    """Those of a section of whole volumes. volumes: real ones that `predict` takes."""
    if quick:
        classes = (2, 5) if kind == "prediction memory" else (3,)
        return [_volume((24, 40, 32), (32, 32, 32), count) for count in classes]
    if kind == "predict":
        real = [_real(path) for path in volumes]
        return real or [_volume((150, 256, 256)), _volume((88, 140, 183), voxel_mm=0.625)]
    if kind == "export":
        return [_volume((300, 512, 512), classes=3), _volume((150, 256, 256), classes=50)]
    if kind == "prediction memory":
        large = [_volume((300, 512, 512), classes=count) for count in (2, 50)]
        return [_volume((150, 256, 256), classes=50), *large]
    if kind == "start":
        return [_volume((64, 64, 64))]
    return [_volume((side, side, side), voxel_mm=1.0) for side in (64, 128, 192, 256, 384, 512)]


def _volume(
    volume: Triple, patch: Triple = (96, 96, 96), classes: int = 3, voxel_mm: float = 0.8
) -> Setting:
    size = "×".join(map(str, volume[::-1]))
    name = f"{size} of {voxel_mm:g} mm, {classes} classes, patch "
    more = {"classes": classes, "volume": volume, "voxel_mm": voxel_mm}
    return setting(name, patch, 1).model_copy(update=more)


def _real(path: str) -> Setting:
    made = setting(f"{Path(path).name.split('.')[0]}, patch ", (96, 96, 96), 1)
    return made.model_copy(update={"file": path})


def volume_contenders(kind: Kind, of: Setting) -> list[Contender]:
    """Those of a section of whole volumes, ours first."""
    theirs = nnunet("cpu")
    if kind == "start":
        return [ours("u2net3d predict"), theirs.model_copy(update={"name": "nnUNetv2_predict"})]
    if kind == "scaling" or (kind == "prediction memory" and of.volume[0] >= LARGE):
        return [ours()]
    if kind in ("export", "prediction memory"):
        return [ours(), theirs]
    same = theirs.model_copy(update={"name": "nnU-Net, same tiles", "as_users_run_it": False})
    monai = _MONAI.model_copy(update={"name": "MONAI DynUNet", "variant": "DynUNet"})
    return [ours(), same, theirs.model_copy(update={"mirrors": True}), _MONAI, monai]
