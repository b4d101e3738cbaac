from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import flexgym
from flexgym.core.errors import ConfigError
from flexgym.generators import wrap_pipeline
from flexgym.generators.conformance import own_run, pipeline_run
from tests.generators.tiny import CASES, FAMILIES, PROMPTS, fresh, marks_of, prompts_for, shared


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize(
    ("family", "guidance", "calls"),
    [("sd3", 1.0, 1), ("sd3", 4.0, 1), ("wan", 1.0, 1), ("wan", 4.0, 2), ("flux", 1.0, 1), ("flux", 4.0, 2)],
)
def test_forwards_of_one_velocity(family, guidance, calls):
    generator = fresh(family, guidance=guidance)
    counted = count_calls(generator.pipe.transformer)
    generator.velocity(generator.initial_latents(2, 0), torch.full((2,), 0.5), generator.condition(PROMPTS[:2]))
    assert len(counted) == calls


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_encoded_once_per_prompt(family):
    generator = fresh(family, guidance=4.0)
    counted = count_calls(generator.pipe.text_encoder)
    first = generator.condition(prompts_for(family, ["a red cube", "a blue ball", "a red cube"]))
    expected = (3 if generator.family.text_sees_images else 2) + generator.family.guided
    assert len(counted) == expected, "each pair of text and image, or each text, and the empty one of guidance"
    blue = prompts_for(family, ["a blue ball"], seed=1)
    again = generator.with_settings(num_steps=2).condition(blue)
    assert len(counted) == expected
    for name, alone in again.prompts.items():
        assert torch.equal(alone, first.prompts[name][1:2, : alone.shape[1]])
    generator.with_settings(max_sequence_length=5).condition(blue)
    assert len(counted) == expected + 1 + generator.family.guided, "another length is another embedding"


def test_each_noise_level_has_its_transformer():
    generator = fresh("wan22")
    counted = [count_calls(module) for module in generator.denoisers.values()]
    conditioning = generator.condition(PROMPTS[:2])
    latents, grid = generator.initial_latents(2, 0), generator.sigmas()
    taken = []
    for levels in ([grid[0], grid[0]], [grid[1], grid[1]], [grid[0], grid[1]], [0.9, 0.8999]):
        generator.velocity(latents, torch.tensor(levels), conditioning)
        taken.append([len(calls) for calls in counted])
    assert taken == [[1, 0], [1, 1], [2, 2], [3, 3]]


def test_texts_of_two_lengths_share_a_forward():
    generator = shared("qwen_image", guidance=4.0)
    latents, sigma = generator.initial_latents(2, 3), torch.full((2,), 0.7)
    texts = ["a red cube", "two green cones beside a red ball"]
    together = generator.velocity(latents, sigma, generator.condition(texts))
    for row, text in enumerate(texts):
        alone = generator.velocity(latents[row : row + 1], sigma[:1], generator.condition([text]))
        torch.testing.assert_close(together[row : row + 1], alone)


def test_rows_that_do_not_fit_are_refused():
    generator = shared("sd3")
    latents, conditioning = generator.initial_latents(4, 0), generator.condition(PROMPTS[:2])
    with pytest.raises(ConfigError, match="repeat"):
        generator.velocity(latents, torch.full((4,), 0.5), conditioning)
    with pytest.raises(ConfigError, match="multiple of 3"):
        generator.velocity(latents, torch.full((4,), 0.5), conditioning.repeat(2), micro_batch=3)
    with pytest.raises(ConfigError, match="without guidance"):
        shared("sd3", guidance=2.0).velocity(latents, torch.full((4,), 0.5), conditioning.repeat(2))
    with pytest.raises(ConfigError, match="at least one prompt"):
        generator.condition("a red cube")


def test_shapes_of_latents():
    assert shared("sd3").latent_shape == (4, 16, 16)
    assert shared("wan").latent_shape == (8, 2, 4, 4)


def test_decoding_is_exact_for_the_same_chunks_and_close_for_others():
    generator = shared("wan")
    latents = generator.initial_latents(4, 0)
    whole, pairs = generator.decode(latents), generator.decode(latents, chunk=2)
    np.testing.assert_array_equal(pairs[2:], generator.decode(latents[2:]))
    assert np.abs(whole.astype(int) - pairs).max() <= 1


@pytest.mark.parametrize("family", ["flux", "flux2", "hunyuan_video", "hunyuan_video_frame"])
def test_guidance_is_an_input_of_distilled_models(family):
    generator = shared(family)
    latents, sigma = generator.initial_latents(1, 0), torch.tensor([0.7])
    velocities = [
        view.velocity(latents, sigma, view.condition(prompts_for(family, ["a red cube"])))
        for view in (generator.with_settings(guidance_scale=scale) for scale in (1.0, 5.0))
    ]
    assert not torch.equal(*velocities)


LEVELS = torch.tensor([0.95, 0.6, 0.3, 0.05])


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_one_forward_may_have_different_noise_levels(family):
    generator = shared(family, guidance=3.0)
    latents, conditioning = generator.initial_latents(4, 0), generator.condition(prompts_for(family)[:1]).repeat(4)
    with torch.no_grad():
        together = generator.velocity(latents, LEVELS, conditioning)
        alone = generator.velocity(latents, LEVELS, conditioning, micro_batch=1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, generator.velocity(latents, LEVELS.flip(0), conditioning), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scale_given_to_velocity_is_that_of_the_settings(family):
    generator = shared(family)
    latents, prompts = generator.initial_latents(2, 0), prompts_for(family)[:1]
    scaled = generator.with_settings(guidance_scale=4.5)
    with torch.no_grad():
        expected = scaled.velocity(latents, LEVELS[:2], scaled.condition(prompts).repeat(2))
        conditioning = generator.condition(prompts, guidance=4.5).repeat(2)
        given = generator.velocity(latents, LEVELS[:2], conditioning, guidance=4.5)
        plain = generator.velocity(latents, LEVELS[:2], conditioning)
        assert torch.equal(given, expected)
        assert torch.equal(plain, generator.velocity(latents, LEVELS[:2], generator.condition(prompts).repeat(2)))
    is_input = generator.pipe.transformer.config.get("guidance_embeds", True)
    assert torch.equal(given, plain) == (generator.family.embedded_guidance and not is_input)


def test_a_scale_above_that_of_the_prompts_names_what_to_do():
    generator = shared("sd3")
    conditioning = generator.condition(PROMPTS[:1])
    with pytest.raises(ConfigError, match="with the same guidance"):
        generator.velocity(generator.initial_latents(1, 0), torch.ones(1), conditioning, guidance=2.0)


def own_calls(work):
    """Names of the functions of FlexGym that are entered, in order."""
    entered, package = [], str(Path(flexgym.__file__).parent)

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(package):
            entered.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return entered


@pytest.mark.parametrize(("mode", "most"), [("frozen", 12), ("lora", 12)])
def test_a_velocity_takes_few_calls_of_its_own(mode, most):
    generator = fresh("sd3")
    if mode == "lora":
        generator.weights.add_lora(rank=2)
    latents, sigma = generator.initial_latents(2, 0), torch.full((2,), 0.5)
    conditioning = generator.condition(PROMPTS[:2])
    calls = own_calls(lambda: generator.velocity(latents, sigma, conditioning))
    assert len(calls) <= most, calls


# --- negative prompts and guidance per expert -------------------------------------------------------------------------

NEGATIVE = "two green cones beside a red ball"


@pytest.mark.parametrize("family", ["sana", "lumina2", "wan22"])
def test_a_negative_prompt_is_that_of_the_pipelines_call(family):
    """Families that encode it in another way than prompts, and one with two calls."""
    plain = shared(family, guidance=4.0)
    generator = plain.with_settings(negative_prompt=NEGATIVE)
    noise, prompt = generator.initial_latents(2, 7), prompts_for(family)[0]
    ours, theirs = own_run(generator, noise, prompt), pipeline_run(generator, noise, prompt)
    assert torch.equal(ours.latents, theirs.latents)
    assert not torch.equal(ours.latents, own_run(plain, noise, prompt).latents)
    empty = own_run(plain.with_settings(negative_prompt=""), noise, prompt)
    assert torch.equal(empty.latents, own_run(plain, noise, prompt).latents)


@pytest.mark.parametrize("family", ["wan22", pytest.param("wan22_frame", marks=marks_of("wan22_frame"))])
def test_each_expert_has_its_guidance(family):
    plain = shared(family, guidance=4.0)
    noise, prompt = plain.initial_latents(2, 7), prompts_for(family)[0]
    for scale in (2.5, 1.0):
        generator = plain.with_settings(guidance_scale_2=scale)
        ours, theirs = own_run(generator, noise, prompt), pipeline_run(generator, noise, prompt)
        assert torch.equal(ours.latents, theirs.latents)
        assert not torch.equal(ours.latents[-1], own_run(plain, noise, prompt).latents[-1])
    conditioning, levels = generator.condition([prompt]).repeat(2), torch.tensor([0.95, 0.4])
    with torch.no_grad():
        mixed = generator.velocity(noise, levels, conditioning)
        alone = generator.velocity(noise, levels, conditioning, micro_batch=1)
    torch.testing.assert_close(mixed, alone, rtol=1e-4, atol=1e-4)


def test_settings_of_guidance_that_have_no_effect_are_refused():
    for family, settings, message in (
        (
            "flux2",
            {"negative_prompt": "x"},
            "Flux2Pipeline takes no negative_prompt in its own call",
        ),
        ("flux2_klein", {"negative_prompt": "x"}, "takes no negative_prompt"),
        ("flux", {"negative_prompt": "x"}, "no effect without classifier-free guidance: set true_cfg_scale above 1"),
        ("sd3", {"negative_prompt": "x"}, "set guidance_scale above 1"),
        ("wan22", {"guidance_scale_2": 3.0}, "guidance_scale_2=3.0 has no effect"),
        ("wan", {"guidance_scale_2": 3.0, "guidance_scale": 4.0}, "one transformer here"),
        ("sd3", {"negative_prompt": 3}, "must be a text, got 3"),
        ("sd3", {"negative_prompt": "\ud800"}, "UTF-8"),
    ):
        with pytest.raises(ConfigError, match=message):
            shared(family).with_settings(**settings)
        with pytest.raises(ConfigError, match=message):
            wrap_pipeline(CASES[family].build(), **{**CASES[family].settings, "guidance_scale": 1.0, **settings})
    guided = shared("sd3", guidance=4.0).with_settings(negative_prompt="x")
    assert guided.with_settings(guidance_scale=1.0).settings.negative_prompt == "x", "a view may turn guidance off"
