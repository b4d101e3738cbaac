"""The recipes for published generators, on pipelines of their kind with small random modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from flexgym.agents.base import AgentComponents, load_agent_settings
from flexgym.config.recipe import Recipe, apply_overrides, load_recipe, shipped_recipes
from flexgym.judge.schedule import make_schedule
from flexgym.rllib.command import make_agent_run
from flexgym.runs.metrics import read_metrics
from tests.generators.tiny import CASES, PROMPTS
from tests.judge.backends.scripted_server import assessment
from tests.rewards.seeing_server import seeing_server

FAMILIES = {
    "flux1_dev": "flux",
    "flux2_klein": "flux2_klein",
    "qwen_image": "qwen_image",
    "sd35_medium": "sd35",
    "wan21_14b": "wan",
    "wan21_1b": "wan",
    "wan22_a14b": "wan22",
}


def published(name: str) -> Recipe:
    return load_recipe(f"pref_grpo_{name}.yaml")


def test_every_recipe_of_a_published_generator_is_tested_here():
    shipped = {name.removeprefix("pref_grpo_") for name in shipped_recipes() if name.startswith("pref_grpo")}
    assert set(FAMILIES) == {name for name in shipped if not name.startswith("shapes")}


@pytest.mark.parametrize("learners", [1, 8])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_is_valid_as_it_stands(name, learners):
    settings = load_agent_settings(
        apply_overrides(published(name), [f"resources.num_learners={learners}", f"rollout.prompts={PROMPTS}"])
    )
    assert settings.run.name == f"pref_grpo_{name}"
    num_steps = settings.generator.sampling.num_steps
    windows = settings.algorithm.window.schedule(num_steps).windows
    assert all(window.stop < num_steps for window in windows), "the last step is never trained"
    reward = AgentComponents().make_reward(settings.reward.name, settings.reward.settings)
    reward.close()
    assert settings.reward.settings["judge"] == "http://localhost:8080/v1"
    assert reward.tournament.alpha == 0.7
    none = {"played": np.empty((0, 2), dtype=np.intp), "wins": np.empty(0)}
    size = settings.rollout.group_size
    pairs = make_schedule(reward.tournament.schedule).draw(size, np.random.default_rng(0), **none)
    assert len(pairs) >= size


def brighter(means, text):
    """The images of the first sample come first."""
    first, second = np.array_split(means, 2)
    return assessment("nobody", 0, winner="Image 1" if first.mean() > second.mean() else "Image 2")


def small_overrides(name: str, folder: Path, judge: str) -> list[str]:
    """What is smaller than in the recipe; all else, such as precision and guidance, is the recipe's."""
    settings = {**CASES[FAMILIES[name]].settings, "num_steps": 4}
    return [
        f"generator.source={folder / 'pipe'}",
        *(f"generator.sampling.{key}={value}" for key, value in settings.items()),
        f"rollout.prompts={PROMPTS}",
        "rollout.group_size=3",
        "rollout.prompts_per_iteration=2",
        "algorithm.window={size: 2, strategy: random, first: [0, 1]}",
        f"reward.settings.judge={judge}",
        "resources.num_gpus_per_learner=0",
        f"run.root={folder}",
        "run.iterations=2",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_trains_for_two_iterations(cluster, name, tmp_path: Path):
    CASES[FAMILIES[name]].build().save_pretrained(tmp_path / "pipe")
    with seeing_server(brighter) as server:
        recipe = apply_overrides(published(name), small_overrides(name, tmp_path, server.url))
        settings = load_agent_settings(recipe)
        run = make_agent_run(settings, AgentComponents()).train()
    rows = read_metrics(run / "metrics.jsonl")[1:]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert all(row["policy/gradient_norm"] > 0.0 and row["reward/failures"] == 0 for row in rows)
    assert settings.training.num_updates > 1 or rows[0]["policy/max_abs_log_ratio"] == 0.0
    written = run / "checkpoints" / "iteration_000002" / "generator"
    if settings.generator.mode == "full":
        assert (written / "model_index.json").is_file()
        return
    with safe_open(written / "pytorch_lora_weights.safetensors", "pt") as file:
        ranks = {file.get_tensor(key).shape[0] for key in file.keys() if key.endswith("lora_A.weight")}  # noqa: SIM118
    assert ranks == {settings.generator.lora.rank}
