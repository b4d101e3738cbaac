"""Sampling with the Euler step is what the pipeline's own call does, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexgym.flow import ODE, transition
from tests.generators.tiny import FAMILIES, shared


def euler(generator, latents, conditioning):
    sigmas = generator.sigmas()
    with torch.no_grad():
        for before, after in zip(sigmas[:-1], sigmas[1:], strict=True):
            level = before.expand(len(latents))
            velocity = generator.velocity(latents, level, conditioning)
            latents = transition(latents, velocity, level, sigma_next=after.expand(len(latents)), noise=ODE()).mean
    return latents


def call(generator, latents, output_type):
    settings = generator.settings
    arguments = {
        "prompt": ["a red cube"],
        "latents": latents.clone(),
        "num_inference_steps": settings.num_steps,
        "guidance_scale": settings.guidance_scale,
        "height": settings.height,
        "width": settings.width,
        "max_sequence_length": settings.max_sequence_length,
        "output_type": output_type,
    }
    if settings.num_frames is None:
        return generator.pipe(**arguments, num_images_per_prompt=len(latents))[0]
    frames = {"num_frames": settings.num_frames, "num_videos_per_prompt": len(latents)}
    return generator.pipe(**arguments, **frames)[0]


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_equals_the_call_of_the_pipeline(family, guidance, rows):
    generator = shared(family, guidance=guidance)
    noise = generator.initial_latents(rows, 7)
    ours = euler(generator, noise, generator.condition(["a red cube"]).repeat(rows))
    assert torch.equal(ours, call(generator, noise, "latent"))
    samples = generator.decode(ours)
    theirs = [np.stack([np.asarray(frame) for frame in sample]) if isinstance(sample, list) else np.asarray(sample)
              for sample in call(generator, noise, "pil")]  # fmt: skip
    np.testing.assert_array_equal(samples, np.stack(theirs))
    assert samples.dtype == np.uint8
    assert samples.shape == (rows, *generator.sample_shape)
    assert len(np.unique(samples)) > 20


def test_guidance_changes_the_velocity():
    latents = shared("sd3").initial_latents(2, 1)
    velocities = []
    for guidance in (1.0, 4.0):
        generator = shared("sd3", guidance=guidance)
        conditioning = generator.condition(["a red cube", "a blue ball"])
        velocities.append(generator.velocity(latents, torch.tensor([0.9, 0.4]), conditioning))
    assert not torch.allclose(*velocities, atol=1e-4)
