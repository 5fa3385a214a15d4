"""Everything that is decided once and stored: plans, domains, models, training.

Frozen pydantic models; JSON in and out; unknown fields are errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from u2net3d.errors import UsageError
from u2net3d.volume import Triple, TripleF

STEPS_PER_DOMAIN = 1500  # where no budget is given, of a preset without a line in PRESET_STEPS
BANK_LEARNING_RATE = 2e-2  # of a bank alone, on a frozen trunk: nothing shared can be upset
BANK_KERNEL_RATE = 4.0  # 2 and 6 were ahead of AdamW and as good as each other (docs/log.md)
# Words of the command line, and the attributes of nn.ModuleDict, which no key of one may be.
_WORDS = ("auto", "all", "mean", "nearest", "fresh")
_ATTRIBUTES = (
    *("apply", "bfloat16", "buffers", "children", "clear", "compile", "cpu", "cuda", "double"),
    *("eval", "float", "forward", "half", "ipu", "items", "keys", "modules", "mtia", "parameters"),
    *("pop", "to", "train", "training", "type", "update", "values", "xpu"),
)
RESERVED_NAMES = frozenset({*_WORDS, *_ATTRIBUTES})


Level = int | Literal["mean"]  # a depth at which a network answers, from 1 on, or the mean of all


class Frozen(BaseModel):
    """A value: never changed, compared by content, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CtNormalisation(Frozen):
    """Clip to the foreground's 0.5 and 99.5 percentiles (HU), then subtract mean, divide by std."""

    scheme: Literal["ct"] = "ct"
    lower: float
    upper: float
    mean: float
    std: float = Field(gt=0)


class ZScoreNormalisation(Frozen):
    """Subtract each volume's own mean, divide by its own standard deviation.

    nonzero_only: statistics over the voxels that are not 0, the others stay 0 (skull-stripped MR).
    """

    scheme: Literal["zscore"] = "zscore"
    nonzero_only: bool = False


class PercentileNormalisation(Frozen):
    """Clip each volume to its own percentiles, then subtract the mean of its voxels above 0 and
    divide by their standard deviation; what is 0 stays 0.

    So the official code of 3D U2-Net normalises, CT too. lowest: what is below is raised to it
    before that.
    """

    scheme: Literal["percentile"] = "percentile"
    lower_percent: float = Field(default=2.0, ge=0, le=100)
    upper_percent: float = Field(default=98.0, ge=0, le=100)
    lowest: float = -1024.0


Normalisation = Annotated[
    CtNormalisation | ZScoreNormalisation | PercentileNormalisation, Field(discriminator="scheme")
]


class Plan(Frozen):
    """How a domain's volumes are prepared and cut, and which part of the trunk they run through.

    Every triple is (D, H, W). strides[0] is (1, 1, 1); strides[i] leads into stage i;
    kernels[i] is the depthwise kernel of stage i, 1 or 3 per axis. margin: voxels on each side of a
    patch that the network sees besides, where it answers for the middle of what it sees alone.
    """

    spacing_mm: TripleF
    normalisation: tuple[Normalisation, ...]
    patch_size: Triple
    batch_size: int = Field(ge=1)
    strides: tuple[Triple, ...] = Field(min_length=2)
    kernels: tuple[Triple, ...] = Field(min_length=2)
    margin: Triple = (0, 0, 0)

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if len(self.strides) != len(self.kernels):
            raise ValueError("strides and kernels must have one entry per stage")
        if self.strides[0] != (1, 1, 1):
            raise ValueError("the first stride must be (1, 1, 1)")
        if not {n for kernel in self.kernels for n in kernel} <= {1, 3}:
            raise ValueError("depthwise kernels are 1 or 3 per axis")
        if not {n for stride in self.strides for n in stride} <= {1, 2}:
            raise ValueError("strides are 1 or 2 per axis")
        if min(self.margin) < 0:
            raise ValueError("a margin is 0 or more voxels")
        return self

    @model_serializer(mode="wrap")
    def _without_no_margin(self, said: Callable[[Plan], dict[str, Any]]) -> dict[str, Any]:
        """No margin is not said: the hashes of what was written without one stay what they are."""
        found = said(self)
        return found if any(self.margin) else {k: v for k, v in found.items() if k != "margin"}

    @property
    def seen(self) -> Triple:
        """Size of what the network sees at once: a patch with its margins."""
        d, h, w = (size + 2 * n for size, n in zip(self.patch_size, self.margin, strict=True))
        return d, h, w

    @property
    def stages(self) -> int:
        """Encoder stages of the trunk that this domain runs through."""
        return len(self.strides)


class Mirroring(Frozen):
    """Which reflections keep a domain's labels true.

    axes: axes (0 D, 1 H, 2 W) that may be reversed; swap_axis: of these the one that turns left
    into right; swap: the pairs of label values that change places when it is reversed.
    """

    axes: tuple[int, ...] = (0, 1, 2)
    swap_axis: int | None = None
    swap: tuple[tuple[int, int], ...] = ()


class DomainSpec(Frozen):
    """What a domain is: its images, its labels and its plan.

    channels: names in order; labels: names in order of their value, labels[0] is the background;
    ignore_label: the value in reference labels of voxels that nobody judged.
    """

    name: str
    channels: tuple[str, ...] = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=2)
    ignore_label: int | None = None
    mirroring: Mirroring = Mirroring()
    plan: Plan

    @model_validator(mode="after")
    def _mirrored_into_itself(self) -> DomainSpec:
        if not {*self.mirroring.axes} <= {0, 1, 2}:
            raise ValueError("the axes to be mirrored are 0, 1 and 2")
        if not {n for pair in self.mirroring.swap for n in pair} <= {*range(len(self.labels))}:
            raise ValueError("mirroring swaps labels that there are not")
        return self


class Design(Frozen):
    """How a network is put together; the defaults are the paper's.

    first_stage: where the trunk begins. 0: at the full resolution; 1: one stage coarser, the stem
    strides there and the last head is a transposed convolution back. coarse_up: the unit of a
    decoder level that halves the channels works before the up-sampling, not behind it. residual:
    the two units of an encoder stage are summed with what went in. inner_norm: norm and activation
    between the depthwise and the pointwise half of a unit, too.
    """

    first_stage: Literal[0, 1] = 0
    coarse_up: bool = False
    residual: bool = True
    inner_norm: bool = True


class Budget(Frozen):
    """What a plan may spend on one training step, whatever the machine.

    voxels: of all samples of a batch together; least_batch and most_batch: how many samples.
    """

    voxels: int = Field(default=500_000, ge=1)
    least_batch: int = Field(default=2, ge=1)
    most_batch: int = Field(default=16, ge=1)


class ModelSpec(Frozen):
    """How wide, how deep, and how a network is put together, and what its plans may spend.

    design: of the family `universal`; options: each family knows its own.
    """

    preset: str = "paper"
    family: str = "universal"
    base_channels: int = Field(default=16, ge=1)
    stages: int = Field(default=6, ge=2)
    design: Design = Design()
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    budget: Budget = Budget()


_OURS = Design(first_stage=1, coarse_up=True, inner_norm=False)
PRESETS: dict[str, ModelSpec] = {
    "base": ModelSpec(preset="base", design=_OURS),
    "tiny": ModelSpec(
        preset="tiny", base_channels=8, stages=4, design=_OURS, budget=Budget(voxels=200_000)
    ),
    "large": ModelSpec(  # of nnU-Net's full batch, two patches of 128^3
        preset="large", base_channels=32, design=_OURS, budget=Budget(voxels=2 * 128**3)
    ),
    "paper": ModelSpec(),
    "fcn8s": ModelSpec(preset="fcn8s", family="fcn", options={"stride_out": 8}),
    "unet": ModelSpec(preset="unet", family="unet", stages=4, options={"slope": 0.0}),
    "unet-paper": ModelSpec(
        preset="unet-paper",
        family="unet",
        base_channels=64,
        stages=4,
        options={"norm": "none", "slope": 0.0, "padded": False},
        budget=Budget(voxels=44 * 44 * 28, least_batch=1, most_batch=1),  # Çiçek's answer
    ),
    "unetpp": ModelSpec(preset="unetpp", family="unetpp", base_channels=8, stages=5),
    "unetpp-separable": ModelSpec(
        preset="unetpp-separable", family="unetpp", stages=5, options={"block": "separable"}
    ),
    **{
        f"reference-{adapter}": ModelSpec(
            preset=f"reference-{adapter}", family="reference", options={"adapter": adapter}
        )
        for adapter in ("separable", "series", "parallel", "shared", "independent")
    },
}
DEFAULT_PRESET = "base"
# For each domain, where no budget is given: minutes on a laptop; on a GPU nnU-Net's 250,000 steps
# (of one data set) shared by ten domains.
PRESET_STEPS: dict[str, int] = {"tiny": 400, "large": 25_000}


class TrainSpec(Frozen):
    """How a network is trained; the defaults are the preset's.

    steps counts all domains together; time_s, where given, is the budget instead; balanced_share is
    the first part of it, in which small labels weigh more than their size. elastic: every patch is
    deformed as for U-Net. schedule: polynomial decay over the budget, or halving whenever the loss
    stalls. cube: the edge, in voxels, of the cube to which every patch is resized; None keeps the
    plan's own patch and spacing. kernel_rate: Muon moves the depthwise kernels of separable units
    too, at so many learning rates; 0: AdamW does.
    """

    steps: int = Field(default=STEPS_PER_DOMAIN, ge=1)
    time_s: float | None = Field(default=None, gt=0)
    optimiser: Literal["muon", "adamw", "adam", "sgd"] = "muon"
    learning_rate: float = Field(default=1e-2, gt=0)
    kernel_rate: float = Field(default=0, ge=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    warmup_steps: int = Field(default=40, ge=0)
    schedule: Literal["polynomial", "plateau"] = "polynomial"
    decay_power: float = Field(default=0.9, gt=0)
    clip_norm: float = Field(default=12.0, gt=0)
    foreground_share: float = Field(default=1 / 3, ge=0, le=1)
    validations: int = Field(default=10, ge=1)
    loss: str = "dice_ce"
    balanced_share: float = Field(default=0.5, ge=0, le=1)
    elastic: bool = False
    cube: int | None = Field(default=None, ge=8, multiple_of=2)
    seed: int = 0
    fold: int | Literal["all"] = 0


# Huang et al. 2019 and their code: batches of two patches, both with foreground; no clipping.
_REFERENCE = TrainSpec(
    optimiser="adam",
    learning_rate=3e-4,
    weight_decay=5e-4,
    warmup_steps=0,
    schedule="plateau",
    clip_norm=1e6,
    foreground_share=1.0,
    loss="lovasz_focal",
    balanced_share=0.0,
    cube=128,
)
# How a network of a preset is trained where experiments or its source say so, trunk and banks
# alike; where a preset has no line, by the defaults above.
RECIPES: dict[str, TrainSpec] = {
    # Ahead of the default 1e-2 on both sets where it was tried; 4e-2 is as good (docs/log.md).
    **dict.fromkeys(("base", "tiny", "large"), TrainSpec(learning_rate=2e-2)),
    # Ronneberger et al. 2015, section 3: SGD with momentum 0.99, one large tile a step, classes
    # balanced (here less and less), borders weighted, patches deformed. The rate is not published:
    # a gradient moves a weight by 100 times the rate in the end, and without norms nothing brings
    # activations back to scale: on drawn cells 1e-2 kept driving gradients into the clipping, 1e-3
    # did not.
    "unet-paper": TrainSpec(
        optimiser="sgd",
        learning_rate=1e-3,
        weight_decay=0,
        loss="border_ce",
        balanced_share=1.0,
        elastic=True,
    ),
    **{
        f"reference-{adapter}": _REFERENCE
        for adapter in ("separable", "series", "parallel", "shared")
    },
    "reference-independent": _REFERENCE.model_copy(update={"cube": None}),
}


def bank_recipe(preset: str) -> TrainSpec:
    """How a bank alone is trained, on the frozen trunk of a model of that preset.

    As the preset's recipe says, else by the defaults, faster. Where Muon is the optimiser it moves
    the depthwise kernels too: they are what a bank learns by.
    """
    own = RECIPES.get(preset, TrainSpec(learning_rate=BANK_LEARNING_RATE))
    if own.optimiser != "muon":
        return own
    return own.model_copy(update={"kernel_rate": BANK_KERNEL_RATE})


def preset_of(model: ModelSpec) -> str:
    """`unet:block=residual`: its preset, and what of design and options is not the preset's own."""
    known = PRESETS.get(model.preset, model)
    own = {**known.design.model_dump(), **known.options}
    said = {**model.design.model_dump(), **model.options}
    changed = (f":{field}={value}" for field, value in said.items() if own.get(field) != value)
    return model.preset + "".join(changed)


def domain_name(text: str) -> str:
    """`Task21_LeftAtrium`, `Dataset021_LeftAtrium`, `Left Atrium` -> `leftatrium`.

    Raises UsageError for a reserved or empty name.
    """
    bare = re.sub(r"^(Task|Dataset)\d+_", "", text.strip(), flags=re.IGNORECASE)
    name = re.sub(r"[^a-z0-9]", "", bare.lower())
    if not name:
        raise UsageError("domain", f"'{text}' holds no letter or digit", "use letters and digits")
    if name in RESERVED_NAMES:
        raise UsageError("domain", f"'{name}' is a reserved word", "choose another name")
    return name
