"""Advantage-weighted matching (arXiv 2509.25050): the clipped surrogate on the density of finished samples.

``python -m agents.matching --config FILE`` trains a recipe with ``algorithm.name: matching``.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from flexgym.agents.base import Agent
from flexgym.agents.surrogate import SurrogateSettings, surrogate_metrics
from flexgym.algorithm.base import CopySchedule, Loss
from flexgym.algorithm.finished import FinishedAlgorithm, FinishedSettings
from flexgym.algorithm.process import ForwardProcess
from flexgym.algorithm.replay import OLD, OLD_LOG_PROB, Replayed, mean_under
from flexgym.flow import MatchingWeight, clipped_surrogate, matching_log_prob, velocity_residual

TRAILING = "trailing"
"""Name of the copy that AWM's authors hold the policy to, besides the reference."""


class MatchingSettings(SurrogateSettings, FinishedSettings):
    """Settings of `Matching`; a penalty toward ``trailing`` holds the policy to an average of its recent weights."""

    weight: MatchingWeight = Field(
        default="uniform", description="how the density depends on the error of the velocity and the noise level"
    )


class Matching(FinishedAlgorithm[MatchingSettings]):
    """Clipped policy gradient on the flow-matching loss of samples that were made without noise."""

    Settings = MatchingSettings
    off_policy = ("clip_range",)
    skips_dead = True

    @property
    def process(self) -> ForwardProcess:
        """Fresh noise on finished samples; ``eta`` is the standard deviation of the trained density."""
        draw = self.settings.levels.draw
        return ForwardProcess(draw=draw) if self.settings.eta is None else ForwardProcess(self.settings.eta, draw)

    @property
    def needs(self) -> frozenset[str]:
        """Density or prediction when sampled."""
        return frozenset({OLD_LOG_PROB if self.settings.weight == "uniform" else mean_under(OLD)})

    @property
    def copies(self) -> Mapping[str, CopySchedule]:
        """The average of recent weights with the authors' decay, where a penalty names it."""
        return {TRAILING: CopySchedule(slope=0.001, highest=0.3)} if TRAILING in self.settings.penalties else {}

    def loss(self, replayed: Replayed) -> Loss:
        """Compute the clipped surrogate (arXiv 1707.06347, eq. 7), ``[L, P, G]``."""
        log_ratio = replayed.log_ratio if self.settings.weight == "uniform" else self._log_ratio(replayed)
        surrogate = clipped_surrogate(log_ratio, replayed.advantage, clip_range=self.settings.clip_range)
        return Loss(surrogate.loss, surrogate_metrics(surrogate, log_ratio))

    def _log_ratio(self, replayed: Replayed) -> Tensor:
        """Return the log ratio of densities with one of the authors' weights."""
        new, old = (
            matching_log_prob(
                velocity_residual(predicted, replayed.target, replayed.sigma),
                replayed.sigma,
                weight=self.settings.weight,
            )
            for predicted in (replayed.mean, replayed.means[OLD])
        )
        return new - old.detach()


main = Agent("matching", algorithm="matching", summary=__doc__ or "")
