"""The learner of reward models: TRL checks the data, collates and computes the loss; RLlib owns everything else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchDDPRLModule
from torch import Tensor
from torch.nn.utils import get_total_norm

from flexgym.core.sharding import over_learners, shard, whole
from flexgym.rllib.sharded import ShardedLearner
from flexgym.rm.held_out import MicroBatch, Share, chosen_rows, evaluate
from flexgym.rm.module import JudgeModule
from flexgym.rm.rows import TrainingRows
from flexgym.rm.saving import save_judge
from flexgym.rm.stream import BatchStream, Position

if TYPE_CHECKING:
    from flexgym.rm.config import RewardModelConfig

STREAM = "stream"
"""Where the position in the data stands in the state of a learner."""
TOKENS = "trained_tokens"
"""Where TRL's count of all tokens so far, which it logs as ``num_tokens``, stands there."""


class RewardModelLearner(ShardedLearner):
    """Takes optimiser steps on a TRL trainer's loss.

    The trainer is built for its checks, its collator and its loss, and never trains. Rows are read by each learner
    itself: a batch is the same whatever the number of learners, and each takes its own part.
    """

    config: RewardModelConfig

    def build(self) -> None:
        """Make module, trainer, data and optimiser."""
        if self.config.num_learners > 1:
            _tell_accelerate(torch.distributed.get_rank(), self.config.num_learners)
        super().build()
        # RLlib asks for deterministic algorithms, and torch then fills all new memory with NaN. TRL takes half a
        # gigabyte for logits, so this was a quarter of a small judge's step; nobody reads what was not written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.stream = BatchStream(self.rows.lengths, batch_size=self.config.batch_size, seed=self.config.seed or 0)
        if self.config.gradient_checkpointing:
            # TRL's trainer would do so in its own train().
            self.judge_module.model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.config.held_out_files:
            self.held_out = self.config.make_rows(self.config.held_out_files, self.judge_module.processor)

    def _map_module_to_device(self, module: Any) -> None:
        """Build the trainer, which may add to the model, and place the model: whole, or the part of this learner."""
        judge = module[DEFAULT_MODULE_ID]
        # On every learner the same, whatever was drawn before.
        torch.manual_seed(self.config.seed or 0)
        self.rows = self.config.make_rows(self.config.files, judge.processor)
        reference = self.config.make_reference()
        mesh = over_learners(self._device, self.config.num_learners) if self.config.shards else None
        compute_dtype = torch.bfloat16 if self.config.autocasts else None
        if mesh and reference is not None:
            shard(reference, mesh, compute_dtype=compute_dtype)
        sample = Dataset.from_list([self.rows.example])
        self.trainer = self.config.make_trainer(judge.model, judge.processor, sample, reference=reference)
        if mesh:
            shard(judge.model, mesh, compute_dtype=compute_dtype)
        else:
            super()._map_module_to_device(module)
        if compute_dtype:
            # Autocast around its forward. TRL has done so with the reference, and would with this in its own train().
            self.trainer.accelerator.prepare_model(judge.model, device_placement=False, evaluation_mode=True)

    @property
    def judge_module(self) -> JudgeModule:
        """The module without any wrapper for distribution."""
        return self.plain_module

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: Any) -> Tensor:
        """Not used: the loss is TRL's, see `take_steps`."""
        raise NotImplementedError("RewardModelLearner.take_steps computes its losses")

    # --- training ----------------------------------------------------------------------------------------------------

    def take_steps(self, count: int, *, rows_so_far: int) -> dict[str, float]:
        """Take optimiser steps.

        Args:
            count: how many.
            rows_so_far: rows of all earlier steps, which learning-rate schedules count in.

        Returns:
            Means over the steps: ``loss``, ``gradient_norm`` (before clipping), ``learning_rate`` and what TRL logs.
        """
        steps = [self._step(rows_so_far + step * self.config.batch_size) for step in range(count)]
        self._weights_seq_no += count
        return {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}

    def _step(self, rows_so_far: int) -> dict[str, float]:
        # RLlib's schedules of the learning rate are called so, whatever is counted.
        timesteps = {"num_env_steps_sampled_lifetime": rows_so_far}
        self.before_gradient_based_update(timesteps=timesteps)
        self.module[DEFAULT_MODULE_ID].train()
        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)
        loss = self._accumulate(list(self._micro_batches(self.stream.take())))
        gradients = {reference: parameter.grad for reference, parameter in self._params.items()}
        norm = whole(get_total_norm([gradient for gradient in gradients.values() if gradient is not None]))
        self.apply_gradients(self.postprocess_gradients(gradients))
        self.after_gradient_based_update(timesteps=timesteps)
        rate = next(iter(self._optimizer_parameters)).param_groups[0]["lr"]
        return {"loss": loss, "gradient_norm": float(norm), "learning_rate": rate, **self._logged()}

    def _micro_batches(self, rows: NDArray[np.int64]) -> Iterator[MicroBatch]:
        """This learner's part of a batch, collated."""
        mine = rows[self.rank :: max(1, self.config.num_learners)]
        for start in range(0, len(mine), self.config.micro_batch_size):
            yield self._collated(self.rows, mine[start : start + self.config.micro_batch_size])

    def _collated(self, rows: TrainingRows, numbers: NDArray[np.int64]) -> MicroBatch:
        batch = self.trainer.data_collator([rows[int(number)] for number in numbers])
        return {name: value.to(self.device) for name, value in batch.items()}

    def _accumulate(self, batches: Sequence[MicroBatch]) -> float:
        """Add the gradients of all micro-batches; learners exchange theirs with the last, or with each when sharded.

        The Trainer of transformers averages over micro-batches for models that do not say that they take a number of
        tokens, Qwen3-VL among them; here every token counts the same, however rows are cut.

        Returns:
            The loss over all learners.
        """
        module = self.module[DEFAULT_MODULE_ID]
        forward = partial(_forward, module)
        whole_copies = isinstance(module, TorchDDPRLModule)
        tokens = self._tokens(batches)
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches):
            waits = whole_copies and number + 1 < len(batches)
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
        """Trained tokens of the step over all learners, where the loss is a mean over tokens."""
        if "labels" not in batches[0]:
            return None
        tokens = torch.stack([(batch["labels"][:, 1:] != -100).sum() for batch in batches]).sum()
        if self.config.num_learners > 1:
            torch.distributed.all_reduce(tokens)
        return tokens

    def _logged(self) -> dict[str, float]:
        """What TRL's trainer counted in this step."""
        logged = {name: float(np.mean(values)) for name, values in self.trainer._metrics["train"].items() if values}
        self.trainer._metrics["train"].clear()
        return logged

    # --- held-out rows -----------------------------------------------------------------------------------------------

    def evaluate_held_out(self) -> dict[str, float]:
        """TRL's loss and figures on the held-out rows of all learners; every learner must call it.

        Returns:
            The figures by name, such as ``eval/loss``.
        """
        rows = chosen_rows(self.held_out, self.config.held_out_max_rows)
        share = Share(self.rank, max(1, self.config.num_learners), self.config.micro_batch_size)
        batches = ((self._collated(self.held_out, part.rows), part.counts) for part in share.forwards(rows))
        return evaluate(self.trainer, batches, weigh=self.config.figure_weight)

    def save_judge(self, folder: str) -> None:
        """Write what was trained; the first learner alone does it, and a sharded model needs the call on all."""
        model, first = self.judge_module.model, not self.rank
        state = self.judge_module.saved_weights(keep=first) if self.config.shards else None
        if first:
            save_judge(model, self.config.source, Path(folder), state=state)

    # --- state -------------------------------------------------------------------------------------------------------

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """RLlib's state, the position in the data, and the tokens so far."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(STREAM, components, not_components):
            state[STREAM] = asdict(self.stream.position)
        if self._check_component(TOKENS, components, not_components):
            state[TOKENS] = self.trainer._total_train_tokens
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put a state of `get_state` back."""
        super().set_state(state)
        if STREAM in state:
            self.stream.position = Position(**state[STREAM])
        if TOKENS in state:
            self.trainer._total_train_tokens = state[TOKENS]


def _forward(module: Any, **batch: Any) -> Any:
    return module.forward_train(batch)


def _tell_accelerate(rank: int, learners: int) -> None:
    """RLlib sets the address of the process group alone, and TRL's trainer asks accelerate for the rest."""
    os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(learners), LOCAL_WORLD_SIZE="1")
