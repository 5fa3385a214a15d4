"""Who is measured, in which form, and at which settings. Imports no torch: the workers do."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from u2net3d.infer.window import tile_starts
from u2net3d.prep.resample import resampled_shape
from u2net3d.spec import DEFAULT_PRESET, PRESETS, DomainSpec, Plan, ZScoreNormalisation
from u2net3d.volume import Triple, TripleF

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
LARGE = 300  # slices of volumes for which nnU-Net needs more memory than most machines have
MOST_TILES = 12  # with more of them nnU-Net, which mirrors them eight times, takes half an hour


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Setting(_Value):
    """A patch (D, H, W) and what a plan for it says; topology by nnU-Net's rules.

    spacing_mm: the plan's; volume, voxel_mm, file: of an image to predict, (D, H, W); logits: what
    `export` gets, a trained network's regions or noise.
    """

    name: str
    patch: Triple
    batch: int
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    channels: int = 1
    classes: int = 3
    volume: Triple = (1, 1, 1)
    voxel_mm: TripleF = (1.0, 1.0, 1.0)
    spacing_mm: TripleF = (1.0, 1.0, 1.0)
    file: str = ""
    logits: Literal["regions", "noise"] = "regions"

    @property
    def stages(self) -> int:
        """Resolution stages, the bottom one included."""
        return len(self.strides)

    @property
    def prepared(self) -> Triple:
        """The volume on the plan's grid."""
        return resampled_shape(self.volume, self.voxel_mm, self.spacing_mm)

    @property
    def tiles(self) -> int:
        """How often the network runs for the volume, nothing of it cropped."""
        grid = [max(n, least) for n, least in zip(self.prepared, self.patch, strict=True)]
        return len(tile_starts((grid[0], grid[1], grid[2]), self.patch, 0.5))

    def domain(self, name: str) -> DomainSpec:
        """The same as a domain of ours."""
        plan = Plan(
            spacing_mm=self.spacing_mm,
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
    engine: what computes; auto is what our command line takes.
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
    engine: Literal["torch", "openvino", "auto"] = "torch"


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
        ours_half = ours("ours, bf16").model_copy(update={"precision": "bf16"})
        found = [*both, ours_half, last, half, dense[-1], paper[-1], _MONAI]
        return found if device == "cuda" else [*found, *_in_openvino()]
    more = [] if quick else [compiled]
    return [*both, raised, last, half, *more, *dense, *paper]


def _in_openvino() -> list[Contender]:
    """Ours and the peers in OpenVINO, ours and nnU-Net's in bf16 as well."""
    theirs = Contender(name="nnU-Net", family="nnunet")
    dense = Contender(name=_DENSE, family="dense")
    both = [openvino(one, "in OpenVINO") for one in (ours(), theirs, dense, _MONAI)]
    half = [openvino(one, "in OpenVINO, bf16", precision="bf16") for one in (ours(), theirs)]
    return [*both, *half]


def openvino(contender: Contender, said: str, **changes: object) -> Contender:
    """The same network computed by OpenVINO: no form of torch's concerns it."""
    more = {"name": f"{contender.name} {said}", "engine": "openvino", "every_round": True}
    plain = {"channels_last": False, "keeps_memory": False, "as_users_run_it": False}
    return contender.model_copy(update={**more, **plain, **changes})


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
    usual = PRESETS[DEFAULT_PRESET].design
    others = [name for name in ours_alone if PRESETS[name].design != usual]
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


def volume_contenders(kind: Kind, of: Setting) -> list[Contender]:
    """Those of a section of whole volumes, ours first."""
    theirs, mine = nnunet("cpu"), ours().model_copy(update={"engine": "auto"})
    in_torch = ours("ours in torch").model_copy(update={"as_users_run_it": False})
    if kind == "start":
        command = "u2net3d predict"
        mine = mine.model_copy(update={"name": command})
        in_torch = in_torch.model_copy(update={"name": f"{command} --engine torch"})
        return [mine, in_torch, theirs.model_copy(update={"name": "nnUNetv2_predict"})]
    if kind == "export":
        return [ours(), theirs]
    if kind == "scaling":
        return [mine]
    if kind == "prediction memory":
        return [mine, in_torch] if of.volume[0] >= LARGE else [mine, in_torch, theirs]
    same = theirs.model_copy(update={"name": "nnU-Net, same tiles", "as_users_run_it": False})
    default = theirs.model_copy(update={"mirrors": True})
    dyn = _MONAI.model_copy(update={"name": "MONAI DynUNet", "variant": "DynUNet"})
    found = [mine, in_torch, same, openvino(same, "in OpenVINO")]
    if of.tiles <= MOST_TILES:
        found.append(default)
    return [*found, _MONAI, dyn, openvino(dyn, "in OpenVINO")]
