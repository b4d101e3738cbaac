from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder

from flexgym.errors import GeneratorError
from flexgym.generators.conformance import own_run, pipeline_run
from tests.generators.tiny import fresh


def decoded_areas(generator):
    """Latent positions of each picture that the decoder takes from now on."""
    areas = []
    generator.pipe.vae.decoder.register_forward_pre_hook(lambda _, given: areas.append(given[0].shape[-2:].numel()))
    return areas


@pytest.mark.parametrize("family", ["sd3", "z_image"])
def test_tiles_bound_what_the_decoder_takes_and_are_those_of_the_pipeline(family):
    generator = fresh(family).with_settings(height=64, width=64)  # a tile is 32x32
    noise = generator.initial_latents(1, 0)
    areas = decoded_areas(generator)
    whole = generator.decode(noise)
    assert areas == [32 * 32]
    generator.tile_autoencoder()
    tiled = generator.with_settings(num_steps=2).decode(noise)
    assert max(areas[1:]) == 16 * 16
    assert not np.array_equal(tiled, whole)
    ours, theirs = own_run(generator, noise, "a red cube"), pipeline_run(generator, noise, "a red cube")
    assert np.array_equal(ours.samples, theirs.samples)


def test_a_sample_no_larger_than_a_tile_stays_as_it_was():
    generator = fresh("wan")
    noise = generator.initial_latents(2, 0)
    whole = generator.decode(noise)
    generator.tile_autoencoder()
    assert np.array_equal(generator.decode(noise), whole)


def test_an_autoencoder_without_tiles_says_so():
    generator = fresh("sd3")
    torch.manual_seed(0)
    generator.pipe.register_modules(vae=AutoencoderKLTemporalDecoder(block_out_channels=(32,)))
    with pytest.raises(GeneratorError, match="got AutoencoderKLTemporalDecoder, which cannot: leave out vae_tiling"):
        generator.tile_autoencoder()
