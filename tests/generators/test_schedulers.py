"""Settings of schedulers are followed or rejected by name, and the pipeline's own solver samples as its call does."""

from __future__ import annotations

import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from flexgym.algorithm.rollout import sample
from flexgym.core.errors import ConfigError, GeneratorError
from flexgym.generators import wrap_pipeline
from flexgym.generators.conformance import pipeline_run
from flexgym.generators.schedulers import SCHEDULERS, check_scheduler, own_solver, solver_note
from tests.demonstrations.solvers import FLOW, difference
from tests.generators.tiny import CASES, sd3

EULER, UNIPC, DPM = "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_setting_of_a_scheduler_has_one_meaning(name):
    known = SCHEDULERS[name]
    signature = inspect.signature(getattr(diffusers, name).__init__).parameters
    assert known.names == signature.keys() - {"self"}
    assert len(known.names) == sum(len(part) for part in (known.grid, known.solver, known.fixed, known.unused))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_settings_with_one_supported_value_name_it(name):
    default = dict(getattr(diffusers, name)(**({} if name == EULER else FLOW)).config)
    check_scheduler(name, default)
    check_scheduler(name, default | {"clip_sample": True})  # left behind by from_config of another class
    for setting, expected in SCHEDULERS[name].fixed.items():
        wrong = (not expected) if isinstance(expected, bool) else "other"
        with pytest.raises(GeneratorError, match=rf"expected {setting}={expected!r} in the config of {name}, got"):
            check_scheduler(name, default | {setting: wrong})
    with pytest.raises(GeneratorError, match="num_train_timesteps of .* whole number above 0, got 0"):
        check_scheduler(name, default | {"num_train_timesteps": 0})


@pytest.mark.parametrize(
    "name",
    [
        "FlowMatchHeunDiscreteScheduler",
        "FlowMatchLCMScheduler",
        "HeliosScheduler",
        "DEISMultistepScheduler",
        "SASolverScheduler",
        "DPMSolverMultistepInverseScheduler",
    ],
)
def test_schedulers_whose_levels_mean_something_else_are_rejected(name):
    with pytest.raises(GeneratorError, match=f"expected a flow-matching scheduler .* got {name}"):
        check_scheduler(name, FLOW)


def test_a_scheduler_that_its_pipeline_cannot_use_is_rejected():
    for case, scheduler, message in (
        ("wan", UniPCMultistepScheduler(**FLOW, use_dynamic_shifting=True), "expected use_dynamic_shifting=False"),
        ("ltx", diffusers.DPMSolverMultistepScheduler(**FLOW), r"\['sigmas'\] to set_timesteps, which DPMSolver"),
        ("flux", diffusers.DPMSolverMultistepScheduler(**FLOW), "expected use_dynamic_shifting=True"),
        ("z_image", UniPCMultistepScheduler(**FLOW), r"sets no time steps from \['sigmas'\].*flow_shift=3.0"),
        ("lumina2", UniPCMultistepScheduler(**FLOW, use_karras_sigmas=True), "decreasing.*use_karras_sigmas=True"),
    ):
        pipe = CASES[case].build()
        pipe.scheduler = scheduler
        with pytest.raises(GeneratorError, match=message):
            wrap_pipeline(pipe, **CASES[case].settings)


@pytest.mark.parametrize(
    ("family", "scheduler", "dtype"),
    [
        ("sd3", "500 steps of training", torch.float32),
        ("sd3", "unipc, dynamic", torch.float32),
        ("wan", "unipc", torch.float32),
        ("wan", "unipc", torch.bfloat16),
        ("sana", "dpm++", torch.float32),
        ("ltx", "stochastic", torch.float32),
        ("ltx_frame", "stochastic", torch.float32),
        ("flux", "unipc", torch.float32),
        ("hunyuan_video", "unipc", torch.bfloat16),
    ],
)
def test_the_own_solver_gives_the_numbers_of_the_call(family, scheduler, dtype):
    assert difference(family, scheduler, dtype) == (0.0, 0)


def stochastic():
    pipe = sd3()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, stochastic_sampling=True)
    return wrap_pipeline(pipe, **CASES["sd3"].settings)


def test_a_sample_follows_from_its_own_seed():
    generator, prompts = stochastic(), ["a red cube", "a blue ball"]
    both = sample(generator, prompts, seeds=[5, 6], sampler="pipeline")
    alone = sample(generator, prompts[1:], seeds=[6], sampler="pipeline")
    assert np.abs(both[1].astype(int) - alone[0].astype(int)).max() <= 1  # kernels round by the number of rows
    torch.manual_seed(6)
    noise = torch.randn(1, *generator.latent_shape)
    np.testing.assert_array_equal(alone, pipeline_run(generator, noise, prompts[1]).samples)
    rollout = sample(generator, prompts[1:], seeds=[6], sampler="rollout")
    assert np.abs(rollout.astype(int) - alone.astype(int)).max() > 1


def test_a_solver_of_its_own_must_be_chosen_and_is_named():
    generator = stochastic()
    with pytest.raises(ConfigError, match=r"samples with FlowMatchEuler.*\(stochastic_sampling=True\).*'rollout'"):
        sample(generator, ["a red cube"], seeds=[1])
    assert own_solver(sd3().scheduler) == solver_note(sd3().scheduler, "rollout") == ""
    unipc = UniPCMultistepScheduler(**FLOW)
    note = solver_note(unipc, "rollout")
    assert note.startswith("Rollouts take Euler steps on the noise levels of the pipeline's UniPCMultistepScheduler (")
    assert "solver_order=2, solver_type=bh2)" in note
    assert "verification.sampler=pipeline" in note
    assert "keep its own solver" in solver_note(unipc, "pipeline")
