from __future__ import annotations

from typing import get_args

import pytest

from flexgym.config import SB3Settings
from flexgym.config.describe import dump_settings
from flexgym.config.load import load_settings
from flexgym.config.recipe import apply_overrides, load_recipe, shipped_recipes
from flexgym.config.sb3 import AlgorithmName
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.sb3.model import make_model

SHIPPED = {name: path for name, path in shipped_recipes().items() if name.startswith("sb3")}


@pytest.mark.parametrize("path", SHIPPED.values(), ids=SHIPPED)
def test_shipped_recipes_read_back_from_the_run_folder_are_equal(path, tmp_path):
    settings = load_settings(SB3Settings, load_recipe(path))
    (tmp_path / "config.yaml").write_text(dump_settings(settings))
    assert load_settings(SB3Settings, load_recipe(tmp_path / "config.yaml")) == settings
    assert settings.run.minutes is not None
    assert settings.arguments


def test_overrides_reach_the_algorithm_and_the_environment():
    changed = apply_overrides(
        load_recipe("sb3_ppo_shapes_t2i_control"),
        ["training.algorithm=SAC", "SAC.batch_size=32", "environment.settings.decisions=2"],
    )
    settings = load_settings(SB3Settings, changed)
    assert settings.training.algorithm == "SAC"
    assert settings.arguments["batch_size"] == 32
    assert settings.environment.settings["decisions"] == 2
    assert settings.environment.settings["group_size"] == 8


def test_every_algorithm_of_stable_baselines_is_known():
    import stable_baselines3
    from stable_baselines3.common.base_class import BaseAlgorithm

    found = vars(stable_baselines3).items()
    algorithms = {name for name, kind in found if isinstance(kind, type) and issubclass(kind, BaseAlgorithm)}
    assert algorithms == set(get_args(AlgorithmName))


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"trainings": {}}, UnknownNameError, "Did you mean 'training'"),
        ({"training": {"algoritm": "PPO"}}, UnknownNameError, "Did you mean 'algorithm'"),
        ({"training": {"algorithm": "PPPO"}}, UnknownNameError, "Did you mean 'PPO'"),
        ({"PPO": {"learning_rat": 1e-3}}, UnknownNameError, "learning_rat.*Did you mean 'learning"),
        ({"PPO": {"seed": 1}}, UnknownNameError, "PPO.seed"),
        ({"training": {"steps_per_iteration": 0}}, ConfigError, "training.steps_per_iteration"),
        ({"environment": {"num_envs": 1.5}}, ConfigError, "environment.num_envs"),
        ({"run": {"iterations": 0}}, ConfigError, "run.iterations"),
    ],
)
def test_what_cannot_work_is_told(sections, error, message):
    with pytest.raises(error, match=message):
        load_settings(SB3Settings, sections)


def test_what_the_algorithm_refuses_names_its_section():
    import gymnasium as gym

    settings = load_settings(SB3Settings, {"training": {"algorithm": "DQN", "policy": "MlpPolicy"}})
    with pytest.raises(ConfigError, match="section 'DQN': .*Discrete"):
        make_model(settings, gym.make("Pendulum-v1"))
