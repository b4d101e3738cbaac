"""Sampling with the Euler step is what the pipeline's own call does, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexgym.generators.conformance import own_run, pipeline_run
from flexgym.rollout import sample
from tests.generators.tiny import FAMILIES, prompts_for, shared


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_equals_the_call_of_the_pipeline(family, guidance, rows, dtype):
    generator = shared(family, guidance=guidance, dtype=dtype)
    # some pipelines round the first latents and some do not: here there is nothing to round
    noise = generator.initial_latents(rows, 7).to(dtype).float()
    (prompt,) = prompts_for(family, ["a red cube"])
    ours, theirs = (run(generator, noise, prompt) for run in (own_run, pipeline_run))
    assert torch.equal(ours.latents, theirs.latents)
    np.testing.assert_array_equal(ours.samples, theirs.samples)
    assert ours.samples.dtype == np.uint8
    assert ours.samples.shape == (rows, *generator.sample_shape)
    assert len(np.unique(ours.samples)) > 20


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_of_an_evaluation_equal_the_call_of_the_pipeline(family):
    generator = shared(family, guidance=4.0)
    prompts = prompts_for(family, ["a red cube"])
    ours = sample(generator, prompts, seeds=[7])
    theirs = pipeline_run(generator, generator.initial_latents(1, 7), prompts[0]).samples
    np.testing.assert_array_equal(ours, theirs)


def test_guidance_changes_the_velocity():
    latents = shared("sd3").initial_latents(2, 1)
    velocities = []
    for guidance in (1.0, 4.0):
        generator = shared("sd3", guidance=guidance)
        conditioning = generator.condition(["a red cube", "a blue ball"])
        velocities.append(generator.velocity(latents, torch.tensor([0.9, 0.4]), conditioning))
    assert not torch.allclose(*velocities, atol=1e-4)
