"""Regression toward predictions that are guided by the rewards of the group (after DiffusionART, arXiv 2610.12572).

The paper's equations were not available; the loss is a derivation from its public description. A group's covariance of
rewards and clean samples is the direction in which tilting by the reward moves every prediction, to first order.
``python -m agents.covariance_guidance --config FILE`` trains a recipe with ``algorithm.name: covariance_guidance``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.algorithm.base import Loss
from flexgym.algorithm.finished import FinishedAlgorithm, FinishedSettings
from flexgym.algorithm.replay import OLD, Replayed, mean_under
from flexgym.core.metrics import Mean, Share
from flexgym.flow import covariance_direction, covariance_guidance_loss


class CovarianceGuidanceSettings(FinishedSettings):
    """Settings of `CovarianceGuidance`: the step along the covariance, and its bound."""

    scale: float = Field(default=0.1, ge=0, description="length of the step in clean latents, as root mean square")
    space: Literal["clean", "velocity"] = Field(default="clean", description="space of the regression")
    radius: float | None = Field(
        default=0.02, ge=0, description="change of the velocity beyond which a row no longer moves out; null for none"
    )


class CovarianceGuidance(FinishedAlgorithm[CovarianceGuidanceSettings]):
    """Regress on the old prediction plus a step along the covariance of rewards and samples of the group."""

    Settings = CovarianceGuidanceSettings
    couples = True

    @property
    def needs(self) -> frozenset[str]:
        """The prediction when sampled."""
        return frozenset({mean_under(OLD)})

    @property
    def off_policy(self) -> tuple[str, ...]:
        """The radius, where there is one."""
        return () if self.settings.radius is None else ("radius",)

    def loss(self, replayed: Replayed) -> Loss:
        """Compute `flexgym.flow.covariance_guidance_loss`, ``[L, P, G]``."""
        settings = self.settings
        found = covariance_guidance_loss(
            replayed.mean,
            replayed.means[OLD],
            covariance_direction(replayed.advantage, replayed.target),
            sigma=replayed.sigma,
            scale=settings.scale,
            space=settings.space,
            radius=settings.radius,
        )
        metrics = {"loss/policy": Mean(found.loss), "policy/dropped": Share(found.dropped.float(), label="dropped")}
        return Loss(found.loss, metrics)


main = Agent("covariance_guidance", algorithm="covariance_guidance", summary=__doc__ or "")
