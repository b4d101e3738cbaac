from __future__ import annotations

import numpy as np
import pytest
import torch

from flexgym.core.errors import ConfigError
from tests.generators.tiny import FAMILIES, PROMPTS, fresh, prompts_for, shared


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
    counted = count_calls(generator.transformer)
    generator.velocity(generator.initial_latents(2, 0), torch.full((2,), 0.5), generator.condition(PROMPTS[:2]))
    assert len(counted) == calls


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_encoded_once_per_prompt(family):
    generator = fresh(family, guidance=4.0)
    counted = count_calls(generator.pipe.text_encoder)
    first = generator.condition(prompts_for(family, ["a red cube", "a blue ball", "a red cube"]))
    expected = (3 if generator.text_sees_frame else 2) + generator.guided
    assert len(counted) == expected, "each pair of text and picture, or each text, and the empty one of guidance"
    blue = prompts_for(family, ["a blue ball"], seed=1)
    again = generator.with_settings(num_steps=2).condition(blue)
    assert len(counted) == expected
    for name, alone in again.prompts.items():
        assert torch.equal(alone, first.prompts[name][1:2, : alone.shape[1]])
    generator.with_settings(max_sequence_length=5).condition(blue)
    assert len(counted) == expected + 1 + generator.guided, "another length is another embedding"


def test_each_noise_level_has_its_transformer():
    generator = fresh("wan22")
    counted = [count_calls(module) for module in generator.denoisers().values()]
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
