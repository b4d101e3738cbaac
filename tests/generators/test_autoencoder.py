"""Encoding is the inverse of decoding, and decoding to real numbers is the decoding with gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexgym.algorithm.rollout import sample
from flexgym.core.errors import ConfigError
from flexgym.generators import load_generator
from tests.generators.tiny import FAMILIES, shared

PROMPTS = ["a red circle on the left", "a blue square", "two green triangles"]


@pytest.mark.parametrize("source", ["shapes-t2i", "shapes-t2v"])
def test_samples_come_back_from_their_latents(source):
    generator = load_generator(source)
    samples = sample(generator, PROMPTS, seeds=range(3))
    latents = generator.encode(samples)
    assert latents.dtype == torch.float32
    assert latents.shape == (3, *generator.latent_shape)
    difference = generator.decode(latents).astype(float) - samples
    spread = samples.astype(float) - samples.mean()
    assert np.square(difference).mean() < 0.03 * np.square(spread).mean(), "all but 3 % of the variance"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_encodes_to_latents_of_its_own_scale(family):
    generator = shared(family)
    latents = torch.randn(2, *generator.latent_shape, generator=torch.Generator().manual_seed(0))
    there_and_back = generator.family.from_autoencoder(generator.family.to_autoencoder(latents))
    torch.testing.assert_close(there_and_back, latents, rtol=1e-4, atol=1e-4)
    samples = generator.decode(latents)
    encoded = generator.encode(samples)
    assert encoded.shape == latents.shape
    assert torch.isfinite(encoded).all()
    torch.testing.assert_close(
        generator.autoencoder.encode(torch.from_numpy(samples), 1), encoded, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("family", ["sd3", "wan", "hunyuan_video_concat_frame"])
def test_real_pixels_are_the_samples_before_rounding_and_have_gradients(family):
    generator = shared(family)
    latents = generator.initial_latents(1, 0).requires_grad_()
    pixels = generator.autoencoder.decode_pixels(latents)
    rounded = (pixels.clamp(0, 1).movedim(1, -1) * 255).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(rounded, generator.decode(latents.detach()))
    pixels.mean().backward()
    assert float(latents.grad.abs().sum()) > 0


def test_samples_of_another_shape_are_refused():
    generator = shared("sd3")
    for wrong in (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 32, 32, 3), np.float32), np.zeros((0, 32, 32, 3))):
        with pytest.raises(ConfigError, match=r"uint8 and shape \[B, 32, 32, 3\], got"):
            generator.encode(wrong)
