"""The recipes of the small world learn: after some iterations the verifier finds more held-out prompts met."""

from __future__ import annotations

import pytest

from agents.pref_grpo import PrefGRPO
from flexgym.rllib.recipe import apply_recipe
from flexgym.runs.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]
ITERATIONS = 20


@pytest.mark.parametrize("name", ["pref_grpo_shapes_t2i", "pref_grpo_shapes_judge"])
def test_more_held_out_prompts_are_met(name):
    recipe = load_recipe(f"{name}.yaml")
    del recipe["run"]
    config = apply_recipe(PrefGRPO.get_default_config(), recipe)
    config.verification(interval=0)
    algorithm = config.build_algo()
    before = algorithm.verify().accuracy
    for _ in range(ITERATIONS):
        algorithm.train()
    after = algorithm.verify().accuracy
    algorithm.stop()
    # A share of 400 prompts has a standard error of 0.025; by 20 iterations the rise is some 0.15.
    assert after > before + 0.08
