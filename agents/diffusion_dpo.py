"""Diffusion-DPO (arXiv 2311.12908) on flow matching: preference optimization on the pairs of a data set.

``python -m agents.diffusion_dpo --config FILE`` trains a recipe with ``algorithm.name: diffusion_dpo`` on the pairs of
its section ``data``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agents.base import run_agent
from agents.online_dpo import OnlineDPO, OnlineDPOSettings
from flexgym.algorithm.settings import LevelSettings


class DiffusionDPOSettings(OnlineDPOSettings):
    """Settings of `DiffusionDPO`; the defaults are those of the authors' code."""

    beta: float = Field(default=5000.0, gt=0, description="strength of the preference, on the scale of the errors")
    pairs: Literal["extreme", "all"] = Field(
        default="all", description="all samples of a row whose scores differ, or best against worst"
    )
    levels: LevelSettings = LevelSettings(source="uniform", count=1, low=1e-3, shared=True)


class DiffusionDPO(OnlineDPO):
    """Preference optimization on pairs of a data set that share noise and level; ties give no pair."""

    Settings = DiffusionDPOSettings
    data_only = True


if __name__ == "__main__":
    recipe = "diffusion_dpo_shapes_t2i.yaml"
    run_agent("agents.diffusion_dpo", algorithm="diffusion_dpo", default_recipe=recipe, summary=__doc__)
