"""Diffusion-DPO (arXiv 2311.12908) on flow matching: preference optimization on the pairs of a data set.

``python -m agents.diffusion_dpo --config FILE`` trains a recipe with ``algorithm.name: diffusion_dpo`` on the pairs of
its section ``data``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.agents.online_dpo import OnlineDPO, OnlineDPOSettings
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


main = Agent("diffusion_dpo", algorithm="diffusion_dpo", summary=__doc__ or "")
