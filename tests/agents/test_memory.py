"""The settings about memory in a run: Pref-GRPO on the embedded checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.pref_grpo import PrefGRPOConfig
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.rllib.recipe import apply_recipe, describe
from flexgym.rllib.sharded import METRICS
from flexgym.runs.recipe import apply_overrides
from tests.agents.small import largest_difference, small_config, train, weights

pytestmark = pytest.mark.usefixtures("cluster")

PROMPTS = ("a red circle", "a blue square")


def finish(config):
    """Weights and metrics after one iteration, and the generator that it was done with."""
    algorithm, metrics = train(config)
    trained = weights(algorithm)
    generator = algorithm.on_first_learner(lambda learner: learner.generator)
    algorithm.stop()
    return trained, metrics, generator


@pytest.mark.slow
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_before_the_first_update_every_ratio_is_one_in_any_precision(dtype):
    config = small_config(kl_coeff=0.01)
    config.rollout(latents_dtype=dtype)
    config.generator(mode="lora", lora={"rank": 4})
    algorithm, metrics = train(config)
    parts = algorithm.on_first_learner(lambda learner: learner._parts)
    algorithm.stop()
    assert metrics["policy/max_abs_log_ratio"] == 0.0
    assert metrics["policy/gradient_norm"] > 0.0
    assert {str(part.rollout.latents.dtype) for part in parts} == {f"torch.{dtype}"}


def half_config():
    config = small_config(ema_decay=0.9)
    config.generator(mode="lora", lora={"rank": 4}, settings={"num_steps": 4, "dtype": "float16"})
    return config


@pytest.mark.slow
def test_weights_in_half_precision_scale_their_loss_and_resume_bit_for_bit(tmp_path: Path):
    algorithm, metrics = train(half_config())
    assert metrics["policy/max_abs_log_ratio"] == 0.0
    assert metrics["policy/loss_scale"] == 2.0**16
    assert metrics["policy/skipped_updates"] == 0
    assert metrics["policy/gradient_norm"] > 0.0
    algorithm.on_first_learner(lambda learner: learner._scaler.update(8.0))
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    expected_metrics, expected = algorithm.train()[METRICS], weights(algorithm)
    algorithm.stop()
    resumed = half_config().build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    metrics = resumed.train()[METRICS]
    assert metrics["policy/loss_scale"] == expected_metrics["policy/loss_scale"] == 8.0
    assert largest_difference(weights(resumed), expected) == 0.0
    resumed.stop()


def overscale(learner):
    learner._scaler.load_state_dict({**learner._scaler.state_dict(), "scale": 2.0**40})


def test_an_overflow_in_half_precision_skips_the_step_and_lowers_the_scale():
    algorithm = half_config().build_algo()
    algorithm.on_first_learner(overscale)
    before = weights(algorithm)
    metrics = algorithm.train()[METRICS]
    assert metrics["policy/skipped_updates"] == 1
    assert largest_difference(weights(algorithm), before) == 0.0
    assert algorithm.on_first_learner(lambda learner: learner._scaler.get_scale()) == 2.0**39
    algorithm.stop()


def test_all_weights_in_half_precision_are_refused():
    config = half_config().generator(mode="full")
    with pytest.raises(ConfigError, match=r"float16 with generator\.mode=full.*generator\.mode=lora"):
        config.validate()


def test_overrides_reach_the_settings():
    overrides = ["generator.text_cache=runs/text", "generator.mode=full"]
    overrides += ["rollout.latents_dtype=bfloat16", "rollout.group_size=4", "generator.sharding=fsdp"]
    overrides += [f"generator.{name}=true" for name in ("release_text_encoders", "vae_tiling", "offload")]
    config = apply_recipe(PrefGRPOConfig(), apply_overrides({}, overrides))
    assert (config.text_cache, config.mode) == ("runs/text", "full")
    assert (config.latents_dtype, config.group_size, config.sharding) == ("bfloat16", 4, "fsdp")
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
