"""Verification and export of a learner follow the setting ``verification.sampler``."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from diffusers import UniPCMultistepScheduler

from flexgym.algorithm.rollout import sample
from flexgym.config.sections import VerificationSettings
from flexgym.generators import wrap_pipeline
from flexgym.rllib.learner import FlowLearner
from tests.generators.tiny import CASES, sd3

PROMPTS, SEEDS = ["a red cube", "a blue ball"], [3, 4]


@pytest.fixture(scope="module")
def generator():
    pipe = sd3()
    pipe.scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    made = wrap_pipeline(pipe, **CASES["sd3"].settings)
    made.weights.add_lora(rank=2)
    return made


@pytest.mark.parametrize(
    ("sampler", "kind"), [("rollout", "FlowMatchEulerDiscreteScheduler"), ("pipeline", "UniPCMultistepScheduler")]
)
def test_a_learner_samples_logs_and_saves_with_the_sampler(generator, sampler, kind, tmp_path):
    guidance = SimpleNamespace(guidance=SimpleNamespace(verification=None))
    settings = SimpleNamespace(shards=False, algorithm=guidance, verification=VerificationSettings(sampler=sampler))
    learner = SimpleNamespace(
        rank=0, config=SimpleNamespace(settings=settings), generator=generator, verified_weights=nullcontext
    )
    samples = FlowLearner.evaluate(learner, prompts=PROMPTS, seeds=SEEDS)
    np.testing.assert_array_equal(samples, sample(generator, PROMPTS, seeds=SEEDS, sampler=sampler))
    other = sample(generator, PROMPTS, seeds=SEEDS, sampler="pipeline" if sampler == "rollout" else "rollout")
    assert not np.array_equal(samples, other)
    FlowLearner.save_generator(learner, str(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved" / "scheduler" / "scheduler_config.json").read_text())
    assert config["_class_name"] == kind
    assert "UniPCMultistepScheduler (" in FlowLearner.solver_note(learner)


def test_the_sampler_is_a_setting():
    assert VerificationSettings().sampler == "rollout"
    with pytest.raises(ValueError, match="'rollout' or 'pipeline'"):
        VerificationSettings(sampler="unipc")
