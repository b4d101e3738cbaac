"""Training on the gradient of a reward without a graph across denoising steps, see `flexgym.flow.cotangent`.

Samples are made without a graph. `with_reward_gradient` then decodes and scores them once with gradients to their
latents, and each chosen step is replayed on its own.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from flexgym.algorithm.base import Algorithm, Loss
from flexgym.algorithm.kept import Rollout
from flexgym.algorithm.policy import FlowPolicy
from flexgym.algorithm.process import Levels, Process, Trained
from flexgym.algorithm.replay import REWARD_GRADIENT, Guidance, Replayed
from flexgym.algorithm.reward_gradient import reward_gradient
from flexgym.algorithm.settings import AlgorithmSettings, WindowSettings
from flexgym.core.errors import ConfigError
from flexgym.core.metrics import Mean, Metric, Share
from flexgym.core.seeds import whole_seed
from flexgym.flow import ODE, Gaussian, NoiseScale, Replays, ReplaySchedule, Steps, clean_gaussian, cotangent_loss
from flexgym.generators.conditioning import Conditioning
from flexgym.reward import Reward
from flexgym.types import GroupScores, Prompt

_ETA = math.sqrt(0.5)


@dataclass(frozen=True)
class RewardSteps(Process):
    """Train steps of the sampler toward the gradient of a reward: the target is the clean latents that are scored.

    Attributes:
        threshold: score from which on a sample has no gradient; None for no limit.
        chunk: samples that are decoded and scored with gradients at once; memory grows with it.
    """

    threshold: float | None = None
    chunk: int = 1
    noise: NoiseScale = field(default=ODE(), init=False)

    @property
    def keeps(self) -> tuple[str, ...]:
        """See `Process.keeps`: latents before and after the steps; `with_reward_gradient` makes of them the targets."""
        return "latents", "target", REWARD_GRADIENT

    def gaussian(self, latents: Tensor, velocity: Tensor, levels: Levels) -> Gaussian:
        """See `Process.gaussian`: the distribution of the clean latents."""
        return clean_gaussian(latents, velocity, levels.sigma, eta=_ETA)

    def trains(self, step: int, num_steps: int) -> bool:
        """See `Process.trains`: every step."""
        return True

    def records(self, step: int, window: Steps, num_steps: int) -> bool:
        """See `Process.records`: the steps that are replayed, and the one that is scored."""
        return step in window

    def is_free(self, step: int, window: Steps) -> bool:
        """See `Process.is_free`: none, since the gradient is that of samples made by Euler steps."""
        return False

    def count(self, window: Steps) -> int:
        """See `Process.count`: the replayed steps, copies included."""
        return len(window)

    def trained(self, rollout: Rollout, indices: Sequence[int], grid: Tensor, *, draw: int = 0) -> Trained:
        """See `Process.trained`: what `with_reward_gradient` kept, with the factor of each step in the gradient."""
        replays, kept, chosen = replays_of(rollout), rollout.kept, list(indices)
        latents = kept["latents"][chosen]
        rows = [max(0, index - (len(replays) - 1 - replays.copies)) for index in chosen]
        sigma, factors = grid[list(replays.steps)], torch.tensor(replays.coefficients(grid))
        weight = (-len(replays) * factors / sigma)[chosen].view(-1, *[1] * (latents.ndim - 1))
        level = sigma[chosen].view(-1, 1, 1).expand(latents.shape[:3]).flatten()
        return Trained(
            latents,
            kept["target"][rows],
            Levels(level, torch.zeros_like(level), sigma_max=float(grid[1])),
            reward_gradient=weight.to(latents.device) * kept[REWARD_GRADIENT][rows],
        )

    def check(self, windows: Iterable[Steps], sigmas: Tensor) -> None:
        """See `Process.check`: steps that the grid has."""
        for replays in windows:
            assert isinstance(replays, Replays)
            replays.coefficients(sigmas)


def replays_of(rollout: Rollout) -> Replays:
    """Return the replayed steps of a rollout.

    Raises:
        ConfigError: it was made with a window of neighboring steps.
    """
    if not isinstance(rollout.window, Replays):
        raise ConfigError(
            f"reward gradients: expected a rollout whose steps are flexgym.flow.Replays, got {rollout.window}; take"
            " them from the algorithm's windows(num_steps)"
        )
    return rollout.window


@torch.no_grad()
def with_reward_gradient(
    policy: FlowPolicy, reward: Reward, rollout: Rollout, *, guidance: Guidance | None = None
) -> tuple[Rollout, list[GroupScores]]:
    """Score a rollout with gradients to its latents.

    Args:
        policy: made the rollout, with the process `RewardSteps`.
        reward: one with `Reward.gradient_scores`.
        rollout: P groups of one forward.
        guidance: guidance scales of the replay.

    Returns:
        The rollout with the latents to replay, those that were scored and the gradient of the losses at them; and the
        scores of each group, the mean over the copies of a sample. A sample without a finite score or gradient has
        gradient 0, the score NaN and counts as a failure.

    Raises:
        ConfigError: the reward has no gradients.
    """
    process, prompts = policy.process, list(rollout.prompts)
    assert isinstance(process, RewardSteps), "reward gradients need the process RewardSteps"
    latents, scored = _scored(policy, rollout, guidance or Guidance())
    rows = scored.flatten(0, 2)
    found = reward_gradient(
        policy.generator,
        reward,
        rows,
        prompts=[prompt for prompt in prompts * len(scored) for _ in range(rollout.group_size)],
        conditioning=_first_frames(policy, prompts * len(scored), rollout.group_size),
        threshold=process.threshold,
        chunk=process.chunk,
    )
    usable = (found.scores.isfinite() & found.gradient.flatten(1).isfinite().all(1)).view(scored.shape[:3])
    gradient = found.gradient.view(scored.shape)
    gradient = torch.where(usable.view(*usable.shape, *[1] * (scored.ndim - 3)), gradient, 0.0)
    scores = torch.where(usable, found.scores.view(usable.shape), torch.nan).mean(0)
    dtype = policy.latents_dtype
    kept = {"latents": latents.to("cpu", dtype), "target": scored.to("cpu", dtype), REWARD_GRADIENT: gradient.cpu()}
    return replace(rollout, kept=kept), [_group_scores(reward.name, row) for row in scores.float().cpu().numpy()]


def _first_frames(policy: FlowPolicy, prompts: Sequence[Prompt], group_size: int) -> Conditioning | None:
    """Return one row per sample for generators that put the first frame in its place before decoding."""
    if not policy.generator.takes_first_frame:
        return None
    return policy.generator.condition(prompts, guidance=policy.guidance).repeat(group_size)


def _group_scores(name: str, rewards: NDArray[np.float32]) -> GroupScores:
    failed = int(np.isnan(rewards).sum())
    return GroupScores(rewards, terms={name: rewards}, failures={name: failed} if failed else {})


def _scored(policy: FlowPolicy, rollout: Rollout, guidance: Guidance) -> tuple[Tensor, Tensor]:
    """Return the latents of the replays ``[L, P, G, ...]``, and the clean latents to score ``[S, P, G, ...]``."""
    replays, kept, grid = replays_of(rollout), rollout.kept, policy.grid
    recorded = sorted({*replays.steps, replays.stop})
    last = recorded.index(replays.stop)
    own = kept["latents"][[recorded.index(step) for step in sorted({*replays.steps})]].to(policy.generator.device)
    level = grid[replays.stop].to(own.device)
    if replays.stop == policy.num_steps - 1:
        clean = kept["target"][last:].to(own.device, torch.float32)
    else:
        clean = _predicted(policy, kept["latents"][last:], rollout.prompts, level=level, guidance=guidance)
    if not replays.copies:
        return own, clean
    noise = torch.stack([_noise(seed, replays.copies, clean.shape[2:]) for seed in rollout.seeds], 1).to(own.device)
    noised = (1.0 - level) * clean + level * noise
    predicted = [_predicted(policy, copy[None], rollout.prompts, level=level, guidance=guidance) for copy in noised]
    return torch.cat([own, noised.to(own.dtype)]), torch.cat([clean, *predicted])


def _predicted(
    policy: FlowPolicy, latents: Tensor, prompts: Sequence[Prompt], *, level: Tensor, guidance: Guidance
) -> Tensor:
    """Predict the clean latents of ``[1, P, G, ...]`` at one noise level, as the replay does."""
    sigma = level.expand(latents.shape[1] * latents.shape[2])
    levels = Levels(sigma, torch.zeros_like(sigma), sigma_max=float(policy.grid[1]))
    return policy.distribution(latents, prompts, levels, guidance=guidance.training).mean.view(latents.shape)


def _noise(seed: int, copies: int, shape: torch.Size) -> Tensor:
    """Draw the noise of the copies of one group, ``[n, G, ...]``."""
    return torch.randn((copies, *shape), generator=torch.Generator().manual_seed(whole_seed(seed)))


class RewardGradientSettings(AlgorithmSettings):
    """Settings of the algorithms on reward gradients."""

    window: WindowSettings = Field(
        default=WindowSettings(strategy="all"), description="has no effect: the replayed steps are drawn"
    )
    threshold: float | None = Field(
        default=None, description="score from which on a sample is not improved any more; null for no limit"
    )
    chunk: int = Field(
        default=1, ge=1, description="samples decoded and scored with gradients at once; memory grows with it"
    )


G = TypeVar("G", bound=RewardGradientSettings)


class RewardGradientAlgorithm(Algorithm[G]):
    """Base of the algorithms on reward gradients; a subclass draws the steps of an iteration."""

    @property
    def process(self) -> RewardSteps:
        """Steps without noise, with the gradient of the reward."""
        return RewardSteps(threshold=self.settings.threshold, chunk=self.settings.chunk)

    @property
    def needs(self) -> frozenset[str]:
        """The gradient of the reward."""
        return frozenset({REWARD_GRADIENT})

    @abstractmethod
    def draw(self, num_steps: int, rng: np.random.Generator) -> Replays:
        """Draw the steps of an iteration.

        Args:
            num_steps: denoising steps T.
            rng: random generator.
        """

    def windows(self, num_steps: int) -> ReplaySchedule:
        """Return the schedule that draws the steps of each iteration."""
        return ReplaySchedule(num_steps, self.draw)

    def loss(self, replayed: Replayed) -> Loss:
        """Compute ``<predicted clean latents, sg(gradient)>``, ``[L, P, G]``, see `flexgym.flow.cotangent_loss`."""
        gradient, shape = replayed.reward_gradient, replayed.advantage.shape
        assert gradient is not None
        rows = gradient.flatten(0, 2)
        norms = rows.flatten(1).norm(dim=1)
        loss = cotangent_loss(replayed.mean.flatten(0, 2), rows, coefficient=1.0).view(shape)
        metrics: dict[str, Metric] = {
            "policy/reward_gradient": Mean(norms, label="norm of the reward's gradient"),
            "policy/satisfied": Share((norms == 0).float(), label="samples without gradient"),
        }
        return Loss(loss, metrics)
