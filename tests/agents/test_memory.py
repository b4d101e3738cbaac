"""The settings about memory in a run: Pref-GRPO on the embedded checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from agents.pref_grpo import PrefGRPOConfig
from flexgym.errors import ConfigError, UnknownNameError
from flexgym.rllib.recipe import apply_overrides, apply_recipe, describe
from tests.agents.small import largest_difference, small_config, train, weights

PROMPTS = ("a red circle", "a blue square")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def finish(config):
    """Weights and metrics after one iteration, and what a call on the generator gives then."""
    algorithm, metrics = train(config)
    trained = weights(algorithm)
    encoders = algorithm.on_first_learner(lambda learner: list(learner.generator.text_encoders()))
    algorithm.stop()
    return trained, metrics, encoders


def test_a_run_without_text_encoders_learns_the_same(tmp_path: Path):
    config = small_config()
    config.rollout(prompts=PROMPTS)
    config.verification(reward="ShapesVerifier", prompts=["a green triangle"], num_prompts=1, interval=1)
    expected, _, encoders = finish(config.copy(copy_frozen=False))
    assert encoders == ["text_encoder", "text_encoder_2"]
    config.generator(text_cache=str(tmp_path / "text"), release_text_encoders=True)
    found, metrics, encoders = finish(config)
    assert encoders == []
    assert largest_difference(found, expected) == 0.0
    assert metrics["policy/max_abs_log_ratio"] == 0.0
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(PROMPTS) + 1 + 1, "one held out, and the empty one"


def test_overrides_reach_the_settings():
    overrides = ["generator.text_cache=runs/text", "generator.release_text_encoders=true", "generator.mode=full"]
    config = apply_recipe(PrefGRPOConfig(), apply_overrides({}, overrides))
    assert (config.text_cache, config.release_text_encoders, config.mode) == ("runs/text", True, "full")
    again = apply_recipe(PrefGRPOConfig(), describe(config))
    assert describe(again) == describe(config)
    with pytest.raises(UnknownNameError, match="'text_cache'"):
        apply_recipe(PrefGRPOConfig(), apply_overrides({}, ["generator.textcache=runs/text"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"text_cache": 3}, "generator.text_cache must be a folder or null, got 3"),
        ({"text_cache": " "}, "generator.text_cache must be a folder or null"),
        ({"release_text_encoders": "yes"}, "generator.release_text_encoders must be true or false, got 'yes'"),
    ],
)
def test_values_of_another_kind_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        PrefGRPOConfig().generator(**setting).validate()
