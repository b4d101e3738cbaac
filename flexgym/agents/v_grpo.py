"""V-GRPO (arXiv 2604.23380): matching whose noise is shared in the group, with one ratio for all levels of a sample.

``python -m agents.v_grpo --config FILE`` trains a recipe with ``algorithm.name: v_grpo``.
"""

from __future__ import annotations

from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.agents.surrogate import surrogate_metrics
from flexgym.algorithm.base import Loss
from flexgym.algorithm.finished import FinishedAlgorithm, FinishedSettings
from flexgym.algorithm.replay import OLD, Replayed, mean_under
from flexgym.algorithm.settings import ClipRange, LevelSettings
from flexgym.flow import clipped_surrogate, matching_log_prob, sequence_log_ratio, soft_clip, velocity_residual


class VGRPOSettings(FinishedSettings):
    """Settings of `VGRPO`; for the form without clip, set ``clip_range: null`` and a penalty toward ``old``, clean."""

    clip_range: ClipRange | None = Field(default=0.03, description="how far a ratio may leave 1; null for any")
    soft_clip: float | None = Field(default=None, gt=0, description="smooth bound of the advantages, such as 4")
    levels: LevelSettings = LevelSettings(source="uniform", count=4, stratified=True, shared=True)


class VGRPO(FinishedAlgorithm[VGRPOSettings]):
    """Clipped policy gradient on the adaptively weighted error of finished samples, averaged over stratified levels."""

    Settings = VGRPOSettings
    skips_dead = True
    stacked = True

    @property
    def needs(self) -> frozenset[str]:
        """The prediction when sampled."""
        return frozenset({mean_under(OLD)})

    @property
    def off_policy(self) -> tuple[str, ...]:
        """The clip range, where there is one."""
        return ("clip_range",) if self.settings.clip_range else ()

    def loss(self, replayed: Replayed) -> Loss:
        """Compute the surrogate of eq. 14 with the mean over levels inside the ratio, ``[L, P, G]``."""
        new, old = (
            matching_log_prob(
                velocity_residual(predicted, replayed.target, replayed.sigma), replayed.sigma, weight="adaptive"
            )
            for predicted in (replayed.mean, replayed.means[OLD])
        )
        log_ratio = sequence_log_ratio(new - old.detach())
        advantage, limits = replayed.advantage[0], self.settings.clip_range or (1.0, float("inf"))
        advantage = advantage if self.settings.soft_clip is None else soft_clip(advantage, eta=self.settings.soft_clip)
        surrogate = clipped_surrogate(log_ratio, advantage, clip_range=limits)
        return Loss(surrogate.loss.expand(replayed.advantage.shape), surrogate_metrics(surrogate, log_ratio))


main = Agent("v_grpo", algorithm="v_grpo", summary=__doc__ or "")
