"""What holds for every algorithm: a short file, both recipes, and the same weights from one and two learners."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexgym.agents import base
from flexgym.agents.base import load_agent_settings
from flexgym.algorithm.base import algorithm_names
from flexgym.config.recipe import apply_overrides, load_recipe, shipped_recipes
from flexgym.generators import load_generator
from flexgym.rllib.config import FlowConfig
from tests.agents.small import METRICS, config_of, largest_difference, weights
from tests.generators.test_adapters import disturb

NAMES = algorithm_names()
ON_GRADIENTS = ("draft_lv", "drtune", "flow_bp", "refl")
UNPUBLISHED = ("covariance_guidance",)
"""Algorithms whose paper says too little for a recipe with its values."""


@pytest.mark.parametrize("name", NAMES)
def test_its_file_has_at_most_80_lines(name):
    assert len((Path(base.__file__).parent / f"{name}.py").read_text().splitlines()) <= 80


def test_each_has_a_recipe_for_the_small_world_and_one_for_a_published_generator():
    sections = {name: load_recipe(name).get("algorithm", {}) for name in shipped_recipes()}
    for name in NAMES:
        own = [recipe for recipe, section in sections.items() if section.get("name") == name]
        assert f"{name}_shapes_t2i" in own
        assert name in UNPUBLISHED or any("shapes" not in recipe for recipe in own)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    generator = load_generator(None, modality="image", device="cpu")
    generator.weights.add_lora(rank=2)
    disturb(generator)
    return generator.save(tmp_path_factory.mktemp("teacher") / "adapter")


def config(name: str, mode: str, teacher: Path, learners: int) -> FlowConfig:
    """The recipe of the small world with few samples and one optimizer step, as several divide groups differently."""
    recipe = load_recipe(f"{name}_shapes_t2i")
    teachers = recipe["algorithm"].get("teachers", {})
    few = [] if "data" in recipe or teachers else ["rollout.group_size=4"]
    overrides = [
        *few,
        *(f"algorithm.teachers.{each}.adapter={teacher}" for each in teachers),
        f"generator.mode={mode}",
        *(["generator.lora.rank=4"] if mode == "lora" else []),
        "rollout.prompts_per_iteration=4",
        "rollout.groups_per_forward=2",
        "training.num_updates=1",
        "training.lr=1.0e-4",
        f"resources.num_learners={learners}",
    ]
    return config_of(load_agent_settings(apply_overrides(recipe, overrides)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_one_and_two_learners_give_the_same_weights(name, mode, learner_pairs, teacher):
    found, start = [], None
    for learners in (0, 2):
        algorithm = config(name, mode, teacher, learners).build_algo()
        start = weights(algorithm) if start is None else start
        # samples of the second iteration differ by rounding, which rewards and the choice of the best are not smooth in
        for _ in range(1 if name in {*ON_GRADIENTS, "online_dpo"} else 2):
            metrics = algorithm.train()[METRICS]
        assert metrics.get("policy/max_abs_log_ratio", 0.0) == 0.0
        states = algorithm.on_learners(lambda learner: learner.flow_module.get_state())
        assert len(states) == max(1, learners)
        assert all(largest_difference(states[0], other) == 0.0 for other in states)
        found.append(states[0])
        algorithm.stop()
    assert largest_difference(found[0], start) > 1e-5
    assert largest_difference(*found) < 1e-6
