from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure

from flexgym import rewards
from flexgym.algorithm.rollout import sample
from flexgym.generators.loader import load_generator
from flexgym.sb3 import HeldOut, SampleGridCallback, SB3VecEnv

CAPTIONS = ["a red circle", "two squares", "a small triangle"]


@pytest.fixture(scope="module")
def generator():
    return load_generator(modality="image", num_steps=2)


@pytest.fixture
def held_out(generator):
    env = gym.make("FlexT2IControl-v0", generator=generator, group_size=1)
    return HeldOut(env, CAPTIONS, rewards.make("shapes_verifier"))


def test_the_default_is_what_the_pipeline_samples(held_out, generator):
    verification = held_out.verify_default()
    first = [int(np.random.Generator(np.random.PCG64(seed)).integers(2**63)) for seed in held_out.seeds]
    np.testing.assert_array_equal(verification.samples, sample(generator, CAPTIONS, seeds=first, max_rows=1))
    assert list(verification.prompts) == CAPTIONS
    assert verification.scores.shape == (3,)


def test_a_policy_is_asked_about_every_prompt_and_repeats(held_out):
    seen = []

    def act(observation):
        seen.append(observation["prompt"].copy())
        return np.float32([0.5, 1.0])

    first, second = held_out.verify(act), held_out.verify(act)
    np.testing.assert_array_equal(first.samples, second.samples)
    np.testing.assert_array_equal(seen[:3], seen[3:])
    assert not np.array_equal(first.samples, held_out.verify_default().samples)


@pytest.mark.slow
def test_a_callback_draws_grids_and_logs_in_a_script_of_ones_own(held_out, generator, tmp_path):
    envs = gym.make_vec("FlexT2IControl-v0", num_envs=2, generator=generator, group_size=1, autoreset_mode="SameStep")
    model = PPO("MultiInputPolicy", SB3VecEnv(envs), n_steps=4, batch_size=4, device="cpu")
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(32, callback=SampleGridCallback(held_out, tmp_path, interval=12))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["iteration_000016.png"]
    with Image.open(tmp_path / "iteration_000016.png") as grid:
        assert grid.width > 3 * 96
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    column = header.split(",").index("eval/verifier_accuracy")
    logged = [row.split(",")[column] for row in rows if row.split(",")[column]]
    assert [0.0 <= float(value) <= 1.0 for value in logged] == [True]
