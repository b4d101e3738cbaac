from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3

from flexgym.core.errors import CheckpointError
from flexgym.sb3 import SB3VecEnv
from flexgym.sb3.checkpoint import restore_model, save_model
from tests.generators.tiny import PROMPTS, shared

ON_POLICY = {"n_steps": 4}
OFF_POLICY = {"learning_starts": 4, "batch_size": 4, "buffer_size": 20}
ALGORITHMS = [
    (PPO, {**ON_POLICY, "batch_size": 4}),
    (A2C, ON_POLICY),
    (SAC, OFF_POLICY),
    (TD3, OFF_POLICY),
    (DDPG, OFF_POLICY),
]


@pytest.fixture(scope="module")
def venv():
    arguments = {"generator": shared("sd3"), "prompts": PROMPTS, "group_size": 1, "num_steps": 1}
    return SB3VecEnv(gym.make_vec("FlexT2IControl-v0", num_envs=2, autoreset_mode="SameStep", **arguments))


def build(algorithm, venv, settings, seed=0):
    return algorithm("MultiInputPolicy", venv, seed=seed, device="cpu", **settings)


def leaves(model):
    """Every tensor and number of a model and its optimizers, by name."""
    return dict(torch.utils._pytree.tree_flatten_with_path(model.get_parameters())[0])


def differences(ours, theirs):
    """Names of what two models do not have in common."""
    mine, other = leaves(ours), leaves(theirs)
    shared_names = mine.keys() & other.keys()
    unequal = {name for name in shared_names if not np.array_equal(np.asarray(mine[name]), np.asarray(other[name]))}
    return unequal | (mine.keys() ^ other.keys())


@pytest.mark.parametrize(("algorithm", "settings"), ALGORITHMS)
def test_a_model_comes_back_as_it_was(algorithm, settings, venv, tmp_path):
    model = build(algorithm, venv, settings).learn(16)
    save_model(model, tmp_path)
    again = (
        build(algorithm, venv, settings, seed=1).learn(2)
        if algorithm in (PPO, A2C)
        else build(algorithm, venv, settings, seed=1)
    )
    assert differences(model, again)
    restore_model(again, tmp_path)
    assert not differences(model, again)
    assert (again.num_timesteps, again._n_updates) == (model.num_timesteps, model._n_updates)
    observation = venv.reset()
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], again.predict(observation, deterministic=True)[0]
    )
    if algorithm is SAC:
        assert again.log_ent_coef.item() == model.log_ent_coef.item() != build(SAC, venv, settings).log_ent_coef.item()


def test_experience_comes_back_and_goes_on_where_it_ended(venv, tmp_path):
    model = build(SAC, venv, OFF_POLICY).learn(14)
    save_model(model, tmp_path)
    again = build(SAC, venv, OFF_POLICY)
    restore_model(again, tmp_path)
    ours, theirs = model.replay_buffer, again.replay_buffer
    assert (theirs.pos, theirs.full) == (ours.pos, ours.full) == (7, False)
    for name in ("actions", "rewards", "dones"):
        np.testing.assert_array_equal(getattr(ours, name)[:7], getattr(theirs, name)[:7])
    np.testing.assert_array_equal(ours.observations["prompt"][:7], theirs.observations["prompt"][:7])
    again.learn(4, reset_num_timesteps=False)
    assert again.num_timesteps == 18
    assert again.replay_buffer.pos == 9


def test_stable_baselines_loads_what_a_restored_model_saves(venv, tmp_path):
    model = build(PPO, venv, ALGORITHMS[0][1]).learn(8)
    save_model(model, tmp_path)
    again = build(PPO, venv, ALGORITHMS[0][1], seed=1)
    restore_model(again, tmp_path)
    again.save(tmp_path / "policy.zip")
    observation = venv.reset()
    loaded = PPO.load(tmp_path / "policy.zip")
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )


def test_nothing_that_could_run_code_is_written_or_read(venv, tmp_path):
    model = build(PPO, venv, ALGORITHMS[0][1]).learn(8)
    save_model(model, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").rglob("*.*")) == ["state.json", "tensors.safetensors"]
    (tmp_path / "old").mkdir()
    model.save(tmp_path / "old" / "model.zip")  # as it was once written
    with pytest.raises(CheckpointError, match="with it a pickle.*It is not opened"):
        restore_model(build(PPO, venv, ALGORITHMS[0][1]), tmp_path / "old")


def test_a_checkpoint_of_another_model_is_refused(venv, tmp_path):
    save_model(build(PPO, venv, ALGORITHMS[0][1]), tmp_path)
    with pytest.raises(CheckpointError, match="resume with the recipe that it was made with"):
        restore_model(build(SAC, venv, OFF_POLICY), tmp_path)
    wider = build(PPO, venv, {**ALGORITHMS[0][1], "policy_kwargs": {"net_arch": [8]}})
    with pytest.raises(CheckpointError, match="does not fit a PPO"):
        restore_model(wider, tmp_path)
    with pytest.raises(CheckpointError, match="does not fit"):
        restore_model(build(PPO, venv, ALGORITHMS[0][1]), tmp_path / "nowhere")
