"""How each contender is built inside its worker: a step to be timed, and its number of weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import torch
from bench_contenders import WHOLE, Contender, Job, Setting
from torch import Tensor, nn

from u2net3d.losses import LOSSES, supervised
from u2net3d.ops import native
from u2net3d.ops.memory import keep_freed_memory
from u2net3d.spec import DEFAULT_PRESET, PRESETS, TrainSpec
from u2net3d.train.optimiser import optimiser_for
from u2net3d.train.run import fresh_net

Step = Callable[[], object]
Feed = Iterator[tuple[Tensor, Tensor]]  # images and targets
_TINY = 16  # voxels a side, enough to fill the optimiser's state of many domains
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def prepare(job: Job) -> None:
    """Threads, allocator and kernels as the contender has them; before anything is built."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    if job.contender.keeps_memory and not keep_freed_memory():
        raise RuntimeError("the C library takes no allocator thresholds")
    in_torch = job.contender.engine == "torch"
    if job.contender.precision == "bf16" and job.device == "cpu" and in_torch and not _bf16():
        what = "oneDNN has no bf16 for this processor, and torch's own convolution takes minutes"
        raise RuntimeError(what)
    if job.contender.family == "ours" and not job.contender.native:
        patch.object(native, "library", lambda: None).start()  # for the life of this worker
    elif job.contender.family == "ours" and job.device == "cpu" and native.library() is None:
        raise RuntimeError("the native kernels were not built")


def _bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def build(job: Job) -> tuple[Step, int]:
    """A step, forward or whole, and how many weights its network has."""
    if job.kind == "forward":
        return _forward(job)
    if job.kind in WHOLE:
        import bench_volumes

        return bench_volumes.built(job)
    if job.contender.domains > 1:
        return warmed_up(job, _TINY)
    make = _our_step if job.contender.family == "ours" else _peer_step
    return make(job, _endless(job))


def warmed_up(job: Job, side: int) -> tuple[Step, int]:
    """The step, after one of every domain on a patch of at most `side` voxels a side.

    All that stays between steps is there then, such as the optimiser's state.
    """
    d, h, w = (min(n, side) for n in job.setting.patch)
    small = _batch(job, job.setting.model_copy(update={"patch": (d, h, w)}))
    times = job.contender.domains
    feed = itertools.chain(itertools.repeat(small, times), _endless(job))
    make = _our_step if job.contender.family == "ours" else _peer_step
    step, weights = make(job, feed)
    for _ in range(times):
        step()
    return step, weights


def _batch(job: Job, setting: Setting) -> tuple[Tensor, Tensor]:
    """Image (B, C, D, H, W) of noise and target (B, D, H, W) of all classes."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(setting.batch, setting.channels, *setting.patch, generator=generator)
    size = (setting.batch, *setting.patch)
    target = torch.randint(setting.classes, size, generator=generator)
    if job.contender.channels_last:
        image = image.contiguous(memory_format=torch.channels_last_3d)
    return image.to(job.device), target.to(job.device)


def _endless(job: Job) -> Feed:
    return itertools.repeat(_batch(job, job.setting))


def _our_net(contender: Contender, setting: Setting) -> tuple[nn.Module, list[str]]:
    names = [f"domain{n}" for n in range(contender.domains)]
    model = PRESETS[contender.preset].model_copy(update={"stages": setting.stages})
    return fresh_net(model, {name: setting.domain(name) for name in names}, 0), names


def _our_step(job: Job, feed: Feed) -> tuple[Step, int]:
    """What `u2net3d train` does with a batch, the next domain each time (train/loop.py)."""
    net, names = _our_net(job.contender, job.setting)
    net.to(job.device).train()
    recipe = TrainSpec()
    optimiser = optimiser_for(net, recipe)
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    turn = itertools.cycle(names)

    def step() -> None:
        image, target = next(feed)
        optimiser.zero_grad(set_to_none=True)
        with _autocast(job):
            outputs = net(image, next(turn))
            loss = supervised(LOSSES[recipe.loss], outputs, target, 0.5)
        loss.item()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(weights, recipe.clip_norm).item()
        if math.isfinite(norm):
            optimiser.step()

    return step, _count(net)


def _peer_step(job: Job, feed: Feed) -> tuple[Step, int]:
    """A dense net's step: nnU-Net's as its trainer does it, the other with our loss and AdamW."""
    from torch.amp import GradScaler

    contender, setting = job.contender, job.setting
    net = _formed(_dense(contender, setting), job).train()
    ours = contender.family != "nnunet"
    weights = list(net.parameters())
    optimiser = optimiser_for(net, TrainSpec()) if ours else _nnunet_optimiser(weights)
    scaler = GradScaler(job.device, enabled=contender.precision == "fp16")
    loss_of = _our_loss if ours else _nnunet_loss(setting)

    def step() -> None:
        image, target = next(feed)
        optimiser.zero_grad(set_to_none=True)
        with _autocast(job):
            loss = loss_of(net(image), target)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(weights, 12)
        scaler.step(optimiser)
        scaler.update()
        loss.item()

    return step, _count(net)


def _forward(job: Job) -> tuple[Step, int]:
    contender, setting = job.contender, job.setting
    image, _ = _batch(job, setting)
    if contender.family == "ours":
        net, names = _our_net(contender, setting)
        net.to(job.device).eval()
        arguments = (image, names[0])
    else:
        net = _formed(_monai(setting) if contender.family == "monai" else _evaluated(job), job)
        arguments = (image,)
    if contender.engine == "openvino":
        import bench_openvino

        weights = _count(net)
        run = bench_openvino.forward(job, net.eval())
        patch = image.numpy()
        return lambda: run(patch), weights

    @torch.inference_mode()
    def step() -> None:
        with _autocast(job):
            net(*arguments)

    return step, _count(net.eval())


def _formed(net: nn.Module, job: Job) -> nn.Module:
    """On its device, in the contender's memory format, compiled where it is."""
    net = net.to(job.device)
    if job.contender.channels_last:
        net = net.to(memory_format=torch.channels_last_3d)
    return torch.compile(net) if job.contender.compiled else net


def _autocast(job: Job) -> AbstractContextManager[object]:
    half = _HALF.get(job.contender.precision)
    return nullcontext() if half is None else torch.autocast(job.device, half)


def _dense(contender: Contender, setting: Setting) -> nn.Module:
    """nnU-Net's network with the channels of its planner, or with those of one of our presets."""
    if contender.family == "nnunet":
        return plain_net(setting)
    model = PRESETS["paper" if contender.family == "dense-paper" else DEFAULT_PRESET]
    first = model.design.first_stage
    widths = [model.base_channels * 2**stage for stage in range(first, setting.stages)]
    net = _plain(setting, first, widths)
    return _Finer(net, setting) if first else net


def plain_net(setting: Setting) -> nn.Module:
    """nnU-Net's network as its planner makes it, its widths included."""
    return _plain(setting, 0, [min(320, 32 * 2**stage) for stage in range(setting.stages)])


class _Finer(nn.Module):
    """A network that begins at stage 1, its finest logits brought back to the full resolution."""

    def __init__(self, net: nn.Module, setting: Setting) -> None:
        super().__init__()
        self.net, stride = net, setting.strides[1]
        self.decoder = net.decoder
        self.back = nn.ConvTranspose3d(setting.classes, setting.classes, stride, stride)

    def forward(self, image: Tensor) -> list[Tensor] | Tensor:
        levels = self.net(image)
        if isinstance(levels, Tensor):
            return self.back(levels)
        return [self.back(levels[0]), *levels[1:]]


def _plain(setting: Setting, first: int, widths: list[int]) -> nn.Module:
    """nnU-Net's network from stage `first` on, where its first convolution strides to."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    stages = setting.stages - first
    net = PlainConvUNet(
        setting.channels,
        stages,
        widths,
        nn.Conv3d,
        setting.kernels[first:],
        setting.strides[first:],
        [2] * stages,
        setting.classes,
        [2] * (stages - 1),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    net.apply(net.initialize)
    return net


def _evaluated(job: Job) -> nn.Module:
    net = _dense(job.contender, job.setting)
    net.decoder.deep_supervision = False  # as nnU-Net's predictor does
    return net


def _monai(setting: Setting) -> nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(3, setting.channels, setting.classes)


def _our_loss(outputs: list[Tensor], target: Tensor) -> Tensor:
    return supervised(LOSSES[TrainSpec().loss], outputs, target, 0.5)


def _nnunet_loss(setting: Setting) -> Callable[[list[Tensor], Tensor], Tensor]:
    """Its trainer's Dice and cross-entropy over the levels, the coarsest of them with weight 0.

    The trainer gets one target per level from its loader; here they are cut out at the first step.
    """
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    single = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    levels = setting.stages - 1
    share = [1 / 2**level for level in range(levels - 1)] or [1.0]
    weights = [part / sum(share) for part in share]
    weights += [0.0] * (levels - len(weights))
    whole = DeepSupervisionWrapper(single, weights)
    cut: dict[int, list[Tensor]] = {}

    def loss(outputs: list[Tensor], target: Tensor) -> Tensor:
        if id(target) not in cut:
            cut[id(target)] = [_at(target, logits) for logits in outputs]
        return whole(outputs, cut[id(target)])

    return loss


def _at(target: Tensor, logits: Tensor) -> Tensor:
    d, h, w = (a // b for a, b in zip(target.shape[1:], logits.shape[2:], strict=True))
    return target[:, None, ::d, ::h, ::w].contiguous()


def _nnunet_optimiser(weights: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)


def _count(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())
