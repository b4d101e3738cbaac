"""Advantage-weighted matching (arXiv 2509.25050): the clipped surrogate on the density of finished samples.

``python -m agents.matching --config FILE`` trains a recipe with ``algorithm.name: matching``.
"""

from __future__ import annotations

from agents.base import run_agent
from agents.grpo import Surrogate, SurrogateSettings
from flexgym.algorithm.process import ForwardProcess
from flexgym.algorithm.settings import LevelSettings


class MatchingSettings(SurrogateSettings):
    """Settings of `Matching`: those of the surrogate, and the noise levels."""

    levels: LevelSettings = LevelSettings()


class Matching(Surrogate[MatchingSettings]):
    """Clipped policy gradient on the flow-matching loss of samples that were made without noise."""

    Settings = MatchingSettings

    @property
    def process(self) -> ForwardProcess:
        """Fresh noise on finished samples; ``eta`` is the standard deviation of the trained density."""
        draw = self.settings.levels.draw
        return ForwardProcess(draw=draw) if self.settings.eta is None else ForwardProcess(self.settings.eta, draw)


if __name__ == "__main__":
    run_agent("agents.matching", algorithm="matching", default_recipe="pref_grpo_shapes_t2i.yaml", summary=__doc__)
