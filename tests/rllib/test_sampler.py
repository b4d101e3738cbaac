"""Verification and export of a learner follow the setting ``verification.sampler``."""

from __future__ import annotations

import json
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from flexgym.agents.grpo import GRPO
from flexgym.algorithm.rollout import sample
from flexgym.config.sections import VerificationSettings
from flexgym.config.training import TrainingSettings
from flexgym.generators import wrap_pipeline
from flexgym.generators.weights import CURRENT, REFERENCE
from flexgym.rllib import trainable
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
    settings = SimpleNamespace(
        shards=False, num_shards=1, algorithm=guidance, verification=VerificationSettings(sampler=sampler)
    )
    learner = SimpleNamespace(
        rank=0, config=SimpleNamespace(settings=settings), generator=generator, verified_weights=nullcontext
    )
    samples = FlowLearner.evaluate(learner, prompts=PROMPTS, seeds=SEEDS)[0]
    np.testing.assert_array_equal(samples, sample(generator, PROMPTS, seeds=SEEDS, sampler=sampler))
    other = sample(generator, PROMPTS, seeds=SEEDS, sampler="pipeline" if sampler == "rollout" else "rollout")
    assert not np.array_equal(samples, other)
    FlowLearner.save_generator(learner, str(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved" / "scheduler" / "scheduler_config.json").read_text())
    assert config["_class_name"] == kind
    assert "UniPCMultistepScheduler (" in FlowLearner.solver_note(learner)


@pytest.mark.parametrize("sampler", ["rollout", "pipeline"])
def test_the_reference_takes_the_last_steps(sampler):
    generator = wrap_pipeline(sd3(), **{**CASES["sd3"].settings, "num_steps": 4})
    generator.weights.add_lora(rank=2)
    before = sample(generator, PROMPTS, seeds=SEEDS, sampler=sampler)
    with torch.no_grad():
        for number, parameter in enumerate(generator.weights.trained().values()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    current = CURRENT
    used, switch = [], generator.weights._switch

    def switching(name):
        nonlocal current
        switch(name)
        current = name

    def record(*args):
        used.append(current)

    generator.weights._switch = switching
    hook = generator.pipe.transformer.register_forward_hook(record)
    parts = {
        share: sample(generator, PROMPTS, seeds=SEEDS, sampler=sampler, trained_share=share) for share in (0.0, 0.5)
    }
    hook.remove()
    assert used == [REFERENCE] * 4 + [CURRENT] * 2 + [REFERENCE] * 2
    trained = sample(generator, PROMPTS, seeds=SEEDS, sampler=sampler)
    np.testing.assert_array_equal(parts[0.0], before)
    assert not np.array_equal(parts[0.5], before)
    assert not np.array_equal(parts[0.5], trained)


def test_a_run_says_so_at_its_start(monkeypatch, caplog, tmp_path):
    for part in ("shared_cores", "quiet_libraries"):
        monkeypatch.setattr(trainable, part, nullcontext)
    algorithm = SimpleNamespace(on_first_learner=lambda call: call(SimpleNamespace(solver_note=lambda: "Euler steps")))
    monkeypatch.setattr(trainable.RLlibTrainable, "build", lambda self, folder: setattr(self, "_algorithm", algorithm))
    run = object.__new__(trainable.AgentTrainable)
    settings = SimpleNamespace(training=TrainingSettings(num_updates=1))
    run.config, run._opened = SimpleNamespace(algorithm=GRPO.from_settings(), settings=settings), ExitStack()
    for run._was_built in (False, True):  # built again after a lost process, of which the log has heard already
        run.build(SimpleNamespace(path=tmp_path))
    idle, *others = [record.message for record in caplog.records]
    assert idle.startswith("without effect: algorithm.clip_range.")
    assert others == ["Euler steps", "Euler steps"]


def test_the_sampler_is_a_setting():
    assert VerificationSettings().sampler == "rollout"
    with pytest.raises(ValueError, match="'rollout' or 'pipeline'"):
        VerificationSettings(sampler="unipc")
