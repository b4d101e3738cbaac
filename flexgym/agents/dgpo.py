"""DGPO (arXiv 2510.08425): preference optimization of whole groups, weighted by how well the policy ranks them.

``python -m agents.dgpo --config FILE`` trains a recipe with ``algorithm.name: dgpo``.
"""

from __future__ import annotations

from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.algorithm.base import REFERENCE, Loss
from flexgym.algorithm.finished import FinishedAlgorithm, FinishedSettings
from flexgym.algorithm.replay import OLD, Replayed, mean_under
from flexgym.algorithm.settings import LevelSettings
from flexgym.core.metrics import Mean, Share
from flexgym.flow import dgpo_loss, matching_error, velocity_residual


class DGPOSettings(FinishedSettings):
    """Settings of `DGPO`: the preference, and the weights that it is measured from."""

    beta: float = Field(default=100.0, gt=0, description="strength of the preference; 2000 and more toward an EMA")
    toward: str = Field(default=REFERENCE, min_length=1, description="weights that errors are compared with")
    clip_range: float | None = Field(default=None, gt=0, description="clip by the ratio of errors; null for none")
    levels: LevelSettings = LevelSettings(source="uniform", count=4, shared=True)


class DGPO(FinishedAlgorithm[DGPOSettings]):
    """Group preference optimization on finished samples that share noise and level."""

    Settings = DGPOSettings
    skips_dead = True
    couples = True

    @property
    def needs(self) -> frozenset[str]:
        """The prediction of the reference, and for a clip that when sampled."""
        clipped = {mean_under(OLD)} if self.settings.clip_range else set()
        return frozenset({mean_under(self.settings.toward), *clipped})

    @property
    def off_policy(self) -> tuple[str, ...]:
        """The clip range, where there is one."""
        return ("clip_range",) if self.settings.clip_range else ()

    def loss(self, replayed: Replayed) -> Loss:
        """Compute `flexgym.flow.dgpo_loss`, ``[L, P, G]``."""
        settings = self.settings
        named = {"error": replayed.mean, "reference_error": replayed.means[settings.toward]}
        if settings.clip_range:
            named["old_error"] = replayed.means[OLD]
        errors = {
            name: matching_error(velocity_residual(mean, replayed.target, replayed.sigma), lead=3)
            for name, mean in named.items()
        }
        found = dgpo_loss(
            **errors, advantage=replayed.advantage, beta=settings.beta, clip_range=settings.clip_range or 0.05
        )
        metrics = {
            "loss/policy": Mean(found.loss),
            "dgpo/weight": Mean(found.weight),
            "policy/clip_share": Share(found.clipped.float()),
        }
        return Loss(found.loss, metrics)


main = Agent("dgpo", algorithm="dgpo", summary=__doc__ or "")
