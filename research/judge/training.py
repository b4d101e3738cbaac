"""Training of the small judge and of its vision tower, which can be stopped and continued at any step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from research.judge.lessons import SIDE, Batch, patches
from research.muon import muon_and_adamw
from research.states import recover_state, replace_state

logger = logging.getLogger(__name__)

SAVE_INTERVAL = 100
"""Steps after which the state is saved."""
LEARNING_RATE = 2e-3
"""Of Muon; AdamW takes half. Three and six times as much brought nothing."""
_WARM_UP = 300
_KEPT = 0.999
_PREFETCHED = 4


def loss_of_replies(model: Any, batch: Batch) -> Tensor:
    """Compute the mean cross-entropy of all tokens of the replies."""
    images, length = batch.shown.numel(), SIDE**2
    pixels = patches(batch.frames.flatten(0, 1))
    grid = torch.tensor([[1, 2 * SIDE, 2 * SIDE]] * (batch.frames.shape[0] * batch.frames.shape[1]))
    encoded = model.model.get_image_features(pixels, grid, return_dict=True)
    encoded.pooler_output = [_selected(encoded.pooler_output, batch.shown)]
    encoded.deepstack_features = [[_selected(layer, batch.shown)] for layer in encoded.deepstack_features]
    if len(encoded.pooler_output[0]) != images * length:
        raise RuntimeError(f"expected {images * length} tokens of images, got {len(encoded.pooler_output[0])}")
    # Padding comes last, where no token to be learned can see it.
    hidden = model.model(
        input_ids=batch.tokens, position_ids=batch.positions, mm_encoder_outputs={"image": encoded}, use_cache=False
    )[0]
    logits = model.lm_head(hidden.flatten(0, 1)[batch.places])
    return nn.functional.cross_entropy(logits, batch.targets)


def _selected(features: Any, shown: Tensor) -> Tensor:
    """Return the features of the images of all rows, ``[B * images * tokens, D]``."""
    return torch.stack(list(features))[shown].flatten(0, 1)


class Training:
    """Muon and AdamW over all phases, with one learning rate that warms up and then decays linearly to nothing.

    What a step draws follows from the seed and the step alone, so a training that was saved and restored continues as
    if it had never stopped.

    Args:
        model: an untrained judge, or a part of one.
        steps: of all phases together.
        loss: of the model on what one step learns from.
        learning_rate: the highest.

    Attributes:
        step: number of steps taken.
        average: the model with the EMA of the weights.
    """

    def __init__(
        self, model: Any, steps: int, loss: Callable[[Any, Any], Tensor], *, learning_rate: float = LEARNING_RATE
    ) -> None:
        self._model, self._steps, self._loss = model, steps, loss
        self.average = deepcopy(model).requires_grad_(False).eval()
        self._optimizers = muon_and_adamw(model, learning_rate, inside=("layers", "blocks"))
        self._base_rates = [optimizer.param_groups[0]["lr"] for optimizer in self._optimizers]
        self.step, self._smooth = 0, 0.0

    def run(self, lessons: Dataset[Any], until: int, *, workers: int, watch: Callable[[Training], None]) -> None:
        """Take all steps of a phase that remain.

        Args:
            lessons: of the phase.
            until: number of the step at which it ends.
            workers: processes that prepare lessons; 0 prepares them here.
            watch: called every `SAVE_INTERVAL` steps, and at the end.
        """
        started, first, waited = time.monotonic(), self.step, 0.0
        batches = _batches(lessons, range(self.step, until), workers)
        while self.step < until:
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            self._take_step(batch)
            if self.step % SAVE_INTERVAL == 0 or self.step == until:
                pace = (time.monotonic() - started) / (self.step - first)
                text = "step %d of %d  loss %.4f  %.2f s each, %.0f%% of it for lessons"
                share = 100.0 * waited / (time.monotonic() - started)
                logger.info(text, self.step, self._steps, self._smooth, pace, share)
                watch(self)

    def save(self, folder: Path) -> None:
        """Write weights, EMA and optimizers into a folder, which takes the place of an earlier one when it is whole."""
        state = {
            "step": self.step,
            "steps": self._steps,
            "smooth": self._smooth,
            "model": dict(self._model.named_parameters()),
            "average": dict(self.average.named_parameters()),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        replace_state(folder, state)

    def restore(self, folder: Path) -> bool:
        """Restore what `save` wrote; False if there is nothing.

        Raises:
            ValueError: what is there belongs to a training of another length.
        """
        state = recover_state(folder)
        if state is None:
            return False
        if state["steps"] != self._steps:
            raise ValueError(
                f"{folder}: expected the state of a training of {self._steps} steps, got one of {state['steps']}: name"
                " another folder, or the same --speed"
            )
        self.step, self._smooth = state["step"], state["smooth"]
        for module, name in ((self._model, "model"), (self.average, "average")):
            with torch.no_grad():
                for key, parameter in module.named_parameters():
                    parameter.copy_(state[name][key])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return True

    def _take_step(self, batch: Any) -> None:
        self._set_rates()
        loss = self._loss(self._model, batch)
        self._model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        with torch.no_grad():
            decay = min(_KEPT, (self.step + 1) / (self.step + 10))
            torch._foreach_lerp_(list(self.average.parameters()), list(self._model.parameters()), 1.0 - decay)
        self._smooth += (loss.item() - self._smooth) * (0.02 if self.step else 1.0)
        self.step += 1

    def _set_rates(self) -> None:
        warm_up = min(_WARM_UP, max(1, self._steps // 10))
        share = min(1.0, (self.step + 1) / warm_up, 1.05 * (self._steps - self.step) / self._steps)
        for optimizer, base in zip(self._optimizers, self._base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = base * share


def _batches(lessons: Dataset[Any], steps: range, workers: int) -> Iterator[Any]:
    extra: dict[str, Any] = {"prefetch_factor": _PREFETCHED, "multiprocessing_context": "spawn"} if workers else {}
    return iter(DataLoader(lessons, sampler=steps, batch_size=None, num_workers=workers, **extra))
