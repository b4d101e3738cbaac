from __future__ import annotations

import pytest

from flexgym.config.recipe import Recipe, apply_overrides, load_recipe, shipped_recipes
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.core.yaml_files import dump_yaml
from flexgym.sb3.settings import ALGORITHMS, SB3Settings

SHIPPED = {name: path for name, path in shipped_recipes().items() if name.startswith("sb3")}


def recipe(**sections):
    return Recipe(sections, source="recipe", origins={})


@pytest.mark.parametrize("path", SHIPPED.values(), ids=SHIPPED)
def test_shipped_recipes_read_back_from_the_run_folder_are_equal(path, tmp_path):
    settings = SB3Settings.parse(load_recipe(path))
    (tmp_path / "config.yaml").write_text(dump_yaml(settings.describe()))
    assert SB3Settings.parse(load_recipe(tmp_path / "config.yaml")) == settings
    assert settings.run.minutes is not None
    assert settings.algorithms.keys() >= {settings.training.algorithm}


def test_overrides_reach_the_algorithm_and_the_environment():
    changed = apply_overrides(
        load_recipe("sb3_ppo_shapes_t2i_control"),
        ["training.algorithm=SAC", "SAC.batch_size=32", "environment.env_config.decisions=2"],
    )
    settings = SB3Settings.parse(changed)
    assert settings.training.algorithm == "SAC"
    assert settings.algorithms["SAC"]["batch_size"] == 32
    assert settings.environment.env_config["decisions"] == 2
    assert settings.environment.env_config["group_size"] == 8


def test_every_algorithm_of_stable_baselines_is_known():
    assert set(ALGORITHMS) == {"A2C", "DDPG", "DQN", "PPO", "SAC", "TD3"}


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"trainings": {}}, UnknownNameError, "Did you mean 'training'"),
        ({"training": {"algoritm": "PPO"}}, UnknownNameError, "Did you mean 'algorithm'"),
        ({"training": {"algorithm": "PPPO"}}, UnknownNameError, "Did you mean 'PPO'"),
        ({"PPO": {"learning_rat": 1e-3}}, UnknownNameError, "argument of PPO 'learning_rat'. Did you mean 'learning"),
        ({"PPO": {"seed": 1}}, UnknownNameError, "argument of PPO 'seed'"),
        ({"training": {"steps_per_iteration": 0}}, ConfigError, "training.steps_per_iteration"),
        ({"environment": {"num_envs": 1.5}}, ConfigError, "environment.num_envs"),
        ({"run": {"iterations": 0}}, ConfigError, "run.iterations"),
    ],
)
def test_what_cannot_work_is_told(sections, error, message):
    with pytest.raises(error, match=message):
        SB3Settings.parse(recipe(**sections))


def test_what_the_algorithm_refuses_names_its_section():
    import gymnasium as gym

    settings = SB3Settings.parse(recipe(training={"algorithm": "DQN", "policy": "MlpPolicy"}))
    with pytest.raises(ConfigError, match="section 'DQN': .*Discrete"):
        settings.build(gym.make("Pendulum-v1"))
