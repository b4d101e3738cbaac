"""The learner of every flow algorithm: it hosts the rollout, replays the trained steps and updates what trains."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchDDPRLModule
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor

from flexgym.flow import Gaussian, Window, clipped_surrogate, kl_penalty
from flexgym.rllib.runner import GroupEnvRunner, Scored
from flexgym.rollout import Rollout, sample

if TYPE_CHECKING:
    from flexgym.generators import FlowGenerator
    from flexgym.rllib.config import FlowAlgorithmConfig
    from flexgym.rllib.module import FlowModule

COMPONENT_EMA = "ema"


@dataclass
class UpdateStats:
    """What is logged of the replayed steps of one iteration.

    Attributes:
        log_ratios: of every replayed step of every sample, new against old policy.
        clipped: share of them whose gradient was cut off, one number per forward.
        losses: policy loss, one number per forward.
        kls: divergence from the reference, where it is computed.
        gradient_norms: before clipping, one per update.
    """

    log_ratios: list[Tensor] = field(default_factory=list)
    clipped: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    kls: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """The metrics ``policy/...`` and ``loss/...``."""
        log_ratios = torch.cat(self.log_ratios).flatten()
        metrics = {
            "policy/max_abs_log_ratio": float(log_ratios.abs().max()),
            "policy/ratio_mean": float(log_ratios.exp().mean()),
            "policy/clip_share": float(np.mean(self.clipped)),
            "policy/gradient_norm": float(np.mean(self.gradient_norms)),
            "loss/policy": float(np.mean(self.losses)),
        }
        if self.kls:
            metrics["loss/kl"] = float(np.mean(self.kls))
        return metrics


class FlowLearner(TorchLearner):
    """Clipped policy gradient over the trained denoising steps (Flow-GRPO, arXiv 2505.05470).

    Colocated with its runner by default: both use the same module, so weights are held once and never sent, and latents
    do not leave the process.
    """

    config: FlowAlgorithmConfig

    def build(self) -> None:
        """Make module and optimiser, then start the moving average at the weights."""
        super().build()
        self._runner: GroupEnvRunner | None = None
        self._rollout: Rollout | None = None
        self._ema: dict[str, Tensor] = self.flow_module.get_state() if self.config.ema_decay else {}

    @property
    def flow_module(self) -> FlowModule:
        """The module without any wrapper for distribution."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    @property
    def generator(self) -> FlowGenerator:
        """The generator that trains."""
        return self.flow_module.generator

    def get_parameters(self, module: Any) -> list[torch.nn.Parameter]:
        """Only what trains; the frozen rest needs no optimiser state."""
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """AdamW over what trains."""
        params = self.get_parameters(self._module[module_id])
        optimizer = torch.optim.AdamW(params, betas=self.config.betas, weight_decay=self.config.weight_decay)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=params, lr_or_lr_schedule=config.lr)

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: Any) -> Tensor:
        """Not used: the update loops over denoising steps itself, see `replay_loss`."""
        raise NotImplementedError("FlowLearner.update_groups computes its losses step by step")

    # --- rollout -----------------------------------------------------------------------------------------------------

    def rollout(self, *, seeds: Sequence[int], window: Window) -> Scored:
        """Roll out and score this learner's share of the groups; the trajectory stays here.

        Args:
            seeds: of all groups of the iteration; each learner takes its own equal part.
            window: the trained steps.
        """
        if self._runner is None:
            self._runner = GroupEnvRunner(config=self.config, module=self.flow_module, worker_index=0)
        self._rollout, scored = self._runner.sample(seeds=seeds[self._share(len(seeds))], window=window)
        return scored

    def _share(self, groups: int) -> slice:
        part = groups // self.config.num_shards
        return slice(self._learner_index * part, (self._learner_index + 1) * part)

    # --- update ------------------------------------------------------------------------------------------------------

    def update_groups(
        self, *, advantages: NDArray[np.float32], samples_so_far: int, rollout: Rollout | None = None
    ) -> dict[str, float]:
        """Train on the last rollout.

        Args:
            advantages: of all groups of the iteration, float32 ``[P, G]``; each learner takes its own part.
            samples_so_far: samples of all iterations, which learning-rate schedules count in.
            rollout: all groups, when they come from separate env runners; else each learner's own is used.

        Returns:
            The metrics of the update.
        """
        share = self._share(len(advantages))
        mine = rollout.select(share) if rollout is not None else self._rollout
        assert mine is not None, "rollout() comes before update_groups()"
        self._rollout = None
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: samples_so_far}
        self.before_gradient_based_update(timesteps=timesteps)
        stats, own = UpdateStats(), torch.from_numpy(advantages[share])
        size = len(mine) // self.config.num_updates
        for start in range(0, len(mine), size):
            groups = slice(start, start + size)
            self._optimise(mine.select(groups), own[groups], stats)
        self.after_gradient_based_update(timesteps=timesteps)
        self._weights_seq_no += 1
        return stats.summary()

    def _optimise(self, rollout: Rollout, advantages_PG: Tensor, stats: UpdateStats) -> None:
        """One optimiser step from the given groups."""
        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)
        chunk = self.config.groups_per_forward
        jobs = [(slice(s, s + chunk), w) for w in range(len(rollout.window)) for s in range(0, len(rollout), chunk)]
        module = self.module[DEFAULT_MODULE_ID]
        for number, (groups, step) in enumerate(jobs, start=1):
            waits = isinstance(module, TorchDDPRLModule) and number < len(jobs)
            with module.no_sync() if waits else contextlib.nullcontext():
                share = (groups.stop - groups.start) / (len(rollout) * len(rollout.window))
                (share * self.replay_loss(rollout.select(groups), step, advantages_PG[groups], stats=stats)).backward()
        gradients = {reference: parameter.grad for reference, parameter in self._params.items()}
        norms = torch._foreach_norm([gradient for gradient in gradients.values() if gradient is not None])
        stats.gradient_norms.append(float(torch.stack(norms).norm()))
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
            "prompts": [prompt.text for prompt in rollout.prompts],
            "step": rollout.window.steps[step],
            "reference": self.config.kl_coeff > 0,
        }
        out = self.module[DEFAULT_MODULE_ID].forward_train(batch)
        log_ratio = (out["log_prob"] - rollout.log_prob[step].to(out["log_prob"].device)).flatten()
        advantages = advantages_PG.flatten().to(log_ratio.device)
        surrogate = clipped_surrogate(log_ratio, advantages, clip_range=self.config.clip_range)
        loss = surrogate.loss.mean()
        stats.log_ratios.append(log_ratio.detach())
        stats.clipped.append(float(surrogate.clipped.float().mean()))
        stats.losses.append(float(loss.detach()))
        if batch["reference"]:
            policy, reference = Gaussian(out["mean"], out["std"]), Gaussian(out["reference_mean"], out["std"])
            penalty = kl_penalty(policy, reference, beta=self.config.kl_coeff).mean()
            stats.kls.append(float(penalty.detach()) / self.config.kl_coeff)
            loss = loss + penalty
        return loss

    # --- moving average and evaluation -------------------------------------------------------------------------------

    @torch.no_grad()
    def _update_ema(self) -> None:
        if not self._ema:
            return
        current = self.flow_module.get_state()
        for name, average in self._ema.items():
            average.lerp_(current[name], 1.0 - self.config.ema_decay)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within this context the generator holds the moving average, where one is kept."""
        if not self._ema:
            yield
            return
        current = self.flow_module.get_state()
        self.flow_module.set_state(self._ema)
        try:
            yield
        finally:
            self.flow_module.set_state(current)

    def evaluate(self, *, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8] | None:
        """One deterministic sample for each prompt from the averaged weights; the first learner alone does it."""
        if self._learner_index:
            return None
        with self.averaged_weights():
            return sample(self.generator, prompts, seeds=seeds)

    def save_generator(self, folder: str) -> None:
        """Write what trains in the format of diffusers, with the averaged weights; the first learner alone does it."""
        if not self._learner_index:
            with self.averaged_weights():
                self.generator.save(folder)

    # --- state -------------------------------------------------------------------------------------------------------

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """RLlib's state and the moving average."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._ema and self._check_component(COMPONENT_EMA, components, not_components):
            state[COMPONENT_EMA] = {name: average.clone() for name, average in self._ema.items()}
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put a state of `get_state` back."""
        super().set_state(state)
        if self._ema and COMPONENT_EMA in state:
            self._ema = {name: torch.as_tensor(average).clone() for name, average in state[COMPONENT_EMA].items()}
