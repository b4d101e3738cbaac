"""GRPO and matching on the embedded checkpoints: one process, a handful of samples."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import psutil
import pytest

from flexgym.core.errors import CheckpointError, ConfigError, UnknownNameError
from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.sharded import METRICS
from flexgym.runs.judged import judge_table
from tests.agents.small import largest_difference, small_config, train, weights
from tests.generators.tiny import CASES

pytestmark = pytest.mark.usefixtures("cluster")


QUICK = [
    ("FlexT2I-v0", "lora", "grpo", 3.0),
    ("FlexT2V-v0", "full", "grpo", 3.0),
    ("FlexT2I-v0", "full", "matching", 1.0),
]
"""Each value of each parameter once; the other combinations are slow tests."""


def marked(*case):
    return pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)


@pytest.mark.parametrize(
    ("env", "mode", "name", "guidance_scale"),
    [
        marked(env, mode, *algorithm)
        for env in ("FlexT2I-v0", "FlexT2V-v0")
        for mode in ("lora", "full")
        for algorithm in (("grpo", 1.0), ("grpo", 3.0), ("matching", 1.0))
    ],
)
def test_with_unchanged_weights_every_ratio_is_exactly_one(env, mode, name, guidance_scale):
    config = small_config(
        environment={"env": env},
        algorithm={"name": name},
        generator={"mode": mode, "lora": {"rank": 4}, "sampling": {"guidance_scale": guidance_scale}},
        training={"lr": 0.0, "num_updates": 2},
    )
    algorithm, metrics = train(config, 2)
    algorithm.stop()
    assert metrics["policy/max_abs_log_ratio"] == 0.0
    assert metrics["policy/ratio_mean"] == 1.0


@pytest.mark.parametrize(
    ("family", "env", "mode"),
    [("wan22", "FlexT2V-v0", "lora"), pytest.param("qwen_image", "FlexT2I-v0", "full", marks=pytest.mark.slow)],
)
def test_other_families_train(family, env, mode, tmp_path: Path):
    """Two transformers of which a step uses one, and texts of their own length."""
    CASES[family].build().save_pretrained(tmp_path / "pipe")
    sampling = {**CASES[family].settings, "num_steps": 4}
    generator = {"source": str(tmp_path / "pipe"), "mode": mode, "lora": {"rank": 4}, "sampling": sampling}
    config = small_config(environment={"env": env}, generator=generator)
    algorithm, metrics = train(config)
    trained = weights(algorithm)
    algorithm.stop()
    assert metrics["policy/max_abs_log_ratio"] == 0.0
    assert metrics["policy/gradient_norm"] > 0.0
    assert (family == "wan22") == any(name.startswith("transformer_2.") for name in trained)


def test_metrics_of_an_iteration():
    verification = {"reward": "ShapesVerifier", "num_prompts": 6, "interval": 1}
    config = small_config(reward={"monitors": ["ShapesVerifier"]}, verification=verification)
    algorithm, metrics = train(config)
    algorithm.stop()
    expected = {"reward/mean", "eval/accuracy", "policy/max_abs_log_ratio", "monitor/ShapesVerifier"}
    expected |= {f"time/{phase}_s" for phase in ("rollout", "reward", "update", "iteration")}
    assert expected <= metrics.keys()
    assert metrics["reward/mean"] == pytest.approx(0.5)
    assert metrics["samples"] == 6
    assert algorithm.last_verification is not None
    assert all(algorithm.last_verification.categories)
    recorded = algorithm.last_recorded
    assert [len(group.media) for group in recorded] == [3, 3]
    assert [group.caption for group in recorded] == [group.caption for group in algorithm.last_judged]
    table = judge_table(algorithm.last_judged)
    assert table is not None
    assert len({row[0] for row in table.rows}) == 2
    assert {row[1] for row in table.rows} <= {"sample 0", "sample 1", "sample 2"}
    assert all(row[3] in row[1:3] and "(Image " in row[6] for row in table.rows)


@pytest.mark.slow
def test_a_process_of_the_reward_changes_no_bit():
    found = {}
    for own_process in (False, True):
        monitors = [{"reward": "ShapesVerifier", "settings": {"own_process": own_process}}]
        reward = {"settings": {"own_process": own_process}, "monitors": monitors}
        algorithm, metrics = train(small_config(reward=reward), 2)
        found[own_process] = weights(algorithm), metrics["reward/mean"], metrics["monitor/ShapesVerifier"]
        programs = [" ".join(child.cmdline()) for child in psutil.Process().children()]
        assert sum("flexgym.reward.process" in program for program in programs) == 2 * own_process
        algorithm.stop()
    assert largest_difference(found[False][0], found[True][0]) == 0.0
    assert found[False][1:] == found[True][1:]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_an_unchanged_policy_wins_half_of_the_time_against_the_one_before(mode):
    config = small_config(
        generator={"mode": mode, "lora": {"rank": 4}},
        rollout={"group_size": 4, "reference_interval": 2},
        training={"lr": 0.0},
    )
    algorithm, metrics = train(config)
    # samples and references are the same, so the judge names the first position, and sides take turns
    assert metrics["reward/win_rate_vs_reference"] == 0.5
    assert np.isnan(algorithm.train()[METRICS]["reward/win_rate_vs_reference"])  # not due in the second iteration
    algorithm.stop()


def test_training_moves_the_policy_and_the_second_update_sees_it():
    algorithm, metrics = train(small_config(training={"num_updates": 2}))
    algorithm.stop()
    assert metrics["policy/max_abs_log_ratio"] > 0.0


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [("lora", "float32"), *(pytest.param("full", dtype, marks=pytest.mark.slow) for dtype in ("float32", "bfloat16"))],
)
def test_resume_continues_bit_for_bit(mode, dtype, tmp_path: Path):
    config = small_config(
        algorithm={"penalties": {"reference": {"coeff": 0.01}}},
        training={"ema_decay": 0.9},
        generator={"mode": mode, "lora": {"rank": 4}, "dtype": dtype},
    )
    algorithm, _ = train(config, 2)
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    expected_metrics = algorithm.train()[METRICS]
    expected = weights(algorithm)
    algorithm.stop()
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    metrics = resumed.train()[METRICS]
    assert largest_difference(weights(resumed), expected) == 0.0
    for name in ("loss/policy", "penalty/reference", "policy/gradient_norm", "samples"):
        assert metrics[name] == expected_metrics[name]
    resumed.stop()


@pytest.mark.slow
def test_from_checkpoint_restores_the_weights(tmp_path: Path):
    config = small_config()
    algorithm, _ = train(config)
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    with pytest.raises(CheckpointError, match="holds no config: build the algorithm from its recipe"):
        FlowAlgorithm.from_checkpoint(str(tmp_path / "checkpoint"))
    again = FlowAlgorithm.from_checkpoint(str(tmp_path / "checkpoint"), config=config)
    assert largest_difference(weights(algorithm), weights(again)) == 0.0
    assert again.iteration == 1
    for each in (algorithm, again):
        each.stop()


class Payload:
    def __reduce__(self):
        return os.mkdir, ("/tmp/flexgym-was-here",)


def test_a_pickle_anywhere_in_a_checkpoint_is_never_opened(tmp_path: Path):
    config, payload = small_config(), pickle.dumps(Payload())
    algorithm, _ = train(config)
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    for name in ("algorithm_state.pkl", "class_and_ctor_args.pkl", "learner/state.pkl", "learner/rl_module.pkl"):
        (tmp_path / "checkpoint" / name).write_bytes(payload)  # beside the state: left alone
    algorithm.restore_from_path(str(tmp_path / "checkpoint"))
    for name in ("learner/tensors.safetensors", "learner/state.json", "tensors.safetensors", "state.json"):
        (tmp_path / "checkpoint" / name).write_bytes(payload)  # in its place: rejected
        with pytest.raises(CheckpointError, match="the state cannot be read"):
            algorithm.restore_from_path(str(tmp_path / "checkpoint"))
    (tmp_path / "checkpoint" / "state.json").unlink()  # as of an earlier version
    with pytest.raises(CheckpointError, match="pickled state.*not opened"):
        algorithm.restore_from_path(str(tmp_path / "checkpoint"))
    algorithm.stop()
    assert not Path("/tmp/flexgym-was-here").exists()


def test_checkpoint_holds_what_trains_and_nothing_else(tmp_path: Path):
    algorithm, _ = train(small_config(generator={"mode": "lora", "lora": {"rank": 2}}))
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    trained = sum(tensor.numel() * 4 for tensor in weights(algorithm).values())
    algorithm.stop()
    assert sorted(path.relative_to(tmp_path / "checkpoint").as_posix() for path in tmp_path.rglob("*.*")) == [
        "learner/state.json",
        "learner/tensors.safetensors",
        "state.json",
        "tensors.safetensors",
    ]
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoint").rglob("*") if path.is_file())
    assert size < 3 * trained + 200_000  # weights and two moments of AdamW, beside RLlib's own bookkeeping


def test_unscored_samples_are_masked_not_zero():
    prompts = ["a red circle", "a caption of another world"]
    algorithm, metrics = train(small_config(rollout={"prompts": prompts}), 2)
    algorithm.stop()
    assert np.isfinite(metrics["loss/policy"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rollout": {"group_size": 1}}, r"rollout\.group_size: expected at least 2 samples"),
        ({"rollout": {"prompts_per_iteration": 3, "groups_per_forward": 2}}, "multiple of"),
        ({"training": {"num_updates": 4}}, "multiple of"),
        ({"algorithm": {"noise": "ode"}}, r"algorithm\.noise"),
        ({"algorithm": {"window": {"size": 6, "first": [0, 1]}}}, "steps"),
    ],
)
def test_settings_that_cannot_work_are_rejected_before_loading(change, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**change)


def test_unknown_reward_names_the_nearest():
    with pytest.raises(UnknownNameError, match="ShapesOracle"):
        small_config(reward={"name": "ShapesOracel"}).make_reward()
