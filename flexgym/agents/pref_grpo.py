"""Pref-GRPO (arXiv 2508.20751): group-relative training on the pairwise preferences of a judge.

``python -m agents.pref_grpo`` trains the embedded text-to-image model with the embedded judge in minutes;
``python -m agents.pref_grpo --config pref_grpo_shapes_t2v.yaml training.lr=1e-4`` takes a recipe and overrides. The
reward is a judge's tournament in each group; the algorithm is the one that the recipe names.
"""

from __future__ import annotations

from flexgym.agents.base import Agent

DEFAULT_RECIPE = "pref_grpo_shapes_judge.yaml"

main = Agent("pref_grpo", default_recipe=DEFAULT_RECIPE, summary=__doc__ or "")
