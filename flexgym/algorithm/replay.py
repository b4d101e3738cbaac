"""Replaying trained levels with gradients: what an algorithm's loss is computed from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flexgym.algorithm.kept import Rollout
from flexgym.algorithm.policy import FlowPolicy
from flexgym.algorithm.process import Levels, Trained
from flexgym.flow import Gaussian, Space, policy_distance
from flexgym.types import Prompt

OLD = "old"
"""Name of the weights that sampled."""
OLD_LOG_PROB = "old_log_prob"
"""Name of the only need of an algorithm that is no mean."""


def mean_under(name: str) -> str:
    """Return the need of an algorithm that reads the mean under some weights, such as ``"reference_mean"``."""
    return f"{name}_mean"


@dataclass(frozen=True, eq=False)
class Replayed:
    """L trained noise levels of P groups, computed again with gradients; L is 1 unless levels are stacked.

    With `SamplerSteps` the distribution is that of the next latents, with `ForwardProcess` that of the clean ones,
    whose mean is the model's prediction of them. Fields of one value per sample and level are float32 ``[L, P, G]``,
    latents are ``[L, P, G, ...]``; everything is on the policy's device.

    Attributes:
        mean: of the distribution, with gradients to the trainable parameters, ``[L, P, G, ...]``.
        std: its standard deviation, ``[L, P, G]``.
        latents: before the step, ``[L, P, G, ...]``.
        target: what the rollout arrived at: the next latents, or the clean ones, ``[L, P, G, ...]``.
        sigma: noise level of ``latents``, ``[L, P, G]``.
        sigma_next: noise level after the step of the sampler, 0 for clean latents, ``[L, P, G]``.
        velocity_scale: change of the mean with the velocity, ``|d mean / d velocity|``, ``[L, P, G]``.
        advantage: of each sample at each level, ``[L, P, G]``.
        old_log_prob: log density of the target under the weights that sampled, ``[L, P, G]``. None unless needed.
        means: mean under other weights by name, such as ``"old"`` or ``"reference"``, without gradient,
            ``[L, P, G, ...]``; those that the algorithm needs.
    """

    mean: Tensor
    std: Tensor
    latents: Tensor
    target: Tensor
    sigma: Tensor
    sigma_next: Tensor
    velocity_scale: Tensor
    advantage: Tensor
    old_log_prob: Tensor | None = None
    means: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def policy(self) -> Gaussian:
        """The distribution under the current weights, one row per sample and level: mean ``[L * P * G, ...]``."""
        return Gaussian(self.mean.flatten(0, 2), self.std.flatten())

    def under(self, name: str) -> Gaussian:
        """Return the distribution under other weights, one row per sample and level.

        Args:
            name: ``"old"`` for the weights that sampled, or a weight copy; the algorithm needs ``<name>_mean``.
        """
        assert name in self.means, f"the algorithm must list {mean_under(name)!r} in its needs"
        return Gaussian(self.means[name].flatten(0, 2), self.std.flatten())

    def distance(self, name: str, space: Space) -> Tensor:
        """Compute the distance of the policy from other weights, see `flexgym.flow.policy_distance`, ``[L, P, G]``.

        Args:
            name: as for `under`.
            space: ``"gaussian"``, ``"mean"``, ``"velocity"`` or ``"clean"``.
        """
        scales = {"velocity_scale": self.velocity_scale.flatten(), "sigma": self.sigma.flatten()}
        return policy_distance(self.policy, self.under(name), space=space, **scales).view(self.std.shape)

    @property
    def log_ratio(self) -> Tensor:
        """Log density of the target, current minus old weights, with gradients, ``[L, P, G]``."""
        assert self.old_log_prob is not None, f"the algorithm must list {OLD_LOG_PROB!r} in its needs"
        return self.policy.log_prob(self.target.flatten(0, 2)).view(self.std.shape) - self.old_log_prob


@dataclass(frozen=True)
class Guidance:
    """Guidance scales of a replay; None takes the generator's setting.

    Attributes:
        training: of the weights that train.
        reference: of the reference policy.
    """

    training: float | None = None
    reference: float | None = None

    def of(self, name: str) -> float | None:
        """Return the scale of some weights by name."""
        return self.reference if name == "reference" else self.training


def replay_means(
    policy: FlowPolicy,
    latents: Tensor,
    *,
    prompts: Sequence[Prompt],
    levels: Levels,
    under: Collection[str],
    guidance: Guidance,
) -> dict[str, Tensor]:
    """Compute some levels again: the part of a replay that runs the model.

    Args:
        policy: with the weights that train.
        latents: before the step, ``[L, P, G, ...]``.
        prompts: P of them.
        levels: noise levels of all rows.
        under: names of the weight copies whose means are computed as well.
        guidance: guidance scales.

    Returns:
        ``mean`` ``[L, P, G, ...]`` with gradients, ``std`` ``[L, P, G]``, and the means of the copies by their names.
    """
    gaussian = policy.distribution(latents, prompts, levels, guidance=guidance.training)
    out = {"mean": gaussian.mean.view(latents.shape), "std": gaussian.std.view(latents.shape[:3])}
    for name in under:
        with torch.no_grad(), policy.generator.weights.using(name):
            other = policy.distribution(latents, prompts, levels, guidance=guidance.of(name))
        out[mean_under(name)] = other.mean.view(latents.shape)
    return out


def copies_to_ask(needs: Collection[str], trained: Trained, *, fresh: bool) -> list[str]:
    """Return the weight copies whose means a replay must compute.

    The weights that sampled are known from the rollout, or are those that train as long as these have not moved.

    Args:
        needs: of the algorithm.
        trained: levels to replay.
        fresh: whether the weights are still those that sampled.
    """
    names = [need.removesuffix("_mean") for need in sorted(needs) if need != OLD_LOG_PROB]
    asked = [name for name in names if name != OLD]
    compares = mean_under(OLD) in needs or OLD_LOG_PROB in needs
    kept = trained.old_log_prob is not None or trained.old_mean is not None
    return [*asked, OLD] if compares and not fresh and not kept else asked


def assemble(
    policy: FlowPolicy, means: Mapping[str, Tensor], trained: Trained, *, advantages: Tensor, needs: Collection[str]
) -> Replayed:
    """Put what the model computed beside what the rollout kept.

    Args:
        policy: that was replayed.
        means: from `replay_means`.
        trained: levels that were replayed.
        advantages: of the samples ``[P, G]``, or of each level ``[L, P, G]``.
        needs: of the algorithm.
    """
    mean, std = means["mean"], means["std"]
    levels = trained.levels.to(mean.device)
    target, latents = (tensor.to(mean.device, torch.float32) for tensor in (trained.target, trained.latents))
    others = {need.removesuffix("_mean"): means[need] for need in needs if need in means}
    if mean_under(OLD) in needs:
        others[OLD] = _old_mean(means, trained)
    return Replayed(
        mean=mean,
        std=std,
        latents=latents,
        target=target,
        sigma=levels.sigma.view(std.shape),
        sigma_next=levels.sigma_next.view(std.shape),
        velocity_scale=policy.process.velocity_scale(levels).view(std.shape),
        advantage=advantages.to(mean.device).expand(std.shape),
        old_log_prob=_old_log_prob(means, trained, target) if OLD_LOG_PROB in needs else None,
        means=others,
    )


def _old_mean(means: Mapping[str, Tensor], trained: Trained) -> Tensor:
    """Return the mean under the weights that sampled: as kept, as computed, or the present one, if they still are."""
    mean = means["mean"]
    if trained.old_mean is not None:
        return trained.old_mean.to(mean.device, torch.float32)
    return means.get(mean_under(OLD), mean.detach())


def _old_log_prob(means: Mapping[str, Tensor], trained: Trained, target: Tensor) -> Tensor:
    std = means["std"]
    if trained.old_log_prob is not None:
        return trained.old_log_prob.to(std.device, torch.float32)
    old = Gaussian(_old_mean(means, trained).flatten(0, 2), std.flatten())
    return old.log_prob(target.flatten(0, 2)).view(std.shape)


def replay(
    policy: FlowPolicy,
    rollout: Rollout,
    indices: Sequence[int],
    *,
    advantages: Tensor,
    needs: Collection[str] = (),
    guidance: Guidance | None = None,
) -> Replayed:
    """Compute trained levels of a rollout again, with gradients, before the first optimizer step after it.

    Args:
        policy: with the weights that train, which are still those that sampled.
        rollout: as many groups as one forward of the rollout took, so that the result is equal to the bit.
        indices: numbers of the levels, which share one forward.
        advantages: of the samples ``[P, G]``, or of each level ``[L, P, G]``.
        needs: of the algorithm, see `flexgym.algorithm.base.Algorithm.requires`.
        guidance: guidance scales; by default the generator's.
    """
    trained = policy.process.trained(rollout, indices, policy.grid)
    means = replay_means(
        policy,
        trained.latents,
        prompts=rollout.prompts,
        levels=trained.levels.to(policy.generator.device),
        under=copies_to_ask(needs, trained, fresh=True),
        guidance=guidance or Guidance(),
    )
    return assemble(policy, means, trained, advantages=advantages, needs=needs)
