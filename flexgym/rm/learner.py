"""The learner of judge training: TRL checks the data, collates and computes the loss; RLlib does the rest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchDDPRLModule
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.utils import get_total_norm

from flexgym.core.sharding import over_learners, shard, whole
from flexgym.rllib.sharded import ShardedLearner
from flexgym.rm.config import JudgeConfig
from flexgym.rm.held_out import MicroBatch, Share, chosen_rows, evaluate
from flexgym.rm.module import JudgeModule
from flexgym.rm.rows import TrainingRows
from flexgym.rm.saving import save_inputs, save_judge
from flexgym.rm.stage import Trainer
from flexgym.rm.stream import BatchStream, Position

STREAM = "stream"
"""Key of the position in the data in a learner's state."""
TOKENS = "trained_tokens"
"""Key of TRL's count of trained tokens, logged as ``num_tokens``, in a learner's state."""


class JudgeLearner(ShardedLearner):
    """Takes optimizer steps on the loss of a TRL trainer.

    The trainer supplies its checks, its collator and its loss, and never trains by itself. Each learner reads rows
    itself: a batch is the same for any number of learners, and each takes its own share.

    Attributes:
        rows: the training rows.
        held_out: the held-out rows, if the settings name any.
        trainer: TRL's trainer around the model.
        stream: order of the training rows, batch by batch.
    """

    config: JudgeConfig
    rows: TrainingRows
    held_out: TrainingRows
    trainer: Trainer

    def build(self) -> None:
        """Make the module, the trainer around it, the optimizer and the stream of batches."""
        settings = self.config.settings
        if self.config.num_learners > 1:
            _set_accelerate_ranks(torch.distributed.get_rank(), self.config.num_learners)
        super().build()
        # RLlib requests deterministic algorithms, and torch then fills all new memory with NaN. TRL allocates half a
        # gigabyte for logits, so that this took a quarter of a small judge's step. No uninitialized value is read.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        batch_size = settings.training.batch_size
        self.stream = BatchStream(self.rows.lengths, batch_size=batch_size, seed=settings.run.seed)
        if settings.training.gradient_checkpointing:
            # TRL's trainer does this in its own train().
            self.judge_module.model.gradient_checkpointing_enable({"use_reentrant": False})
        if settings.held_out.files:
            self.held_out = self._open_rows(settings.held_out.files, self.judge_module)

    @property
    def judge_module(self) -> JudgeModule:
        """Return the module without any wrapper for distribution."""
        return self.plain_module

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: Any) -> Tensor:
        """Raise an error: the loss is TRL's, see `take_steps`."""
        raise NotImplementedError("JudgeLearner.take_steps computes its losses")

    # --- rows, trainer and placement ---------------------------------------------------------------------------------

    def _map_module_to_device(self, module: Any) -> None:
        """Build the trainer, which may add to the model, before the model is placed: RLlib has no hook in between."""
        judge: JudgeModule = module[DEFAULT_MODULE_ID]
        self._build_trainer(judge)
        if self.config.shards:
            self._shard(judge.model)
        else:
            super()._map_module_to_device(module)
        self._autocast(judge.model)

    def _build_trainer(self, judge: JudgeModule) -> None:
        """Open the training rows, load the reference if the stage needs one, and wrap both models in TRL's trainer."""
        settings, stage = self.config.settings, self.config.stage
        # The same draws on every learner, whatever was drawn before.
        torch.manual_seed(settings.run.seed)
        self.rows = self._open_rows(settings.data.files, judge)
        reference = stage.load_reference(settings)
        if reference is not None and self.config.shards:
            self._shard(reference)
        sample = Dataset.from_list([self.rows.example])
        self.trainer = stage.make_trainer(
            settings, judge.model, processor=judge.processor, sample=sample, reference=reference
        )

    def _open_rows(self, files: Sequence[str], judge: JudgeModule) -> TrainingRows:
        return self.config.stage.make_rows(self.config.settings, files, processor=judge.processor)

    @cached_property
    def _mesh(self) -> DeviceMesh:
        return over_learners(self._device, self.config.num_learners)

    def _shard(self, model: Any) -> None:
        """Shard a model over the learners, to be gathered in the precision of the arithmetic."""
        compute_dtype = torch.bfloat16 if self.config.settings.judge.autocasts else None
        shard(model, self._mesh, compute_dtype=compute_dtype)

    def _autocast(self, model: Any) -> None:
        """Wrap the forward pass of the model in autocast, if the settings compute in bfloat16.

        TRL has done this with the reference, and would do it with the model in its own train().
        """
        if self.config.settings.judge.autocasts:
            self.trainer.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)

    # --- training ----------------------------------------------------------------------------------------------------

    def take_steps(self, count: int, *, rows_so_far: int) -> dict[str, float]:
        """Take optimizer steps.

        Args:
            count: number of steps.
            rows_so_far: rows of all earlier steps, which learning-rate schedules count in.

        Returns:
            Means over the steps: ``loss``, ``gradient_norm`` (before clipping), ``learning_rate`` and TRL's metrics.
        """
        size = self.config.settings.training.batch_size
        steps = [self._step(rows_so_far + step * size) for step in range(count)]
        self._weights_seq_no += count
        return {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}

    def _step(self, rows_so_far: int) -> dict[str, float]:
        # RLlib's learning-rate schedules expect this name for what they count in.
        self.before_gradient_based_update(timesteps={"num_env_steps_sampled_lifetime": rows_so_far})
        rate = next(iter(self._optimizer_parameters)).param_groups[0]["lr"]
        self.module[DEFAULT_MODULE_ID].train()
        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)
        loss = self._accumulate(list(self._micro_batches(self.stream.take())))
        gradients = {reference: parameter.grad for reference, parameter in self._params.items()}
        norm = whole(get_total_norm([gradient for gradient in gradients.values() if gradient is not None]))
        self.apply_gradients(self.postprocess_gradients(gradients))
        # Sets the rate of the next step.
        seen = rows_so_far + self.config.settings.training.batch_size
        self.after_gradient_based_update(timesteps={"num_env_steps_sampled_lifetime": seen})
        return {"loss": loss, "gradient_norm": float(norm), "learning_rate": rate, **self._pop_logged()}

    def _micro_batches(self, rows: NDArray[np.int64]) -> Iterator[MicroBatch]:
        """Yield this learner's share of a batch, collated."""
        settings = self.config.settings
        mine, size = rows[self.rank :: settings.num_shards], settings.training.micro_batch_size
        for start in range(0, len(mine), size):
            yield self._collated(self.rows, mine[start : start + size])

    def _collated(self, rows: TrainingRows, numbers: NDArray[np.int64]) -> MicroBatch:
        batch = self.trainer.data_collator([rows[int(number)] for number in numbers])
        return {name: value.to(self.device) for name, value in batch.items()}

    def _accumulate(self, batches: Sequence[MicroBatch]) -> float:
        """Accumulate the gradients of all micro-batches.

        Learners reduce their gradients with the last micro-batch, or with each if the model is sharded.
        The Trainer of transformers averages over micro-batches unless a model declares that it takes a number of
        tokens, which Qwen3-VL does not; here every token has the same weight, however rows are divided.

        Returns:
            The loss over all learners.
        """
        module = self.module[DEFAULT_MODULE_ID]
        forward = partial(_forward, module)
        replicated = isinstance(module, TorchDDPRLModule)
        tokens = self._tokens(batches)
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches):
            waits = replicated and number + 1 < len(batches)
            with module.no_sync() if waits else contextlib.nullcontext():
                loss = self.trainer.compute_loss(forward, batch, num_items_in_batch=tokens)
                share = loss if tokens is not None else loss / len(batches)
                share.backward()
            total += share.detach()
        if self.config.num_learners > 1:
            torch.distributed.all_reduce(total)
            total /= self.config.num_learners
        return float(total)

    def _tokens(self, batches: Sequence[MicroBatch]) -> Tensor | None:
        """Count the trained tokens of the step over all learners; None if the loss is not a mean over tokens."""
        if "labels" not in batches[0]:
            return None
        tokens = torch.stack([(batch["labels"][:, 1:] != -100).sum() for batch in batches]).sum()
        if self.config.num_learners > 1:
            torch.distributed.all_reduce(tokens)
        return tokens

    def _pop_logged(self) -> dict[str, float]:
        """Return the metrics that TRL's trainer logged in this step, and clear them."""
        logged = {name: float(np.mean(values)) for name, values in self.trainer._metrics["train"].items() if values}
        self.trainer._metrics["train"].clear()
        return logged

    # --- held-out rows and saving ------------------------------------------------------------------------------------

    def evaluate_held_out(self) -> dict[str, float]:
        """Compute TRL's loss and metrics on the held-out rows of all learners; every learner must call this.

        Returns:
            The metrics by name, such as ``eval/loss``.
        """
        settings = self.config.settings
        rows = chosen_rows(self.held_out, settings.held_out.max_rows)
        share = Share(self.rank, settings.num_shards, settings.training.micro_batch_size)
        batches = ((self._collated(self.held_out, part.rows), part.counts) for part in share.forwards(rows))
        return evaluate(self.trainer, batches, weigh=self.config.stage.figure_weight)

    def save_judge(self, folder: Path) -> None:
        """Write the trained judge from the first learner; if the model is sharded, every learner must call this."""
        model, first = self.judge_module.model, not self.rank
        state = self.judge_module.saved_weights(keep=first) if self.config.shards else None
        if first:
            source = self.config.settings.judge.source
            save_judge(model, source, folder, state=state)
            save_inputs(self.rows.inputs, source, folder)

    # --- state -------------------------------------------------------------------------------------------------------

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return RLlib's state, the position in the data, and the number of trained tokens."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(STREAM, components, not_components):
            state[STREAM] = asdict(self.stream.position)
        if self._check_component(TOKENS, components, not_components):
            state[TOKENS] = self.trainer._total_train_tokens
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `get_state`."""
        super().set_state(state)
        if STREAM in state:
            self.stream.position = Position(**state[STREAM])
        if TOKENS in state:
            self.trainer._total_train_tokens = state[TOKENS]


def _forward(module: Any, **batch: Any) -> Any:
    return module.forward_train(batch)


def _set_accelerate_ranks(rank: int, learners: int) -> None:
    """Set the environment variables that accelerate reads; RLlib sets only the address of the process group."""
    os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(learners), LOCAL_WORLD_SIZE="1")
