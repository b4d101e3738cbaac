"""The settings about memory in a run: Pref-GRPO on the embedded checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from agents.pref_grpo import PrefGRPOConfig
from flexgym.errors import ConfigError, UnknownNameError
from flexgym.rllib.recipe import apply_recipe, describe
from flexgym.runs.recipe import apply_overrides
from tests.agents.small import largest_difference, small_config, train, weights

PROMPTS = ("a red circle", "a blue square")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def finish(config):
    """Weights and metrics after one iteration, and the generator that it was done with."""
    algorithm, metrics = train(config)
    trained = weights(algorithm)
    generator = algorithm.on_first_learner(lambda learner: learner.generator)
    algorithm.stop()
    return trained, metrics, generator


def test_a_run_without_text_encoders_learns_the_same(tmp_path: Path):
    config = small_config()
    config.rollout(prompts=PROMPTS)
    config.verification(reward="ShapesVerifier", prompts=["a green triangle"], num_prompts=1, interval=1)
    expected, _, generator = finish(config.copy(copy_frozen=False))
    assert list(generator.text_encoders()) == ["text_encoder", "text_encoder_2"]
    assert not generator.pipe.vae.use_tiling
    config.generator(text_cache=str(tmp_path / "text"), release_text_encoders=True, vae_tiling=True, offload=True)
    found, metrics, generator = finish(config)
    assert generator.text_encoders() == {}
    assert generator._resting == {"vae"}
    assert generator.pipe.vae.use_tiling, "whose tiles are as large as a sample"
    assert largest_difference(found, expected) == 0.0
    assert metrics["policy/max_abs_log_ratio"] == 0.0
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(PROMPTS) + 1 + 1, "one held out, and the empty one"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_before_the_first_update_every_ratio_is_one_in_either_precision(dtype):
    config = small_config(kl_coeff=0.01)
    config.rollout(latents_dtype=dtype)
    config.generator(mode="lora", lora={"rank": 4})
    algorithm, metrics = train(config)
    parts = algorithm.on_first_learner(lambda learner: learner._parts)
    algorithm.stop()
    assert metrics["policy/max_abs_log_ratio"] == 0.0
    assert metrics["policy/gradient_norm"] > 0.0
    assert {str(part.rollout.latents.dtype) for part in parts} == {f"torch.{dtype}"}


def test_overrides_reach_the_settings():
    overrides = ["generator.text_cache=runs/text", "generator.mode=full"]
    overrides += ["rollout.latents_dtype=bfloat16", "rollout.group_size=4"]
    overrides += [f"generator.{name}=true" for name in ("release_text_encoders", "vae_tiling", "offload")]
    config = apply_recipe(PrefGRPOConfig(), apply_overrides({}, overrides))
    assert (config.text_cache, config.mode) == ("runs/text", "full")
    assert (config.latents_dtype, config.group_size) == ("bfloat16", 4)
    assert config.release_text_encoders
    assert config.vae_tiling
    assert config.offload
    again = apply_recipe(PrefGRPOConfig(), describe(config))
    assert describe(again) == describe(config)
    with pytest.raises(UnknownNameError, match="'text_cache'"):
        apply_recipe(PrefGRPOConfig(), apply_overrides({}, ["generator.textcache=runs/text"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"text_cache": 3}, "generator.text_cache must be a folder or null, got 3"),
        ({"text_cache": " "}, "generator.text_cache must be a folder or null"),
        ({"vae_tiling": 1}, "generator.vae_tiling must be true or false, got 1"),
        ({"offload": "vae"}, "generator.offload must be true or false, got 'vae'"),
        ({"release_text_encoders": "yes"}, "generator.release_text_encoders must be true or false, got 'yes'"),
    ],
)
def test_values_of_another_kind_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        PrefGRPOConfig().generator(**setting).validate()


def test_an_unknown_precision_is_refused():
    with pytest.raises(UnknownNameError, match=r"unknown rollout.latents_dtype 'bf16'. Did you mean 'bfloat16'"):
        PrefGRPOConfig().rollout(latents_dtype="bf16").validate()
