from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import pytest
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig

from agents.pref_grpo import PrefGRPOConfig
from flexgym.config.recipe import apply_overrides, load_recipe, shipped_recipes
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.core.yaml_files import dump_yaml, parse_yaml
from flexgym.flow import clipped_surrogate
from flexgym.rllib.recipe import apply_recipe, config_sections, describe


class SmallConfig(AlgorithmConfig):
    """A config with one extended and two new sections, as an algorithm of FlexGym has."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class)
        self.clip_range = 1e-3
        self.generator_source = None
        self.window = (0, 2)
        self.run_name = "small"

    def training(self, *, clip_range: Any = NotProvided, **kwargs: Any) -> Self:
        super().training(**kwargs)
        if clip_range is not NotProvided:
            if not isinstance(clip_range, float):
                raise ConfigError(f"clip_range: expected a number, got {clip_range!r}.")
            self.clip_range = clip_range
        return self

    def generator(self, *, source: Any = NotProvided, window: Any = NotProvided) -> SmallConfig:
        if source is not NotProvided:
            self.generator_source = source
        if window is not NotProvided:
            self.window = tuple(window)
        return self

    def run(self, *, name: Any = NotProvided) -> Self:
        if name is not NotProvided:
            self.run_name = name
        return self

    def helper(self) -> int:
        return 3


class SmallerConfig(SmallConfig):
    def training(self, *, beta: Any = NotProvided, **kwargs: Any) -> Self:
        super().training(**kwargs)
        self.beta = beta
        return self


def write(folder: Path, text: str, name: str = "own.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_sections_become_calls_of_the_methods(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "generator: {source: some/folder}\n"
        "training:\n  lr: 1e-4\n  clip_range: 2e-3\n  gamma: .5\n"
        "learners: {num_learners: 2}\n"
        "environment:\n  env_config: {size: 3}\n"
        "run:\n",
    )
    config = SmallConfig()
    assert apply_recipe(config, load_recipe(path)) is config
    assert config.generator_source == "some/folder"
    assert (config.lr, config.clip_range, config.gamma) == (1e-4, 2e-3, 0.5)
    assert config.num_learners == 2
    assert config.env_config == {"size": 3}
    assert config.run_name == "small"


def test_sections_are_the_methods_that_return_the_config() -> None:
    sections = config_sections(SmallerConfig)
    assert {"generator", "run", "training", "learners", "evaluation", "rl_module"} <= set(sections)
    assert not {"helper", "copy", "build_algo", "freeze", "get_config_for_module", "rollouts"} & set(sections)
    training = sections["training"]
    assert training is not None
    assert {"beta", "clip_range", "lr", "grad_clip"} <= training
    assert not {"kwargs", "self", "num_sgd_iter"} & training


def test_passthrough_keys_are_checked_up_the_whole_line() -> None:
    config = apply_recipe(SmallerConfig(), {"training": {"beta": 0.1, "clip_range": 0.5, "lr": 0.25}})
    assert (config.beta, config.clip_range, config.lr) == (0.1, 0.5, 0.25)
    with pytest.raises(
        UnknownNameError, match=r"unknown key 'clip_rang' in section 'training'. Did you mean 'clip_range'"
    ):
        apply_recipe(SmallerConfig(), {"training": {"clip_rang": 0.5}})


def test_unknown_names_give_file_line_and_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "run: {name: a}\n\nlearnres:\n  num_learners: 1\n")
    with pytest.raises(UnknownNameError, match=r"own\.yaml:3: unknown section 'learnres'. Did you mean 'learners'"):
        apply_recipe(SmallConfig(), load_recipe(path))
    path = write(tmp_path, "learners:\n\n  num_learner: 1\n")
    with pytest.raises(UnknownNameError, match=r"own\.yaml:3: unknown key 'num_learner' .* mean 'num_learners'"):
        apply_recipe(SmallConfig(), load_recipe(path))
    path = write(tmp_path, "learners: {lr: 1}\n")
    with pytest.raises(
        UnknownNameError, match=r"unknown key 'lr' in section 'learners'. It belongs to section 'training'"
    ):
        apply_recipe(SmallConfig(), load_recipe(path))


def test_nothing_is_applied_when_a_later_name_is_wrong() -> None:
    config = SmallConfig()
    with pytest.raises(UnknownNameError):
        apply_recipe(config, {"run": {"name": "changed"}, "training": {"lrr": 1}})
    assert config.run_name == "small"


def test_a_refused_value_names_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "training:\n  lr: 1e-4\n  clip_range: wide\n")
    with pytest.raises(
        ConfigError, match=r"own\.yaml:3: section 'training': clip_range: expected a number, got 'wide'"
    ):
        apply_recipe(SmallConfig(), load_recipe(path))
    with pytest.raises(ConfigError, match="section 'run': expected a mapping of keys, got 5"):
        apply_recipe(SmallConfig(), {"run": 5})


def test_overrides_win_and_leave_the_recipe_alone(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "training: {lr: 1.0}\nrun:\nenvironment: {env_config: {size: 1, kind: a}}\n"))
    changed = apply_overrides(
        recipe,
        [
            "training.lr=1e-4",
            "training.lr=2e-4",
            "learners.num_learners=8",
            "run.name=off",
            "environment.env_config.size=[[0, 1e-2], [100, 1e-3]]",
            "generator.source=null",
        ],
    )
    assert changed == {
        "training": {"lr": 2e-4},
        "run": {"name": "off"},
        "environment": {"env_config": {"size": [[0, 1e-2], [100, 1e-3]], "kind": "a"}},
        "learners": {"num_learners": 8},
        "generator": {"source": None},
    }
    assert recipe["training"] == {"lr": 1.0}
    assert recipe["environment"]["env_config"]["size"] == 1


def test_a_wrong_override_is_named() -> None:
    recipe = apply_overrides({}, ["training.lrr=1"])
    with pytest.raises(UnknownNameError, match="override 'training.lrr=1': unknown key 'lrr'.* Did you mean 'lr'"):
        apply_recipe(SmallConfig(), recipe)
    with pytest.raises(
        UnknownNameError, match="override 'trainig.lr=1': unknown section 'trainig'. Did you mean 'training'"
    ):
        apply_recipe(SmallConfig(), apply_overrides({}, ["trainig.lr=1"]))


@pytest.mark.parametrize(
    "override", ["lr=1", "training.lr", "training.=1", ".lr=1", "training.lr=", "training.lr=[1", "="]
)
def test_malformed_overrides_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        apply_overrides({"training": {"lr": 1.0}}, [override])


def test_an_override_does_not_reach_into_a_number() -> None:
    with pytest.raises(ConfigError, match="'training.lr' is 1.0, so it has no 'start'"):
        apply_overrides({"training": {"lr": 1.0}}, ["training.lr.start=1"])


def test_shipped_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    write(shipped, "run: {name: from-shipped}\n", "small_world.yaml")
    write(shipped, "run: {name: video}\n", "video.yaml")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for name in ("small_world", "small_world.yaml", "configs/small_world.yaml"):
        assert load_recipe(name, shipped=shipped) == {"run": {"name": "from-shipped"}}
    write(here, "run: {name: own}\n", "small_world.yaml")
    assert load_recipe("small_world.yaml", shipped=shipped) == {"run": {"name": "own"}}
    for name in ("smal_world.yaml", "elsewhere/smal_world.yaml"):
        with pytest.raises(UnknownNameError, match="Did you mean 'small_world'. Known: small_world, video"):
            load_recipe(name, shipped=shipped)
    with pytest.raises(UnknownNameError):
        load_recipe("elsewhere/video.yaml", shipped=shipped)


def test_sections_must_be_mappings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"own\.yaml:2: section 'training': expected a mapping .* got 5"):
        load_recipe(write(tmp_path, "run: {}\ntraining: 5\n"))


@pytest.mark.parametrize("config_class", [SmallConfig, PPOConfig])
def test_describe_is_a_recipe_that_restores_the_config(config_class: type[AlgorithmConfig]) -> None:
    config = (
        config_class().training(lr=3e-5, grad_clip=1.0).learners(num_learners=2).environment(env_config={"a": "on"})
    )
    described = describe(config)
    read_back = parse_yaml(dump_yaml(described), source="dump")
    assert read_back == described
    assert described["training"]["lr"] == 3e-5
    restored = apply_recipe(config_class(), read_back)
    assert describe(restored) == described
    assert (restored.lr, restored.num_learners, restored.env_config) == (3e-5, 2, {"a": "on"})


def test_describe_gives_own_sections_first_and_objects_by_name() -> None:
    config = SmallConfig().environment(env=SmallConfig)
    described = describe(config)
    assert set(list(described)[:3]) == {"generator", "run", "training"}
    assert described["generator"] == {"source": None, "window": [0, 2]}
    assert described["run"] == {"name": "small"}
    assert described["_objects"]["environment"]["env"].endswith("test_recipe.SmallConfig")
    assert "learner_class" not in described["training"]


def read_back(config: AlgorithmConfig, folder: Path) -> AlgorithmConfig:
    """The config that a run resumed from its folder starts with."""
    return apply_recipe(type(config)(), load_recipe(write(folder, dump_yaml(describe(config)), "config.yaml")))


def without_run(path: Path) -> dict[str, Any]:
    return {section: values for section, values in load_recipe(path).items() if section != "run"}


PREF_GRPO = {name: path for name, path in shipped_recipes().items() if name.startswith("pref_grpo")}


@pytest.mark.parametrize("path", PREF_GRPO.values(), ids=PREF_GRPO)
def test_a_shipped_recipe_read_back_from_the_run_folder_is_equal(path: Path, tmp_path: Path) -> None:
    config = apply_recipe(PrefGRPOConfig(), without_run(path))
    assert read_back(config, tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize("config_class", [PrefGRPOConfig, PPOConfig, DQNConfig])
def test_defaults_read_back_are_equal(config_class: type[AlgorithmConfig], tmp_path: Path) -> None:
    config = config_class()
    again = read_back(config, tmp_path)
    assert again.to_dict() == config.to_dict()
    assert type(again.torch_compile_learner_what_to_compile) is type(config.torch_compile_learner_what_to_compile)


def test_tuples_read_back_are_tuples_again(tmp_path: Path) -> None:
    config = PrefGRPOConfig().training(clip_range=(1e-4, 2e-4), betas=(0.8, 0.9), lr=[[0, 1e-3], [9, 1e-4]])
    config.rollout(window={"size": 2, "strategy": "random", "first": (1, 4)}, prompts=["a cat", "a dog"])
    config.reward(monitors=("ShapesVerifier",), settings={"sizes": [1, 2]})
    assert read_back(config, tmp_path).to_dict() == config.to_dict()


def test_lists_of_a_recipe_become_what_the_config_had() -> None:
    written = {
        "training": {"betas": [0.8, 0.9], "clip_range": [0.1, 0.2], "lr": [[0, 0.1], [9, 0.2]]},
        "rollout": {"window": {"first": [0, 2], "size": 1}, "prompts": ["a cat"]},
        "reward": {"monitors": ["ShapesVerifier"], "settings": {"sizes": [1]}},
    }
    config = apply_recipe(PrefGRPOConfig(), written)
    assert (config.betas, config.clip_range, config.lr) == ((0.8, 0.9), (0.1, 0.2), [[0, 0.1], [9, 0.2]])
    assert (config.window, config.prompts) == ({"first": (0, 2), "size": 1}, ["a cat"])
    assert (config.monitors, config.reward_settings) == (("ShapesVerifier",), {"sizes": [1]})
    assert written["training"]["betas"] == [0.8, 0.9]
    epsilon = apply_recipe(DQNConfig(), {"training": {"epsilon": [[0, 1.0], [5, 0.5], [9, 0.1]]}}).epsilon
    assert epsilon == [(0, 1.0), (5, 0.5), (9, 0.1)]
    assert apply_recipe(DQNConfig(), {"training": {"epsilon": 0.1}}).epsilon == 0.1


def test_two_clip_ranges_of_a_recipe_reach_the_loss() -> None:
    config = apply_recipe(PrefGRPOConfig(), apply_overrides({}, ["training.clip_range=[0.1, 0.2]"]))
    ratio = torch.tensor([0.85, 0.95, 1.15, 1.25])
    gain = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    assert clipped_surrogate(ratio.log(), gain, clip_range=config.clip_range).clipped.tolist() == [
        True,
        False,
        False,
        True,
    ]
