"""A transformer sharded over two learners trains like an unsharded one, and is saved like one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from flexgym.core.errors import CheckpointError, ConfigError, RewardError
from flexgym.generators import load_generator
from flexgym.rllib.config import FlowConfig
from flexgym.rllib.sharded import METRICS
from flexgym.shapes.splits import draw_prompts
from tests.agents.small import OutOfOrder, largest_difference, merged, rewarded_by, small_config, train
from tests.generators.tiny import CASES

slow = pytest.mark.slow

MEASURED = (
    "loss/policy",
    "penalty/reference",
    "policy/gradient_norm",
    "reward/mean",
    "eval/verifier_score",
)
SHARDED = {
    # gradient checkpointing gathers blocks once more
    "generator": {"sharding": "fsdp", "gradient_checkpointing": True},
    "resources": {"num_learners": 2},
}


def config_of(mode: str, *, sharded: bool, lr: float = 3e-4, **sections) -> FlowConfig:
    recipe = {
        "generator": {"mode": mode, "lora": {"rank": 4}},
        "rollout": {"prompts_per_iteration": 4},
        "algorithm": {"penalties": {"reference": {"coeff": 0.01}}},
        "training": {"lr": lr, "ema_decay": 0.9},
        "verification": {"reward": "ShapesVerifier", "num_prompts": 4, "interval": 2, "rows_per_forward": 3},
    }
    return small_config(**merged(merged(recipe, SHARDED if sharded else {}), sections))


def weights(algorithm):
    with algorithm._gathered():
        return algorithm.on_learners(lambda learner: learner.flow_module.weights.state())[0]


def sizes(learner):
    """Numbers that a learner holds of the transformer, of initial trainable parameters, and of the optimizer."""
    states = [state for optimizer in learner._optimizer_parameters for state in optimizer.state.values()]
    parts = {
        "transformer": list(learner.generator.pipe.transformer.parameters()),
        "reference": list(learner.generator.weights.kept.get("reference", {}).values()),
        "average": list(learner.generator.weights.kept["ema"].values()),
        "optimizer": [state["exp_avg"] for state in states],
    }
    assert all(isinstance(value, DTensor) for values in parts.values() for value in values)
    return {
        name: (sum(value.to_local().numel() for value in values), sum(value.numel() for value in values))
        for name, values in parts.items()
        if values
    }


@slow
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_two_learners_with_parts_learn_save_and_go_on_as_one_with_all(mode, learner_pairs, tmp_path: Path):
    one, _ = train(config_of(mode, sharded=False))
    two, first = train(config_of(mode, sharded=True))
    assert first["policy/max_abs_log_ratio"] == 0.0
    assert all("gather_state" in told for told in two.on_learners(refusal))
    two.save_to_path(str(tmp_path / "saved"))
    expected, found = one.train()[METRICS], two.train()[METRICS]
    check_same_learning((one, expected), (two, found))
    check_parts(two.on_learners(sizes), mode)
    check_same_generators(one, two, mode=mode, folder=tmp_path)
    resumed = config_of(mode, sharded=True).build_algo()
    resumed.restore_from_path(str(tmp_path / "saved"))
    again = resumed.train()[METRICS]
    assert all(again[name] == found[name] for name in MEASURED)
    assert largest_difference(weights(resumed), weights(two)) == 0.0
    other = config_of(mode, sharded=False).build_algo()
    other.restore_from_path(str(tmp_path / "saved"))
    assert other.train()[METRICS]["policy/gradient_norm"] == pytest.approx(found["policy/gradient_norm"], rel=1e-5)
    for algorithm in (one, two, resumed, other):
        algorithm.stop()


def check_same_learning(expected, found):
    for name in MEASURED:
        assert found[1][name] == pytest.approx(expected[1][name], rel=1e-5, abs=1e-9)
    own, other = weights(expected[0]), weights(found[0])
    scale = max(float(value.abs().max()) for value in own.values())
    assert largest_difference(own, other) / scale < 1e-6


def check_parts(held, mode: str):
    """Each learner holds about half of everything."""
    assert ("reference" in held[0]) == (mode == "full")
    for name, (_, total) in held[0].items():
        parts = [learner[name][0] for learner in held]
        assert sum(parts) == total
        assert max(parts) < 0.6 * total


def check_same_generators(one, two, *, mode: str, folder: Path):
    """Both are saved to the same files, which draw the same samples."""
    for name, algorithm in (("one", one), ("two", two)):
        algorithm.save_generator(folder / name)
    files = [sorted(path.relative_to(folder / name) for path in (folder / name).rglob("*")) for name in ("one", "two")]
    assert files[0] == files[1]
    first, second = (samples(folder / name, mode) for name in ("one", "two"))
    assert np.abs(first.astype(int) - second).max() <= 1


def samples(folder: Path, mode: str):
    generator = load_generator(folder if mode == "full" else None)
    if mode == "lora":
        generator.pipe.load_lora_weights(folder)
    latents = generator.initial_latents(2, 0)
    velocity = generator.velocity(latents, torch.full((2,), 0.7), generator.condition(["a red circle"] * 2))
    return generator.decode(latents - 0.7 * velocity)


def refusal(learner):
    """What a learner says that is asked alone."""
    with pytest.raises(CheckpointError) as caught:
        learner.get_state()
    return str(caught.value)


@slow
def test_two_transformers_in_half_the_memory(learner_pairs, tmp_path: Path):
    """Wan 2.2, whose steps use one of them, with frozen weights in bfloat16 and without text encoders."""
    CASES["wan22"].build().save_pretrained(tmp_path / "pipe")
    config = config_of(
        "lora",
        sharded=True,
        environment={"env": "FlexT2V-v0"},
        generator={
            "source": str(tmp_path / "pipe"),
            "sampling": {**CASES["wan22"].settings, "num_steps": 4},
            "dtype": "bfloat16",
            "release_text_encoders": True,
            "text_cache": str(tmp_path / "texts"),
            "offload": True,
        },
        rollout={"latents_dtype": "bfloat16", "prompts": draw_prompts("video", "training", 3, seed=0)},
        verification={"reward": None},
    )
    algorithm, metrics = train(config)
    assert metrics["policy/max_abs_log_ratio"] == 0.0
    assert metrics["policy/gradient_norm"] > 0.0
    assert len(list((tmp_path / "texts").rglob("*.safetensors"))) == 4, "the prompts, and the empty one of guidance"
    assert {len(held) for held in algorithm.on_learners(sizes)} == {3}
    algorithm.save_generator(tmp_path / "adapter")
    assert len(list((tmp_path / "adapter").rglob("*.safetensors"))) == 2
    algorithm.stop()


@slow
def test_a_reward_that_fails_on_one_learner_does_not_hold_up_the_other(learner_pairs, tmp_path: Path):
    algorithm = rewarded_by(OutOfOrder, config_of("lora", sharded=True)).build_algo()
    before = weights(algorithm)
    with pytest.raises(RewardError, match="out of order"):
        algorithm.training_step()
    algorithm.save_to_path(str(tmp_path / "saved"))
    assert largest_difference(weights(algorithm), before) == 0.0
    algorithm.stop()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"generator": {"sharding": "fsdp2"}}, "Did you mean 'fsdp'|'fsdp'"),
        ({"resources": {"num_learners": 1}}, "num_learners of at least 2, got 1"),
        ({"resources": {"num_env_runners": 2}}, "num_env_runners=0, got 2"),
        ({"generator": {"dtype": "float16"}}, "bfloat16 needs no loss scale"),
    ],
)
def test_settings_of_sharding_that_cannot_work_are_rejected(sections, message):
    with pytest.raises(ConfigError, match=message):
        config_of("lora", sharded=True, **sections)
