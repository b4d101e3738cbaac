"""The learner of every algorithm: it hosts the rollout, replays the trained levels and updates the weights."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchDDPRLModule
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor
from torch.nn.utils import get_total_norm

from flexgym.algorithm.advantages import advantages_of
from flexgym.algorithm.base import ANCHOR, CURRENT, EMA, Loss
from flexgym.algorithm.kept import Rollout
from flexgym.algorithm.replay import assemble, copies_to_ask
from flexgym.algorithm.rollout import sample
from flexgym.algorithm.updates import Job, Weighted
from flexgym.core.metrics import Max, Mean, Metric, Share, reduce_rows, settled
from flexgym.core.sharding import assembled, over_learners, whole
from flexgym.flow import Steps
from flexgym.generators import FlowGenerator
from flexgym.generators.schedulers import solver_note
from flexgym.rllib.config import FlowConfig
from flexgym.rllib.module import FlowModule
from flexgym.rllib.runner import GroupEnvRunner, Part, Scored
from flexgym.rllib.sharded import ShardedLearner
from flexgym.runs.known_metrics import phase_seconds
from flexgym.types import Prompt

COMPONENT_COPIES = "weight_copies"
COMPONENT_SCALER = "grad_scaler"
COMPONENT_STEPS = "optimizer_steps"


@dataclass
class Update:
    """The update of one iteration while it is under way.

    Attributes:
        timesteps: samples so far, in the form that RLlib's schedules take.
        last: last job of the first optimizer step, which waits until no reward can fail any more.
        parts: all groups of this learner, part by part.
        rows: metrics of each replayed level and optimizer step.
        worked: seconds of work so far.
        waited: seconds of it spent waiting for rewards.
        skipped: optimizer steps that were skipped since gradients overflowed in float16.
    """

    timesteps: Mapping[str, int]
    last: Job | None = None
    parts: list[Weighted] = field(default_factory=list)
    rows: list[Mapping[str, Metric]] = field(default_factory=list)
    worked: float = 0.0
    waited: float = 0.0
    skipped: int = 0


class FlowLearner(ShardedLearner):
    """Executes an algorithm: rollout, replay, optimizer steps and weight copies. It decides nothing itself.

    Colocated with its runner by default: both use the same module, so weights are held once and never sent, and latents
    do not leave the process.
    """

    config: FlowConfig

    def build(self) -> None:
        """Make module and optimizer, then start the weight copies at the current weights."""
        super().build()
        settings = self.config.settings
        if settings.is_half:
            # RLlib's own apply_gradients takes its steps through it.
            self._grad_scalers = {DEFAULT_MODULE_ID: torch.amp.GradScaler(self._device.type)}
        self._feed = self.config.open_data(self.generator)
        if settings.generator.release_text_encoders:
            self.generator.text.release(self.config.run_prompts(self._feed))
        self._runner: GroupEnvRunner | None = None
        self._parts: list[Part] = []
        self._steps = 0
        self._update = Update({})
        self.flow_module.keep_copies()

    def _map_module_to_device(self, module: Any) -> None:
        """Place the module: unsharded, or this learner's shard."""
        if self.config.settings.shards:
            mesh = over_learners(self._device, self.config.num_learners)
            module[DEFAULT_MODULE_ID].shard(mesh, self._device)
        else:
            super()._map_module_to_device(module)

    @property
    def flow_module(self) -> FlowModule:
        """The module without any wrapper for distribution."""
        return self.plain_module

    @property
    def generator(self) -> FlowGenerator:
        """The generator that trains."""
        return self.flow_module.generator

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: Any) -> Tensor:
        """Raise: the update loops over levels itself, see `job_loss`."""
        raise NotImplementedError("FlowLearner.job_loss computes the loss job by job")

    # --- rollout -----------------------------------------------------------------------------------------------------

    def roll_out(self, *, seeds: Sequence[int], window: Steps, references: bool = False, record: int = 0) -> None:
        """Sample this learner's share of the groups and hand them to the reward; the rollout stays here.

        Args:
            seeds: of all groups of the iteration; each learner takes its own equal part.
            window: the trained steps.
            references: see `GroupEnvRunner.roll_out`.
            record: see `GroupEnvRunner.roll_out`.
        """
        if self._runner is None:
            self._runner = GroupEnvRunner(config=self.config, module=self.flow_module, worker_index=0)
        mine = seeds[self._share(len(seeds))]
        self._parts = self._runner.roll_out(seeds=mine, window=window, references=references, record=record)

    def feed(self, *, first: int, seeds: Sequence[int], window: Steps) -> None:
        """Take this learner's share of the groups of an iteration from the data set, in place of `roll_out`.

        Args:
            first: number of the first group, counted from 0 over the entire training.
            seeds: of all groups of the iteration, from which their noise follows.
            window: the trained steps.

        Raises:
            DataError: a row cannot be read.
        """
        assert self._feed is not None, "feed() needs settings with a data set"
        share, size = self._share(len(seeds)), self.config.settings.rollout.groups_per_forward
        self._parts = [
            Part.given(*self._feed.groups(first + start, seeds=seeds[start : start + size], window=window))
            for start in range(share.start, share.stop, size)
        ]

    def epochs(self, groups: int) -> float:
        """Return how many epochs of the data set a number of groups is."""
        return 0.0 if self._feed is None else self._feed.epochs(groups)

    def scored(self) -> Scored:
        """Wait for the scores of the last rollout and return them."""
        return Scored.of(self._parts, None) if self._runner is None else self._runner.scored(self._parts)

    def _share(self, groups: int) -> slice:
        part = groups // self.config.settings.num_shards
        return slice(self._learner_index * part, (self._learner_index + 1) * part)

    # --- update ------------------------------------------------------------------------------------------------------

    def replay_scored(
        self,
        *,
        samples_so_far: int,
        advantages: NDArray[np.float32] | None = None,
        rollout: Rollout | None = None,
        penalized: NDArray[np.float32] | None = None,
    ) -> None:
        """Replay the parts of the first optimizer step but for its last level, each as soon as it is scored.

        Reward errors surface here, before weights or optimizer state change and before learners wait for each other.

        Args:
            samples_so_far: samples of all iterations, which learning-rate schedules count in.
            advantages: of all groups of the iteration, float32 ``[P, G]``; each learner takes its own part. Without
                them, those of each part follow from its own scores.
            rollout: all groups, when they come from separate env runners; by default each learner's own.
            penalized: weights of all samples in gated penalties, float32 ``[P, G]``; None for 1.
        """
        started = time.perf_counter()
        self._update = update = Update({NUM_ENV_STEPS_SAMPLED_LIFETIME: samples_so_far})
        self.before_gradient_based_update(timesteps=update.timesteps)
        self._zero_gradients()
        rollouts = [part.rollout for part in self._parts] if rollout is None else self._own_part(rollout)
        if penalized is not None:
            rows = np.split(penalized[self._share(len(penalized))], len(rollouts))
            pairs = zip(rollouts, rows, strict=True)
            rollouts = [replace(each, penalized=torch.from_numpy(weights)) for each, weights in pairs]
        plan, weighted = self.config.update_plan, self._weighted(rollouts, advantages)
        last = plan.levels_of_first(rollouts)
        for number, job in enumerate(plan.first(weighted, len(rollouts)), start=1):
            if number < last:
                self._accumulate(job, is_last=False)
            else:
                update.last = job
        for _ in weighted:  # which waits for all scores, so that no later step can fail for want of one
            pass
        update.worked += time.perf_counter() - started

    def take_steps(self) -> dict[str, Metric]:
        """Take all optimizer steps of the iteration and move the weight copies.

        Returns:
            The metrics of the update, as plain numbers.
        """
        started = time.perf_counter()
        update = self._update
        assert update.last is not None, "replay_scored() comes before take_steps()"
        self._accumulate(update.last, is_last=True)
        self._optimize()
        seed = update.timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME]
        for jobs in self.config.update_plan.later(update.parts, seed=seed):
            self._zero_gradients()
            for job in jobs:
                self._accumulate(job, is_last=job is jobs[-1])
            self._optimize()
        self._move_copies("iteration")
        self.after_gradient_based_update(timesteps=update.timesteps)
        self._weights_seq_no += 1
        update.worked += time.perf_counter() - started
        self._update = Update({})
        return settled({**reduce_rows(update.rows), **self._update_metrics(update)})

    def _weighted(self, rollouts: Sequence[Rollout], advantages: NDArray[np.float32] | None) -> Iterator[Weighted]:
        """Yield every part with its advantages; without given ones, each as soon as it is scored."""
        if advantages is not None:
            share = advantages[self._share(len(advantages))]
            for weighted in zip(rollouts, np.split(share, len(rollouts)), strict=True):
                self._update.parts.append(weighted)
                yield weighted
            return
        for part in self._parts:
            started = time.perf_counter()
            scores = part.scores
            self._update.waited += time.perf_counter() - started
            weighted = part.rollout, advantages_of(scores, **dict(self.config.settings.training.advantage))
            self._update.parts.append(weighted)
            yield weighted

    def _own_part(self, rollout: Rollout) -> list[Rollout]:
        """Return this learner's share of all env runners' groups, split into the forward batches of the rollout."""
        settings = self.config.settings.rollout
        return rollout.select(self._share(len(rollout))).split(settings.groups_per_forward)

    def _zero_gradients(self) -> None:
        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """Keeps the small gradients of float16 from vanishing; the other precisions have the range of float32."""
        return self._grad_scalers[DEFAULT_MODULE_ID] if self._grad_scalers else None

    def _accumulate(self, job: Job, *, is_last: bool) -> None:
        """Add the gradients of one job; learners exchange theirs with the last of an optimizer step."""
        plan = self.config.update_plan
        skips = plan.can_skip(job, is_last=is_last)
        if plan.skips:
            self._update.rows.append({"policy/skipped_replays": Share(float(skips))})
        if skips:
            return
        module = self.module[DEFAULT_MODULE_ID]
        waits = isinstance(module, TorchDDPRLModule) and not is_last
        with module.no_sync() if waits else contextlib.nullcontext():
            computed = self.job_loss(job)
            loss = job.share * computed.per_sample.mean()
            (loss if self._scaler is None else self._scaler.scale(loss)).backward()
        self._update.rows.append(computed.metrics)

    def job_loss(self, job: Job) -> Loss:
        """Replay trained levels of some groups and let the algorithm compute their loss, penalties included."""
        algorithm, policy = self.config.algorithm, self.flow_module.replaying_policy
        trained = policy.process.trained(job.rollout, job.indices, policy.grid, draw=job.draw)
        recorded = self.config.update_plan.split == "groups"
        trained = trained if recorded else trained.without_old()
        batch = {
            "latents": trained.latents,
            "prompts": job.rollout.prompts,
            "levels": trained.levels.to(self._device),
            "under": copies_to_ask(algorithm.requires, trained, fresh=job.fresh),
        }
        means = self.module[DEFAULT_MODULE_ID].forward_train(batch)
        replayed = assemble(
            policy,
            means,
            trained,
            advantages=job.advantages,
            needs=algorithm.requires,
            penalized=job.rollout.penalized,
        )
        return algorithm.objective(replayed)

    def _optimize(self) -> None:
        """Take one optimizer step from the accumulated gradients; none where they overflowed in float16."""
        if self._scaler is not None:
            self._scale = self._scaler.get_scale()
            for optimizer in self._optimizer_parameters:
                self._scaler.unscale_(optimizer)
        gradients = {reference: parameter.grad for reference, parameter in self._params.items()}
        norm = whole(get_total_norm([gradient for gradient in gradients.values() if gradient is not None]))
        if self._scaler is not None:
            self._update.skipped += int(not norm.isfinite())
            norm = norm[norm.isfinite()]
        self._update.rows.append({"policy/gradient_norm": Mean(norm)})
        self.apply_gradients(self.postprocess_gradients(gradients))
        self._steps += 1
        self._move_copies("update")

    def _update_metrics(self, update: Update) -> dict[str, Metric]:
        times: dict[str, Metric] = {
            "time/update_s": phase_seconds("update", update.worked - update.waited),
            "time/reward_wait_s": Max(update.waited, unit="s"),
        }
        if self._scaler is None:
            return times
        # All learners skip the same steps, since their gradients are those of all.
        return {**times, "policy/loss_scale": Max(self._scale), "policy/skipped_updates": Max(update.skipped)}

    # --- weight copies and evaluation --------------------------------------------------------------------------------

    def _move_copies(self, moment: str) -> None:
        """Move the weight copies whose schedule says so after an optimizer step, or at the end of an iteration."""
        for name, schedule in self.config.weight_copies.items():
            if schedule.every == moment:
                self.generator.weights.update(name, schedule.decay(self._steps))

    def reset_anchor(self) -> None:
        """Let the anchor take the current weights."""
        self.generator.weights.update(ANCHOR, 0.0)

    def verified_weights(self) -> contextlib.AbstractContextManager[None]:
        """Compute with the weights that are verified and saved: the EMA where one is kept."""
        return self.generator.weights.using(EMA if self.config.settings.training.ema_decay else CURRENT)

    def evaluate(self, *, prompts: Sequence[str | Prompt], seeds: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
        """Make deterministic samples for this learner's share of the prompts with the verified weights.

        Prompts are split into blocks of ``verification.rows_per_forward``, and learner i of N takes blocks i, i + N and
        so on: each sample is computed beside the same others for any number of learners, so it is equal to the bit.

        Args:
            prompts: those of all learners.
            seeds: of the first latents, one for each prompt.

        Returns:
            Samples of each block by its index, uint8 ``[rows, ...]``.
        """
        settings = self.config.settings
        size, learners = settings.verification.rows_per_forward, settings.num_shards
        blocks = [slice(start, start + size) for start in range(0, len(prompts), size)]
        mine = range(self.rank, len(blocks), learners)
        # every learner must go through a sharded transformer equally often: some take a block for nothing
        idle = -(-len(blocks) // learners) - len(mine) if settings.shards else 0
        guidance = settings.algorithm.guidance.verification
        sampler = settings.verification.sampler
        share = settings.verification.trained_share
        made = partial(sample, self.generator, max_rows=size, guidance=guidance, sampler=sampler, trained_share=share)
        with self.verified_weights():
            found = {index: made(prompts[blocks[index]], seeds=seeds[blocks[index]]) for index in mine}
            for block in blocks[:idle]:
                made(prompts[block], seeds=seeds[block])
        return found

    def solver_note(self) -> str:
        """Return what the log of the run must say about the pipeline's own solver, see `solver_note`."""
        return solver_note(self.generator.pipe.scheduler, self.config.settings.verification.sampler)

    def save_generator(self, folder: Path) -> None:
        """Write the trained weights in the format of diffusers, with the EMA; the first learner alone writes."""
        first, shards = not self.rank, self.config.settings.shards
        if not first and not shards:
            return
        with self.verified_weights():
            denoisers = self.generator.denoisers if shards else {}
            together = {name: assembled(module, keep=first) for name, module in denoisers.items()}
            if first:
                self.generator.save(folder, unsharded=together, sampler=self.config.settings.verification.sampler)

    # --- state -------------------------------------------------------------------------------------------------------

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return RLlib's state, the weight copies, the number of optimizer steps and the scale of the loss."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(COMPONENT_COPIES, components, not_components):
            state[COMPONENT_COPIES] = self.generator.weights.copies_state()
        if self._check_component(COMPONENT_STEPS, components, not_components):
            state[COMPONENT_STEPS] = self._steps
        if self._scaler is not None and self._check_component(COMPONENT_SCALER, components, not_components):
            state[COMPONENT_SCALER] = self._scaler.state_dict()
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put a state of `get_state` back."""
        super().set_state(state)
        self.generator.weights.load_copies_state(state.get(COMPONENT_COPIES, {}))
        self._steps = state.get(COMPONENT_STEPS, self._steps)
        if self._scaler is not None and COMPONENT_SCALER in state:
            self._scaler.load_state_dict(state[COMPONENT_SCALER])
