"""The learner of every flow algorithm: it hosts the rollout, replays the trained steps and updates what trains."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchDDPRLModule
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor
from torch.nn.utils import get_total_norm

from flexgym.core.sharding import assembled, over_learners, whole
from flexgym.flow import Window
from flexgym.replay import replay_loss
from flexgym.rllib.runner import GroupEnvRunner, Part, Scored
from flexgym.rllib.sharded import ShardedLearner
from flexgym.rollout import Rollout, sample

if TYPE_CHECKING:
    from flexgym.generators import FlowGenerator
    from flexgym.rllib.config import FlowAlgorithmConfig
    from flexgym.rllib.module import FlowModule
    from flexgym.types import Prompt

COMPONENT_EMA = "ema"
COMPONENT_SCALER = "grad_scaler"
"""Where the scale of the loss stands in the state of a learner whose weights are in float16."""


@dataclass(frozen=True, eq=False)
class ReplayJob:
    """One trained step of some groups, as it is replayed.

    Attributes:
        rollout: the groups, as many as one forward of the rollout took.
        step: index into the window.
        advantages_PG: of the groups, ``[P, G]``.
        share: weight of its mean loss among the jobs of the update.
        is_last: whether the optimiser steps next.
    """

    rollout: Rollout
    step: int
    advantages_PG: Tensor
    share: float
    is_last: bool


def _jobs(weighted: Iterator[tuple[Rollout, NDArray[np.float32]]], count: int) -> Iterator[ReplayJob]:
    """The jobs of one update over ``count`` parts, which are taken one by one as their advantages are there."""
    for number, (rollout, advantages) in enumerate(weighted, start=1):
        steps = len(rollout.window)
        for step in range(steps):
            is_last = (number, step) == (count, steps - 1)
            yield ReplayJob(rollout, step, torch.from_numpy(advantages), share=1.0 / (count * steps), is_last=is_last)


@dataclass
class UpdateStats:
    """What is logged of the replayed steps of one iteration; tensors stay on their device until `summary`.

    Attributes:
        log_ratios: of every replayed step of every sample, new against old policy.
        clipped: share of them whose gradient was cut off, one number per forward.
        losses: policy loss, one number per forward.
        kls: divergence from the reference, where it is computed.
        gradient_norms: before clipping, one per update; not finite where float16 overflowed, and no step was taken.
        loss_scale: of the last update, where weights are in float16.
    """

    log_ratios: list[Tensor] = field(default_factory=list)
    clipped: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    kls: list[Tensor] = field(default_factory=list)
    gradient_norms: list[Tensor] = field(default_factory=list)
    loss_scale: float | None = None

    def summary(self) -> dict[str, float]:
        """The metrics ``policy/...`` and ``loss/...``."""
        log_ratios = torch.cat(self.log_ratios).flatten()
        norms = torch.stack(self.gradient_norms)
        metrics = {
            "policy/max_abs_log_ratio": log_ratios.abs().max(),
            "policy/ratio_mean": log_ratios.exp().mean(),
            "policy/clip_share": torch.stack(self.clipped).mean(),
            "policy/gradient_norm": norms.mean() if self.loss_scale is None else norms[norms.isfinite()].mean(),
            "loss/policy": torch.stack(self.losses).mean(),
        }
        if self.kls:
            metrics["loss/kl"] = torch.stack(self.kls).mean()
        if self.loss_scale is not None:
            metrics["policy/loss_scale"] = torch.tensor(self.loss_scale)
            metrics["policy/skipped_updates"] = (~norms.isfinite()).sum()
        return {name: float(value) for name, value in metrics.items()}


class FlowLearner(ShardedLearner):
    """Clipped policy gradient over the trained denoising steps (Flow-GRPO, arXiv 2505.05470).

    Colocated with its runner by default: both use the same module, so weights are held once and never sent, and latents
    do not leave the process.
    """

    config: FlowAlgorithmConfig

    def build(self) -> None:
        """Make module and optimiser, then start the moving average at the weights."""
        super().build()
        if self.config.is_half:
            # what RLlib's own apply_gradients takes its steps through
            self._grad_scalers = {DEFAULT_MODULE_ID: torch.amp.GradScaler(self._device.type)}
        self.config.settle(self.generator)
        self._runner: GroupEnvRunner | None = None
        self._parts: list[Part] = []
        if self.config.ema_decay:
            self.generator.weights.keep(COMPONENT_EMA, host=True)

    def _map_module_to_device(self, module: Any) -> None:
        """Place the module: whole, or the part of this learner."""
        if self.config.shards:
            mesh = over_learners(self._device, self.config.num_learners)
            module[DEFAULT_MODULE_ID].cut(mesh, self._device)
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
        """Not used: the update loops over denoising steps itself, see `replay_loss`."""
        raise NotImplementedError("FlowLearner.begin_update computes its losses step by step")

    # --- rollout -----------------------------------------------------------------------------------------------------

    def roll_out(self, *, seeds: Sequence[int], window: Window, references: bool = False) -> None:
        """Roll out this learner's share of the groups; the trajectory stays here, and the reward is at work.

        Args:
            seeds: of all groups of the iteration; each learner takes its own equal part.
            window: the trained steps.
            references: see `GroupEnvRunner.roll_out`.
        """
        if self._runner is None:
            self._runner = GroupEnvRunner(config=self.config, module=self.flow_module, worker_index=0)
        mine = seeds[self._share(len(seeds))]
        self._parts = self._runner.roll_out(seeds=mine, window=window, references=references)

    def scored(self) -> Scored:
        """What the reward says about the last rollout; waits for it."""
        assert self._runner is not None, "roll_out() comes before scored()"
        return self._runner.scored(self._parts)

    def _share(self, groups: int) -> slice:
        part = groups // self.config.num_shards
        return slice(self._learner_index * part, (self._learner_index + 1) * part)

    # --- update ------------------------------------------------------------------------------------------------------

    def begin_update(
        self,
        *,
        samples_so_far: int,
        advantages: NDArray[np.float32] | None = None,
        rollout: Rollout | None = None,
    ) -> None:
        """Replay what can be replayed before the first optimiser step, each part as soon as it is scored.

        All that a reward can raise is raised here, when weights and optimiser are still those of before.

        Args:
            samples_so_far: samples of all iterations, which learning-rate schedules count in.
            advantages: of all groups of the iteration, float32 ``[P, G]``; each learner takes its own part. Without
                them, those of each part follow from its own scores.
            rollout: all groups, when they come from separate env runners; else each learner's own is used.
        """
        if rollout is None:
            rollouts = [part.rollout for part in self._parts]
        else:
            rollouts = self._cut(rollout.select(self._share(len(rollout))))
        weighted = self._own_advantages()
        if advantages is not None:
            share = advantages[self._share(len(advantages))]
            weighted = zip(rollouts, np.split(share, len(rollouts)), strict=True)
        self._waited = self._worked = 0.0
        self._update = self._updates(weighted, len(rollouts), samples_so_far)
        self._go_on()

    def finish_update(self) -> dict[str, float]:
        """Take the optimiser steps that `begin_update` has prepared.

        Returns:
            The metrics of the update.
        """
        stats = self._go_on()
        assert stats is not None
        self._weights_seq_no += 1
        times = {"time/update_s": self._worked - self._waited, "time/reward_wait_s": self._waited}
        return {**stats.summary(), **times}

    def _go_on(self) -> UpdateStats | None:
        started = time.perf_counter()
        try:
            return next(self._update)
        finally:
            self._worked += time.perf_counter() - started

    def _own_advantages(self) -> Iterator[tuple[Rollout, NDArray[np.float32]]]:
        """Every part with its advantages, as soon as it is scored."""
        for part in self._parts:
            started = time.perf_counter()
            scores = part.scores
            self._waited += time.perf_counter() - started
            yield part.rollout, self.config.advantages(scores)

    def _cut(self, rollout: Rollout) -> list[Rollout]:
        size = self.config.groups_per_forward
        return [rollout.select(slice(start, start + size)) for start in range(0, len(rollout), size)]

    def _updates(
        self, weighted: Iterator[tuple[Rollout, NDArray[np.float32]]], count: int, samples_so_far: int
    ) -> Iterator[UpdateStats | None]:
        """All optimiser steps of an iteration; pauses once before the first of them, then gives the statistics."""
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: samples_so_far}
        self.before_gradient_based_update(timesteps=timesteps)
        stats, size = UpdateStats(), count // self.config.num_updates
        for update in range(self.config.num_updates):
            for optimizer in self._optimizer_parameters:
                optimizer.zero_grad(set_to_none=True)
            for job in _jobs(itertools.islice(weighted, size), size):
                if job.is_last and update == 0:
                    weighted = iter(list(weighted))  # waits for the scores of all later updates, too
                    yield None
                self._accumulate(job, stats)
            self._optimise(stats)
        self.after_gradient_based_update(timesteps=timesteps)
        yield stats

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """Keeps the small gradients of float16 from vanishing; the other precisions have the range of float32."""
        return self._grad_scalers[DEFAULT_MODULE_ID] if self._grad_scalers else None

    def _accumulate(self, job: ReplayJob, stats: UpdateStats) -> None:
        """Add the gradients of one replayed step; learners exchange theirs with the last of an update."""
        module = self.module[DEFAULT_MODULE_ID]
        waits = isinstance(module, TorchDDPRLModule) and not job.is_last
        with module.no_sync() if waits else contextlib.nullcontext():
            loss = job.share * self.replay_loss(job.rollout, job.step, job.advantages_PG, stats=stats)
            (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def _optimise(self, stats: UpdateStats) -> None:
        """One optimiser step from the gradients that were added up; none where they overflowed in float16."""
        if self._scaler is not None:
            stats.loss_scale = self._scaler.get_scale()
            for optimizer in self._optimizer_parameters:
                self._scaler.unscale_(optimizer)
        gradients = {reference: parameter.grad for reference, parameter in self._params.items()}
        norm = get_total_norm([gradient for gradient in gradients.values() if gradient is not None])
        stats.gradient_norms.append(whole(norm))
        self.apply_gradients(self.postprocess_gradients(gradients))
        self._update_ema()

    def replay_loss(self, rollout: Rollout, step: int, advantages_PG: Tensor, *, stats: UpdateStats) -> Tensor:
        """Mean loss of one trained step of some groups: clipped surrogate and divergence from the reference.

        Args:
            rollout: the groups, as many as one forward of the rollout took.
            step: index into the window.
            advantages_PG: ``[P, G]``.
            stats: gains what is logged.
        """
        batch = {
            "latents": rollout.latents[step],
            "next_latents": rollout.next_latents[step],
            "prompts": rollout.prompts,
            "step": rollout.window.steps[step],
            "reference": self.config.kl_coeff > 0,
        }
        out = self.module[DEFAULT_MODULE_ID].forward_train(batch)
        replayed = replay_loss(
            out,
            rollout.log_prob[step],
            advantages_PG,
            clip_range=self.config.clip_range,
            kl_coeff=self.config.kl_coeff,
        )
        stats.log_ratios.append(replayed.log_ratio)
        stats.clipped.append(replayed.clipped)
        stats.losses.append(replayed.surrogate)
        if replayed.kl is not None:
            stats.kls.append(replayed.kl)
        return replayed.loss

    # --- moving average and evaluation -------------------------------------------------------------------------------

    def _update_ema(self) -> None:
        if self.config.ema_decay:
            self.generator.weights.update(COMPONENT_EMA, self.config.ema_decay)

    def averaged_weights(self) -> contextlib.AbstractContextManager[None]:
        """Compute with the EMA of the weights inside this context, where one is kept."""
        return self.generator.weights.using(COMPONENT_EMA if self.config.ema_decay else "current")

    def evaluate(self, *, prompts: Sequence[str | Prompt], seeds: Sequence[int]) -> NDArray[np.uint8] | None:
        """One deterministic sample for each prompt from the averaged weights, from the first learner.

        The others have nothing to do, unless each has but a part of the transformer: then all go through it together.
        """
        if self.rank and not self.config.shards:
            return None
        with self.averaged_weights():
            samples = sample(self.generator, prompts, seeds=seeds)
        return None if self.rank else samples

    def save_generator(self, folder: str) -> None:
        """Write what trains in the format of diffusers, with the averaged weights; the first learner alone does it."""
        first, shards = not self.rank, self.config.shards
        if not first and not shards:
            return
        with self.averaged_weights():
            denoisers = self.generator.denoisers if shards else {}
            together = {name: assembled(module, keep=first) for name, module in denoisers.items()}
            if first:
                self.generator.save(folder, unsharded=together)

    # --- state -------------------------------------------------------------------------------------------------------

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """RLlib's state, the moving average, and the scale of the loss."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self.config.ema_decay and self._check_component(COMPONENT_EMA, components, not_components):
            state[COMPONENT_EMA] = self.generator.weights.copies_state().get(COMPONENT_EMA, {})
        if self._scaler is not None and self._check_component(COMPONENT_SCALER, components, not_components):
            state[COMPONENT_SCALER] = self._scaler.state_dict()
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put a state of `get_state` back."""
        super().set_state(state)
        if self.config.ema_decay and COMPONENT_EMA in state:
            self.generator.weights.load_copies_state({COMPONENT_EMA: state[COMPONENT_EMA]})
        if self._scaler is not None and COMPONENT_SCALER in state:
            self._scaler.load_state_dict(state[COMPONENT_SCALER])
