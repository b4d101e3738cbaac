from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from flexgym import FlowPolicy
from flexgym.core.errors import ActionError, ConfigError, GeneratorError, PromptSourceError, UnknownNameError
from flexgym.types import Prompt
from tests.generators.tiny import PROMPTS, shared

BOTH = pytest.mark.parametrize("name", ["FlexT2I-v0", "FlexT2V-v0"])


def episode(env, seed, noise="flow"):
    policy = FlowPolicy.from_env(env, noise=noise, seed=1)
    observation, info = env.reset(seed=seed)
    while True:
        observation, reward, terminated, truncated, info = env.step(policy(observation))
        if terminated:
            return observation, reward, truncated, info


@BOTH
def test_an_episode_ends_with_the_decoded_group(make, name):
    env = make(name)
    observation, reward, truncated, info = episode(env, seed=3)
    generator = env.unwrapped.generator
    assert info["samples"].shape == (2, *generator.sample_shape)
    assert info["samples"].dtype == np.uint8
    assert isinstance(info["prompt"], Prompt)
    assert info["prompt"].text == observation["prompt"]
    assert (reward, truncated) == (0.0, False)
    assert observation["sigma"] == 0
    import torch

    np.testing.assert_array_equal(info["samples"], generator.decode(torch.from_numpy(observation["latents"])))


@BOTH
def test_another_seed_is_another_group(make, name):
    first, other = (make(name).reset(seed=seed)[0]["latents"] for seed in (5, 6))
    assert not np.array_equal(first, other)


def test_actions_stay_the_callers(make):
    env = make()
    observation, _ = env.reset(seed=0)
    action = np.ones_like(observation["latents"])
    following = env.step(action)[0]
    action[:] = 7
    assert (following["latents"] == 1).all()


def test_latents_do_not_depend_on_who_chose_the_prompt(make):
    env = make()
    drawn = env.reset(seed=2)[0]
    chosen, info = env.reset(seed=2, options={"prompt": Prompt("two green cones", {"category": "counting"})})
    np.testing.assert_array_equal(drawn["latents"], chosen["latents"])
    assert chosen["prompt"] == "two green cones"
    assert info["prompt"].metadata == {"category": "counting"}


def test_preview_shows_every_step_and_ends_the_same(make):
    plain, env = episode(make(), seed=1)[3], make(preview=True)
    policy = FlowPolicy.from_env(env, seed=1)
    observation, info = env.reset(seed=1)
    assert "samples" not in info
    shown = []
    for _ in range(3):
        observation, *_, info = env.step(policy(observation))
        shown.append(info["samples"])
    np.testing.assert_array_equal(shown[-1], plain["samples"])
    assert not np.array_equal(shown[0], shown[1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: np.where(a == a[0, 0, 0, 0], np.nan, a), "finite, got 1"),
        (lambda a: a.astype(np.float64) * 1e300, "finite"),
        (lambda a: a[:, :, 1:], r"expected the next latents of shape \(1, 2, 4, 16, 16\)"),
        (lambda a: "latents", "float32 array"),
    ],
)
def test_a_refused_action_changes_nothing(make, spoil, message):
    env = make()
    observation, _ = env.reset(seed=0)
    with pytest.raises(ActionError, match=message):
        env.unwrapped.step(spoil(observation["latents"]))
    for left in (False, False, True):
        observation, _, terminated, _, _ = env.step(observation["latents"])
        assert terminated is left
    with pytest.raises(ActionError, match="reset"):
        env.unwrapped.step(observation["latents"])
    env.reset()
    env.step(observation["latents"])


def test_a_step_before_the_first_reset_is_refused(make):
    env = make().unwrapped
    with pytest.raises(ActionError, match="reset"):
        env.step(np.zeros(env.action_space.shape, np.float32))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"groupsize": 4}, UnknownNameError, "Did you mean 'group_size'"),
        ({"num_frames": 5}, UnknownNameError, "FlexT2I-v0 'num_frames'"),
        ({"group_size": 1}, ConfigError, "at least 2"),
        ({"group_size": 2.5}, ConfigError, "whole number"),
        ({"prompts": []}, PromptSourceError, "at least one prompt"),
        ({"num_steps": 0}, ConfigError, "num_steps"),
        ({"generator": shared("wan")}, GeneratorError, "modality 'image'"),
        ({"render_mode": "rgb_aray"}, UnknownNameError, "Did you mean 'rgb_array'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*render_mode")
def test_arguments_that_cannot_work_are_refused(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make(**arguments)


def test_frames_that_the_autoencoder_cannot_make_are_refused(make):
    with pytest.raises(ConfigError, match="5 and 9"):
        make("FlexT2V-v0", num_frames=6)


def test_unknown_option_and_unusable_prompt(make):
    env = make()
    with pytest.raises(UnknownNameError, match="Did you mean 'prompt'"):
        env.reset(options={"promt": "a red cube"})
    with pytest.raises(PromptSourceError, match="empty"):
        env.reset(options={"prompt": " "})


def test_settings_of_the_environment_leave_the_shared_generator_alone(make):
    env = make(num_steps=5, guidance_scale=2.0)
    assert len(env.unwrapped.sigmas) == 6
    assert env.unwrapped.generator.pipe.transformer is shared("sd3").pipe.transformer
    assert env.unwrapped.group_size == 2
    assert len(shared("sd3").sigmas()) == 4


def test_a_folder_serves_as_generator(tmp_path):
    from tests.generators.tiny import wan

    wan().save_pretrained(tmp_path / "wan")
    env = gym.make(
        "FlexT2V-v0",
        generator=str(tmp_path / "wan"),
        group_size=2,
        prompts=PROMPTS,
        num_steps=1,
        height=32,
        width=32,
        num_frames=5,
        max_sequence_length=8,
    )
    assert episode(env, seed=0)[3]["samples"].shape == (2, 5, 32, 32, 3)


def test_a_negative_prompt_counts():
    def made(**settings):
        settings = {"group_size": 2, "prompts": PROMPTS, "num_steps": 2, "guidance_scale": 3.0, **settings}
        return episode(gym.make("FlexT2I-v0", **settings), seed=0)[3]["samples"]

    plain = made()
    assert (made(negative_prompt="") == plain).all()
    assert (made(negative_prompt="a red circle") != plain).any()
    with pytest.raises(ConfigError, match="negative_prompt='a red circle' has no effect"):
        made(negative_prompt="a red circle", guidance_scale=1.0)


@BOTH
def test_render_without_a_mode_only_warns(make, name):
    env = make(name).unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert env.render() is None


def test_importing_flexgym_is_cheap():
    import subprocess
    import sys

    heavy = "{'torch', 'diffusers', 'transformers', 'peft', 'ray'} & set(sys.modules)"
    code = f"import sys, flexgym, gymnasium; gymnasium.spec('FlexT2V-v0'); assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)
