"""The settings about memory in a run: Pref-GRPO on the embedded checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexgym.core.errors import ConfigError
from flexgym.rllib.sharded import METRICS
from tests.agents.small import largest_difference, small_config, train, weights

pytestmark = pytest.mark.usefixtures("cluster")

PROMPTS = ["a red circle", "a blue square"]


def finish(config):
    """Weights and metrics after one iteration, and the generator that it was done with."""
    algorithm, metrics = train(config)
    trained = weights(algorithm)
    generator = algorithm.on_first_learner(lambda learner: learner.generator)
    algorithm.stop()
    return trained, metrics, generator


@pytest.mark.slow
def test_a_run_without_text_encoders_learns_the_same(tmp_path: Path):
    run = {
        "rollout": {"prompts": PROMPTS},
        "verification": {
            "reward": "ShapesVerifier",
            "prompts": ["a green triangle"],
            "num_prompts": 1,
            "interval": 1,
        },
    }
    expected, _, generator = finish(small_config(**run))
    assert list(generator.placement.encoders()) == ["text_encoder", "text_encoder_2"]
    assert not generator.pipe.vae.use_tiling
    saving = {"text_cache": str(tmp_path / "text"), "release_text_encoders": True, "vae_tiling": True, "offload": True}
    found, metrics, generator = finish(small_config(generator=saving, **run))
    assert generator.placement.encoders() == {}
    assert generator.placement.offloaded == {"vae"}
    assert generator.pipe.vae.use_tiling, "whose tiles are as large as a sample"
    assert largest_difference(found, expected) == 0.0
    assert metrics["policy/max_abs_log_ratio"] == 0.0
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(PROMPTS) + 1 + 1, "one held out, and the empty one"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_before_the_first_update_every_ratio_is_one_in_any_precision(dtype):
    config = small_config(
        algorithm={"penalties": {"reference": {"coeff": 0.01}}},
        rollout={"latents_dtype": dtype},
        generator={"mode": "lora", "lora": {"rank": 4}},
    )
    algorithm, metrics = train(config)
    parts = algorithm.on_first_learner(lambda learner: learner._parts)
    algorithm.stop()
    assert metrics["policy/max_abs_log_ratio"] == 0.0
    assert metrics["policy/gradient_norm"] > 0.0
    assert {str(part.rollout.kept["latents"].dtype) for part in parts} == {f"torch.{dtype}"}


def half_config():
    generator = {"mode": "lora", "lora": {"rank": 4}, "dtype": "float16"}
    return small_config(training={"ema_decay": 0.9}, generator=generator)


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


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ({"mode": "full", "dtype": "float16"}, r"generator\.dtype: .*generator\.mode=lora"),
        ({"text_cache": 3}, r"generator\.text_cache.*got 3"),
        ({"text_cache": " "}, r"generator\.text_cache"),
        ({"vae_tiling": 1}, r"generator\.vae_tiling.*got 1"),
        ({"offload": "vae"}, r"generator\.offload.*got 'vae'"),
        ({"release_text_encoders": "yes"}, r"generator\.release_text_encoders.*got 'yes'"),
    ],
)
def test_settings_of_memory_that_cannot_work_are_rejected(generator, message):
    with pytest.raises(ConfigError, match=message):
        small_config(generator=generator)
