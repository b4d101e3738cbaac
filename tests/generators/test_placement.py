from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder

from flexgym.core.errors import GeneratorError
from flexgym.generators import load_generator
from flexgym.generators.conformance import own_run, pipeline_run
from tests.generators.tiny import CASES, PROMPTS, fresh


def decoded_areas(generator):
    """Latent positions of each image that the decoder takes from now on."""
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
    generator.autoencoder.tile()
    tiled = generator.with_settings(num_steps=2).decode(noise)
    assert max(areas[1:]) == 16 * 16
    assert not np.array_equal(tiled, whole)
    ours, theirs = own_run(generator, noise, "a red cube"), pipeline_run(generator, noise, "a red cube")
    assert np.array_equal(ours.samples, theirs.samples)


def test_a_sample_no_larger_than_a_tile_stays_as_it_was():
    generator = fresh("wan")
    noise = generator.initial_latents(2, 0)
    whole = generator.decode(noise)
    generator.autoencoder.tile()
    assert np.array_equal(generator.decode(noise), whole)


def test_an_autoencoder_without_tiles_says_so():
    generator = fresh("sd3")
    torch.manual_seed(0)
    generator.pipe.register_modules(vae=AutoencoderKLTemporalDecoder(block_out_channels=(32,)))
    with pytest.raises(GeneratorError, match="got AutoencoderKLTemporalDecoder, which cannot: leave out vae_tiling"):
        generator.autoencoder.tile()


PARTS = ("text_encoder", "text_encoder_2", "vae")


def watched(generator, monkeypatch):
    """Moves of the parts by their own ``to``, and where they act, in order."""
    events = []
    for name in PARTS:
        part = getattr(generator.pipe, name)

        def move(device, name=name, own=part.to):
            events.append((name, str(device)))
            return own(device)

        monkeypatch.setattr(part, "to", move)
        acts = part.decoder if name == "vae" else part
        acts.register_forward_pre_hook(lambda *_, name=name: events.append((name, "acts")))
    return events


def moved(events, name):
    return [what for part, what in events if part == name]


def test_parts_come_before_they_act_and_leave_after(monkeypatch):
    """Counted on whatever device there is; with the CPU alone, the moves go nowhere."""
    generator, expected = fresh("sd3"), fresh("sd3").condition(PROMPTS).prompts
    events = watched(generator, monkeypatch)
    generator.placement.offload()
    assert events == [(name, "cpu") for name in PARTS]
    events.clear()
    device = str(generator.device)
    found = generator.condition(PROMPTS).prompts
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for name in PARTS[:2]:
        assert moved(events, name) == [device, "acts", "acts", "acts", "cpu"]
    assert moved(events, "vae") == []
    events.clear()
    generator.condition(PROMPTS)
    assert events == [], "known texts move nothing"
    generator.with_settings(num_steps=2).decode(generator.initial_latents(2, 0), chunk=1)
    assert events == [("vae", device), ("vae", "acts"), ("vae", "acts"), ("vae", "cpu")]


def test_parts_leave_after_an_error_and_do_not_come_with_the_pipeline(monkeypatch):
    generator = fresh("sd3")
    generator.placement.offload()
    events = watched(generator, monkeypatch)
    with pytest.raises(RuntimeError):
        generator.decode(torch.zeros(1, 3, 4, 4))  # of four channels
    assert events[-1] == ("vae", "cpu")
    events.clear()
    generator.placement.to("cpu")
    assert events == []
    generator.text.release(PROMPTS)
    for name in PARTS[:2]:
        assert moved(events, name) == ["cpu", *["acts"] * 4, "cpu"], "once for all prompts"


def test_a_generator_loaded_to_rest_samples_the_same(tmp_path):
    CASES["sd3"].build().save_pretrained(tmp_path)
    plain, resting = (load_generator(tmp_path, offload=offload, **CASES["sd3"].settings) for offload in (False, True))
    noise = plain.initial_latents(2, 0)
    ours, theirs = own_run(resting, noise, "a red cube"), own_run(plain, noise, "a red cube")
    assert torch.equal(ours.latents, theirs.latents)
    assert np.array_equal(ours.samples, theirs.samples)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_on_a_gpu_the_parts_rest_in_the_memory_of_the_host(tmp_path):
    CASES["sd3"].build().save_pretrained(tmp_path)
    generator = load_generator(tmp_path, offload=True, **CASES["sd3"].settings)
    places = []
    for part in (generator.pipe.text_encoder, generator.pipe.vae.decoder):
        part.register_forward_pre_hook(lambda module, _: places.append(next(module.parameters()).device.type))
    own_run(generator, generator.initial_latents(2, 0), "a red cube")
    assert places == ["cuda", "cuda"]
    assert [getattr(generator.pipe, name).device.type for name in PARTS] == ["cpu"] * 3
    assert generator.device.type == "cuda"
