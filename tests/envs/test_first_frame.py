"""First frames on their way: from a file of prompts through the environment into the policy and its replay."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.seeding import np_random
from PIL import Image

import flexgym  # noqa: F401  # registers the environments
from flexgym.algorithm.policy import FlowPolicy
from flexgym.algorithm.replay import OLD_LOG_PROB, replay
from flexgym.algorithm.rollout import collect
from flexgym.core.errors import ConfigError, PromptSourceError
from flexgym.envs.prompts import load_prompts
from flexgym.flow import ODE, FlowSDE, Window
from flexgym.generators.conformance import pipeline_run
from flexgym.types import FirstFrame, Prompt
from tests.generators.tiny import families, fresh, picture, prompts_for, shared

FAMILIES = families("ltx_frame", "wan22_frame", "wan22_ti2v_frame", "hunyuan_video_frame", "hunyuan_video_concat_frame")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def prompt_file(tmp_path):
    for seed in range(2):
        Image.fromarray(picture(seed, 40, 60).pixels).save(tmp_path / f"{seed}.png")
    rows = [{"prompt": text, "first_frame": f"{at}.png", "kind": "toy"} for at, text in enumerate(["a ball", "a cube"])]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path / "prompts.jsonl"


def make(family, prompts, **options):
    return gym.make("FlexT2V-v0", generator=shared(family), prompts=prompts, group_size=2, **options)


def test_an_episode_begins_with_the_picture_of_its_prompt(family, prompt_file):
    env = make(family, str(prompt_file), preview=True)
    check_env(env.unwrapped, skip_render_check=True)
    observation, info = env.reset(seed=1)
    assert info["prompt"].metadata == {"kind": "toy"}
    np.testing.assert_array_equal(observation["first_frame"], info["prompt"].first_frame.pixels)
    assert observation["first_frame"].shape == (32, 32, 3)
    policy = FlowPolicy.from_env(env, seed=2)
    terminated = False
    while not terminated:
        observation, _, terminated, _, info = env.step(policy(observation))
    assert info["samples"].shape == (2, 5, 32, 32, 3)


def test_an_episode_without_noise_is_the_call_of_the_pipeline(family):
    """Where it mixes a trace of the image into the first latents as well."""
    (prompt,) = prompts_for(family, ["a ball"])
    env = make(family, [prompt])
    observation, _ = env.reset(seed=3)
    noise = shared(family).initial_latents(2, int(np_random(3)[0].integers(2**63)))
    assert np.array_equal(observation["latents"], noise) == (shared(family).family.noise_share == 1.0)
    policy, terminated = FlowPolicy(shared(family), ODE()), False
    while not terminated:
        observation, _, terminated, _, info = env.step(policy(observation))
    np.testing.assert_array_equal(info["samples"], pipeline_run(shared(family), noise, prompt).samples)


def test_vector_and_single_environments_agree(family, prompt_file):
    prompts = list(load_prompts(str(prompt_file), "video"))
    envs = gym.make_vec("FlexT2V-v0", num_envs=2, generator=shared(family), prompts=prompts, group_size=2)
    observations, infos = envs.reset(seed=[4, 5])
    stepped = envs.step(FlowPolicy.from_env(envs, seed=9)(observations))
    for slot in range(2):
        env = make(family, prompts)
        observation, info = env.reset(seed=4 + slot)
        assert info["prompt"] == infos["prompt"][slot]
        single = env.step(FlowPolicy.from_env(env, seed=9 + slot)(observation))
        for name in ("first_frame", "latents"):
            np.testing.assert_array_equal(single[0][name], stepped[0][name][slot])


@pytest.mark.parametrize("noise_dtype", [torch.float32, torch.bfloat16])
def test_replay_equals_rollout_exactly(family, noise_dtype):
    generator = fresh(family, guidance=3.0)
    generator.weights.add_lora(rank=2)
    with torch.no_grad():
        for parameter in list(generator.weights.trained().values()):
            parameter.add_(0.05)
    envs = gym.make_vec(
        "FlexT2V-v0",
        num_envs=2,
        generator=generator,
        prompts=prompts_for(family),
        group_size=2,
        autoreset_mode="Disabled",
    )
    policy = FlowPolicy(generator, FlowSDE(), latents_dtype=noise_dtype)
    rollout = collect(envs, policy, Window(0, 2), seeds=[3, 4])
    for index in range(len(rollout.window)):
        for row in range(2):
            part = rollout.select(slice(row, row + 1))
            replayed = replay(policy, part, [index], advantages=torch.zeros(1, 2), needs={OLD_LOG_PROB})
            assert float(replayed.log_ratio.detach().abs().max()) == 0.0
            replayed.log_ratio.sum().backward()


def test_the_picture_changes_the_video_and_what_stands_in_its_place_does_not(family):
    generator, sigma = shared(family, guidance=3.0), torch.tensor([0.7])
    latents = generator.initial_latents(1, 0)
    first, other = (generator.condition([Prompt("a ball", first_frame=picture(seed))]) for seed in (0, 1))
    velocity = generator.velocity(latents, sigma, first)
    assert not torch.equal(velocity[:, :, 1:], generator.velocity(latents, sigma, other)[:, :, 1:])
    if "known_latents" in first.images:
        changed = latents.clone()
        changed[:, :, 0] += 1.0
        assert torch.equal(velocity, generator.velocity(changed, sigma, first))
        assert velocity[:, :, 0].abs().max() == 0
        begun = generator.with_first_frame(latents, first)
        assert torch.equal(begun, generator.with_first_frame(changed, first))
        assert torch.equal(begun[:, :, 1:], latents[:, :, 1:])


def test_a_control_environment_takes_first_frames(family):
    env = gym.make("FlexT2VControl-v0", generator=shared(family), prompts=prompts_for(family), group_size=1)
    env.reset(seed=0)
    *_, info = env.step(env.unwrapped.default_action)
    assert info["samples"].shape == (1, 5, 32, 32, 3)


def test_prompts_and_generator_must_agree(prompt_file):
    with pytest.raises(ConfigError, match="needs a first frame for each prompt"):
        make("ltx_frame", ["a ball"])
    with pytest.raises(ConfigError, match="needs prompts without first frames"):
        make("ltx", str(prompt_file))
    env = make("ltx_frame", str(prompt_file))
    with pytest.raises(ConfigError, match="has none"):
        env.reset(options={"prompt": "a ball"})
    observation, _ = env.reset(options={"prompt": {"prompt": "a ball", "first_frame": picture(7).pixels}})
    np.testing.assert_array_equal(observation["first_frame"], picture(7).pixels)


@pytest.mark.parametrize(
    ("frame", "message"),
    [("2.png", "line 1.*2.png: there is no such file"), ("../0.png", "outside of"), ("/etc/hostname", "outside of")],
)
def test_a_file_of_prompts_names_pictures_of_its_own_folder(prompt_file, frame, message):
    prompt_file.write_text(json.dumps({"prompt": "a ball", "first_frame": frame}))
    with pytest.raises(PromptSourceError, match=message):
        load_prompts(str(prompt_file), "video")


def test_a_list_may_name_any_picture(prompt_file):
    frame = FirstFrame(prompt_file.parent / "1.png")
    prompts = load_prompts([{"prompt": "a ball", "first_frame": str(prompt_file.parent / "1.png")}], "video")
    assert prompts[0] == Prompt("a ball", first_frame=frame)
