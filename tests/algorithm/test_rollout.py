from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import pytest
import torch

from flexgym import FlowPolicy
from flexgym.algorithm.process import ForwardProcess, SamplerSteps
from flexgym.algorithm.rollout import collect, samples_of
from flexgym.flow import Window, dpm_step, noise_scale
from tests.generators.tiny import PROMPTS, fresh, shared

PROCESSES = {
    "matching": ForwardProcess(),
    **{name: SamplerSteps(noise_scale(name)) for name in ("cps", "flow", "dance")},
}


WINDOW = Window(1, 2)


def vector_of(generator):
    return gym.make_vec(
        "FlexT2I-v0",
        num_envs=2,
        vectorization_mode="vector_entry_point",
        generator=generator,
        group_size=2,
        prompts=PROMPTS,
        autoreset_mode=gym.vector.AutoresetMode.DISABLED,
    )


def rolled_out(noise, dtype):
    """A rollout whose window begins after a step without noise, and the policy that replays it."""
    generator, process = shared("sd3").with_settings(num_steps=4), PROCESSES[noise]
    policy = FlowPolicy(generator, process, latents_dtype=dtype)
    return collect(vector_of(generator), policy, WINDOW, seeds=[3, 4]), FlowPolicy(generator, process)


@pytest.mark.parametrize("noise", ["cps", "matching"])
def test_samples_alone_equal_those_of_a_rollout_and_cost_one_forward_per_step(noise):
    generator = fresh("sd3").with_settings(num_steps=4)
    policy, envs, rows = FlowPolicy(generator, PROCESSES[noise]), vector_of(generator), []
    expected = collect(envs, policy, WINDOW, seeds=[3, 4]).samples
    generator.pipe.transformer.register_forward_hook(lambda module, arguments, output: rows.append(1))
    assert (samples_of(envs, policy, WINDOW, seeds=[3, 4]) == expected).all()
    once = len(rows)
    collect(envs, policy, WINDOW, seeds=[3, 4])
    assert len(rows) - once == once


def replayed(rollout, policy):
    densities = []
    for step, before, after in zip(rollout.window.steps, rollout.kept["latents"], rollout.kept["target"], strict=True):
        pairs = zip(before.split(1), after.split(1), rollout.prompts, strict=True)
        densities.append(
            torch.stack(
                [policy.transition(one, [prompt.text], step).log_prob(two[0].float()) for one, two, prompt in pairs]
            )
        )
    return torch.stack(densities)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("noise", ["cps", "flow", "dance"])
def test_replay_of_what_was_kept_is_exact(noise, dtype):
    rollout, policy = rolled_out(noise, dtype)
    assert rollout.kept["latents"].dtype == rollout.kept["target"].dtype == dtype
    assert rollout.kept["old_log_prob"].dtype == torch.float32
    with torch.no_grad():
        found = replayed(rollout, policy)
    assert float((found - rollout.kept["old_log_prob"]).abs().max()) == 0.0


SOLVED = {
    "cps": (Window(0, 2), range(2, 8)),
    "flow": (Window(3, 2), (0, 1, 2, 5, 6, 7)),
    "matching": (WINDOW, range(8)),
}
"""Windows of eight steps, and the steps that a solver takes."""


class Walk(gym.vector.VectorWrapper):
    """Keeps the latents of every step."""

    def reset(self, **options):
        observation, infos = super().reset(**options)
        self.latents = [observation["latents"]]
        return observation, infos

    def step(self, actions):
        result = super().step(actions)
        self.latents.append(result[0]["latents"])
        return result


@pytest.mark.parametrize("noise", SOLVED)
def test_a_solver_takes_the_steps_that_are_not_trained_and_replay_stays_exact(noise):
    generator, (window, steps) = shared("sd3").with_settings(num_steps=8), SOLVED[noise]
    policy = FlowPolicy(generator, PROCESSES[noise], solver="dpm++2m")
    envs = Walk(vector_of(generator))
    rollout = collect(envs, policy, window, seeds=[3, 4])
    walked, grid = [torch.as_tensor(each) for each in envs.latents], generator.sigmas()
    for group, prompt in enumerate(rollout.prompts):
        before, plain = None, FlowPolicy(generator, ForwardProcess())
        for step in range(8):
            latents = walked[step][group]
            with torch.no_grad():
                clean = plain.transition(latents[None], [prompt.text], step).mean
            if step in steps:
                levels = grid[[max(0, step - 1), step, step + 1]].tolist()
                expected = dpm_step(latents, clean, before, levels=levels)
                torch.testing.assert_close(walked[step + 1][group], expected, rtol=0, atol=1e-5)
            before = clean if step in steps else None
    if noise != "matching":
        with torch.no_grad():
            found = replayed(rollout, FlowPolicy(generator, PROCESSES[noise]))
        assert float((found - rollout.kept["old_log_prob"]).abs().max()) == 0.0
    again = collect(envs, policy, window, seeds=[3, 4])
    assert all(torch.equal(again.kept[name], kept) for name, kept in rollout.kept.items())
    euler = collect(envs, FlowPolicy(generator, PROCESSES[noise]), window, seeds=[3, 4])
    assert not (euler.samples == rollout.samples).all()


def test_steps_that_are_not_trained_may_be_computed_in_half_the_precision():
    generator = fresh("sd3").with_settings(num_steps=8)
    window = Window(2, 2)
    half, whole = (
        collect(
            vector_of(generator), FlowPolicy(generator, PROCESSES["cps"], compute_dtype=dtype), window, seeds=[3, 4]
        )
        for dtype in (torch.bfloat16, None)
    )
    apart = (half.kept["latents"] - whole.kept["latents"]).abs().max()
    assert 0.0 < float(apart) < 0.1 * float(whole.kept["latents"].std())
    assert half.kept["old_mean"].dtype == torch.float32
    with torch.no_grad():
        found = replayed(half, FlowPolicy(generator, PROCESSES["cps"]))
    assert float((found - half.kept["old_log_prob"]).abs().max()) == 0.0, "trained steps keep the precision of weights"


def test_latents_rounded_after_their_density_was_taken_would_not_replay():
    rollout, policy = rolled_out("cps", torch.float32)
    with torch.no_grad():
        late = replayed(_in(rollout, torch.bfloat16), policy)
    assert float((late - rollout.kept["old_log_prob"]).abs().max()) > 1e-4


def test_half_the_bytes_are_kept_and_the_samples_hardly_change():
    (whole, _), (half, _) = (rolled_out("cps", dtype) for dtype in (torch.float32, torch.bfloat16))
    assert half.kept["latents"].nbytes * 2 == whole.kept["latents"].nbytes
    assert not torch.equal(half.kept["latents"].float(), whole.kept["latents"])
    step = (whole.kept["target"] - whole.kept["latents"]).std()
    assert float((half.kept["target"].float() - whole.kept["target"]).std() / step) < 0.05
    assert abs(half.samples.astype(int) - whole.samples).mean() < 2.0


def test_a_step_of_a_transformer_in_half_precision_is_computed_in_single():
    half, single = (fresh("sd3", dtype=dtype).with_settings(num_steps=4) for dtype in (torch.float16, torch.float32))
    latents = single.initial_latents(2, 0)[None]
    with torch.no_grad():
        found, expected = (
            FlowPolicy(each, noise_scale("flow")).transition(latents, ["a"], 1) for each in (half, single)
        )
    assert found.mean.dtype == found.log_prob(latents[0]).dtype == torch.float32
    assert torch.equal(found.std, expected.std)
    assert not torch.equal(found.mean.half().float(), found.mean)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-2, atol=1e-2)


def _in(rollout, dtype):
    kept = {**rollout.kept, "latents": rollout.kept["latents"].to(dtype), "target": rollout.kept["target"].to(dtype)}
    return replace(rollout, kept=kept)
