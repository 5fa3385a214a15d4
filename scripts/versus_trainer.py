"""nnU-Net's own trainer, ended by the clock: its network, loader, augmentation, loss and step.

What nnU-Net's trainer does per epoch is done per step, since a budget of minutes holds fewer steps
than one of its epochs: its polynomial decay runs over the time, and its pseudo-validation of random
patches, which decides nothing about the last weights, is left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from u2net3d import files
from u2net3d.errors import Stopped
from u2net3d.train.interrupt import held_back, stopping
from u2net3d.train.loop import CHECKPOINT_EVERY_S

TOLD_EVERY_S = 60.0
WARM_SHARE = 0.05  # of the budget: a warm-up is never longer


class Timed(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net as it comes: SGD with momentum 0.99 at 1e-2.

    time_s: the budget; checkpoint: where it writes down how far it is; identity: of the data it
    learns from; said by whoever makes one, since nnU-Net's constructor takes nothing more. steps
    and spent_s: how far it is.
    """

    time_s = 0.0
    checkpoint = Path()
    identity = ""
    warm_steps = 0

    def begun(self, time_s: float, checkpoint: Path, identity: str) -> Timed:
        """Itself, with its network built."""
        self.time_s, self.checkpoint, self.identity = time_s, checkpoint, identity
        self.steps, self.spent_s, self.saved_at = 0, 0.0, 0.0
        self.disable_checkpointing = True  # nnU-Net's own, per epoch
        self.initialize()
        return self

    def configure_optimizers(self) -> tuple[Any, PolyLRScheduler]:
        """nnU-Net's, with a schedule that counts in shares of the budget."""
        optimizer, _ = super().configure_optimizers()
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, 1)

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """The training cases twice: those to judge by were never given to nnU-Net.

        Its second loader is asked for the first batch alone, when it is made.
        """
        training, _ = super().get_tr_and_val_datasets()
        return training, training

    def run_training(self) -> None:
        """Steps until the time is used up; the clock begins with the first one, its loader ready.

        A signal raises Stopped behind the step at hand, with a checkpoint.
        """
        self.on_train_start()
        self.network.train()
        began, told_at = time.perf_counter() - self.spent_s, 0.0
        with stopping():  # behind the start of the loader's processes: they are to die of it
            try:
                while self.spent_s < self.time_s:
                    self._one(began)
                    if time.perf_counter() - told_at > TOLD_EVERY_S:
                        told_at = time.perf_counter()
                        self._tell(f"{self.spent_s / self.time_s:.0%}, step {self.steps}")
            except Stopped:
                self.save()
                raise
            self.save()
        self.on_train_end()

    def _one(self, began: float) -> None:
        batch = next(self.dataloader_train)
        with held_back(self._tell):
            self.set_rate(self.spent_s / self.time_s)
            self.train_step(batch)
            self.steps, self.spent_s = self.steps + 1, time.perf_counter() - began
            if self.spent_s - self.saved_at > CHECKPOINT_EVERY_S:
                self.save()

    def set_rate(self, share: float) -> None:
        """The learning rate at a share of the budget; warmed up where there are `warm_steps`."""
        self.lr_scheduler.step(share)
        if self.warm_steps:
            warm = max((self.steps + 1) / self.warm_steps, share / WARM_SHARE)
            for group in self.optimizer.param_groups:
                group["lr"] *= min(warm, 1.0)

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        self.saved_at = self.spent_s
        state = {
            "identity": self.identity,
            "steps": self.steps,
            "spent_s": self.spent_s,
            "network": self.module().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.grad_scaler.state_dict() if self.grad_scaler else None,
        }
        with files.replacing(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def restore(self) -> bool:
        """Takes up the checkpoint; False where there is none of these data."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["identity"] != self.identity:
            self._tell("begun anew: the checkpoint is of other data")
            return False
        self.module().load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.grad_scaler and state["scaler"]:
            self.grad_scaler.load_state_dict(state["scaler"])
        self.steps, self.spent_s = state["steps"], state["spent_s"]
        self.saved_at = self.spent_s
        return True

    def module(self) -> Any:
        """The network itself, compiled or not."""
        return getattr(self.network, "_orig_mod", self.network)

    def _tell(self, text: str) -> None:
        print(f"{type(self).__name__}: {text}", file=sys.stderr)


class TimedAdamW(Timed):
    """nnU-Net's network, loader, augmentation and loss; AdamW at 1e-3, decay 1e-2, warmed up."""

    warm_steps = 40

    def configure_optimizers(self) -> tuple[Any, PolyLRScheduler]:
        """AdamW in the place of SGD."""
        self.initial_lr, self.weight_decay = 1e-3, 1e-2
        optimizer = torch.optim.AdamW(
            self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, 1)


TRAINERS: dict[str, Callable[..., Timed]] = {"nnunet": Timed, "nnunet-adamw": TimedAdamW}
HOW = {
    "nnunet": "SGD, Nesterov momentum 0.99, 1e-2, weight decay 3e-5; C allocator as it comes",
    "nnunet-adamw": "AdamW, 1e-3, weight decay 1e-2, warm-up over 40 steps or 5 % of the time,"
    " whichever is shorter; allocator thresholds raised",
}
