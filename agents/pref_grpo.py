"""Pref-GRPO (arXiv 2508.20751): GRPO on the pairwise preferences of a judge.

``python -m agents.pref_grpo`` trains the embedded text-to-image model with the embedded judge in minutes;
``python -m agents.pref_grpo --config pref_grpo_shapes_t2v.yaml training.lr=1e-4`` takes a recipe and overrides.
"""

from __future__ import annotations

from agents.base import AgentConfig
from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.command import run_command

DEFAULT_RECIPE = "pref_grpo_shapes_judge.yaml"


class PrefGRPOConfig(AgentConfig):
    """Settings of `PrefGRPO`: a judge's tournament in each group is the reward."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or PrefGRPO)
        self.reward(name="ShapesOracle")


class PrefGRPO(FlowAlgorithm):
    """GRPO whose rewards are win rates within the group.

    The advantage of a sample blends the normalised win rates by dimension and overall, ``alpha z(R_dim) +
    (1 - alpha) z(R_overall)``, and the clipped surrogate is taken over the trained denoising steps.
    """

    @classmethod
    def get_default_config(cls) -> PrefGRPOConfig:
        """The defaults."""
        return PrefGRPOConfig()


def main() -> None:
    """The command line."""
    run_command(PrefGRPO, default_recipe=DEFAULT_RECIPE, program="python -m agents.pref_grpo")


if __name__ == "__main__":
    # classes of __main__ could not be found again by learner processes and checkpoints
    from agents import pref_grpo

    pref_grpo.main()
