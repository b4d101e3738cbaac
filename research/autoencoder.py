"""Training of the small autoencoders: first all of it, then the decoder alone, so that latents stay as they are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from flexgym.shapes.captions import Spec
from flexgym.shapes.sampling import draw_clip, draw_scene, draw_spec
from flexgym.shapes.scenes import BACKGROUND, render, render_video
from research.states import recover_state, replace_state

logger = logging.getLogger(__name__)

SAVE_INTERVAL = 200
"""Steps after which the state is saved."""


@dataclass(frozen=True)
class Stage:
    """Length and step size of one stage of training.

    Attributes:
        steps: how many there are.
        batch_size: of each.
        learning_rate: the highest.
        decoder_only: of an autoencoder, whose latents then stay as they are.
    """

    steps: int
    batch_size: int
    learning_rate: float
    decoder_only: bool = False

    def shorter(self, speed: float) -> Self:
        """Return a stage that is shorter by the factor ``speed``."""
        return replace(self, steps=max(2, int(self.steps / speed)))


def draw_specs(rng: np.random.Generator, kind: str, count: int, *, crowded: float = 0.0) -> list[Spec]:
    """Draw training specs, as the first of what `draw` does."""
    # without a share, nothing is drawn for it
    return [_draw_spec(rng, kind, crowded=crowded > 0 and rng.random() < crowded) for _ in range(count)]


def _draw_spec(rng: np.random.Generator, kind: str, *, crowded: bool) -> Spec:
    while (spec := draw_spec(rng, kind, "training")).total < (2 if crowded else 1):
        pass
    return spec


def draw(rng: np.random.Generator, kind: str, count: int, *, crowded: float = 0.0) -> tuple[list[Spec], Tensor]:
    """Draw training specs with samples, uint8 ``[B, 3, H, W]`` or ``[B, 3, F, H, W]``.

    Args:
        rng: draws them.
        kind: ``"image"`` or ``"video"``.
        count: how many.
        crowded: share of them that is drawn from categories of several things alone.
    """
    drawn = draw_specs(rng, kind, count, crowded=crowded)
    if kind == "image":
        pixels = np.stack([render(draw_scene(rng, spec)) for spec in drawn]).transpose(0, 3, 1, 2)
    else:
        pixels = np.stack([render_video(draw_clip(rng, spec)) for spec in drawn]).transpose(0, 4, 1, 2, 3)
    return drawn, torch.from_numpy(np.ascontiguousarray(pixels))


def to_unit(pixels: Tensor) -> Tensor:
    """Scale pixels from 0..255 to float32 in ``[-1, 1]``."""
    return pixels.float() / 127.5 - 1.0


def reconstruction_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Compute absolute and squared error, five times as much on things as on the background."""
    is_thing = (pixels - (BACKGROUND / 127.5 - 1.0)).abs().amax(1, keepdim=True) > 0.05
    error = decoded - pixels
    return ((error.abs() + error.square()) * (1.0 + 4.0 * is_thing)).mean()


def decoder_parts(autoencoder: Any) -> nn.ModuleList:
    """Return the modules of an autoencoder between latents and pixels."""
    after = getattr(autoencoder, "post_quant_conv", None)
    return nn.ModuleList([autoencoder.decoder, *([] if after is None else [after])])


class AutoencoderTraining:
    """One stage on fresh scenes, with noise on the latents so that the decoder draws sharp shapes from inexact ones.

    What a step draws follows from the seed and the step alone, so a training that was saved and restored continues as
    if it had never stopped.

    Args:
        autoencoder: to train.
        kind: ``"image"`` or ``"video"``.
        stage: length and step size.
        seed: of all draws.
        compiled: run through ``torch.compile``.

    Attributes:
        step: number of steps taken.
    """

    def __init__(self, autoencoder: Any, kind: str, stage: Stage, *, seed: int, compiled: bool = False) -> None:
        self._autoencoder, self._kind, self._stage, self._seed = autoencoder, kind, stage, seed
        self._parts = decoder_parts(autoencoder) if stage.decoder_only else autoencoder
        self._optimizer = torch.optim.AdamW(self._parts.parameters(), stage.learning_rate, weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, stage.learning_rate, total_steps=stage.steps
        )
        self._reconstruct = torch.compile(self._loss) if compiled else self._loss
        self.step = 0

    def take_step(self) -> float:
        """Take one step and return its loss."""
        torch.manual_seed(1_000_003 * self._seed + self.step)
        pixels = to_unit(draw(np.random.default_rng([self._seed, self.step]), self._kind, self._stage.batch_size)[1])
        loss = self._reconstruct(pixels)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parts.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        return loss.item()

    def _loss(self, pixels: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self._stage.decoder_only):
            latents = self._autoencoder.encode(pixels).latent_dist.mean
        level = torch.rand(len(latents), *[1] * (latents.ndim - 1)) * 0.6 * latents.detach().std()
        decoded = self._autoencoder.decode(latents + level * torch.randn_like(latents)).sample
        return reconstruction_loss(decoded, pixels) + 1e-3 * latents.square().mean()

    def run(self, save: Callable[[AutoencoderTraining], None]) -> None:
        """Take all remaining steps.

        Args:
            save: called every `SAVE_INTERVAL` steps.
        """
        started = time.monotonic()
        while self.step < self._stage.steps:
            loss = self.take_step()
            if self.step % 100 == 0:
                logger.info("autoencoder %d loss %.4f, %.0f s", self.step, loss, time.monotonic() - started)
            if self.step % SAVE_INTERVAL == 0:
                save(self)

    def state(self) -> dict[str, Any]:
        """Return weights, optimizer, schedule and step as plain values and tensors."""
        return {
            "step": self.step,
            "weights": dict(self._autoencoder.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.step = state["step"]
        self._autoencoder.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


def train_stages(
    autoencoder: Any, kind: str, stages: Sequence[Stage], *, seed: int, folder: Path, compiled: bool = False
) -> None:
    """Train an autoencoder through all its stages, or what remains of them.

    Args:
        autoencoder: to train.
        kind: ``"image"`` or ``"video"``.
        stages: one after the other.
        seed: of all draws.
        folder: of the state, from which a training that was stopped continues.
        compiled: run through ``torch.compile``.
    """
    saved = recover_state(folder)
    for number, stage in enumerate(stages):
        if saved and number < saved["number"]:
            continue
        training = AutoencoderTraining(autoencoder, kind, stage, seed=seed + 1000 * number, compiled=compiled)
        if saved and number == saved["number"]:
            training.restore(saved["training"])
        training.run(partial(_save, folder=folder, number=number))


def _save(training: AutoencoderTraining, *, folder: Path, number: int) -> None:
    replace_state(folder, {"number": number, "training": training.state()})
