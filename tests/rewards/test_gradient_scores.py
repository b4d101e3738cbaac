"""Scores with gradients to pixels: the values of `score`, and gradients that finite differences confirm."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from flexgym import rewards
from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.reward.gradient import WITH_GRADIENTS
from flexgym.rewards.preprocessing import CheckpointCrop
from flexgym.rewards.registry import SHIPPED, reward_class
from flexgym.rewards.resampling import resized
from flexgym.types import Prompt, SampleGroup
from tests.rewards import tiny_scorers as tiny
from tests.rewards.test_conformance import blip_folder, clip_folder

CAT, DOG = Prompt("a red cat"), Prompt("a blue cat")
QUICK = ("HPSv2", "ImageReward")
"""Rewards that every run covers: both kinds of models, both kinds of processing. The others are in the slow half."""


MODELS = [name for name in WITH_GRADIENTS if name != "ShapesMatch"]
"""Rewards with a model; the one without has tests of its own."""


def scorers(names=MODELS):
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


CROPPING = [name for name in MODELS if name != "HPSv2"]


def make(name, **settings):
    settings["model"] = blip_folder() if name == "ImageReward" else clip_folder()
    if name == "Aesthetic":
        settings["head"] = clip_folder().parent / "gradient_head.safetensors"
        tiny.save_head(settings["head"], tiny.aesthetic_head())
    return rewards.make(name, **settings)


@cache
def shared(name):
    return make(name, num_frames=3)


def real(images, *, dtype=torch.float32):
    """Pixels ``[B, 3, H, W]`` from 0 to 1 that collect gradients."""
    return (torch.from_numpy(images).movedim(-1, 1).to(dtype) / 255).requires_grad_()


def noise(height, width, count=4):
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), np.uint8)


def score(reward, samples, prompt=CAT):
    return reward.score([SampleGroup(prompt, samples)])[0].rewards


def gradient(reward, pixels, prompts):
    (found,) = torch.autograd.grad(reward.gradient_scores(pixels, prompts).sum(), pixels)
    return found


@pytest.mark.parametrize("name", scorers())
def test_values_are_those_of_score(name):
    """Without a resize by Pillow they are equal; else pixels differ by about a level, and scores by less than 4 %."""
    # of 35 pixels, an odd margin is cropped, which the published scorers round in two ways
    for size in ((32, 32), (35, 32), (48, 96), (90, 40), (20, 24)):
        for images in (tiny.pictures(4, *size), noise(*size)):
            expected, pixels = score(shared(name), images), real(images)
            found = shared(name).gradient_scores(pixels, [CAT] * 4)
            assert (found.dtype, found.shape, found.requires_grad) == (torch.float32, (4,), True)
            exact = name == "HPSv2" or min(size) == 32
            allowed = 1e-5 if exact else 0.04 * np.ptp(expected)
            np.testing.assert_allclose(found.detach(), expected, atol=allowed, rtol=1e-5, err_msg=f"{size}")


@pytest.mark.parametrize("name", scorers())
def test_gradients_agree_with_finite_differences(name):
    reward = make(name)
    reward.model.double()
    if name == "Aesthetic":
        reward._head.double()
    # away from black and white, where the resize clips
    pixels = (real(tiny.pictures(2, 40, 52), dtype=torch.float64) * 0.5 + 0.25).detach().requires_grad_()
    scores = reward.exact_scores(pixels, [CAT, DOG])
    assert scores.dtype == torch.float64
    (found,) = torch.autograd.grad(scores.sum(), pixels)
    for seed in range(3):
        direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (reward.exact_scores(pixels + step * direction, [CAT, DOG]).sum() for step in (1e-5, -1e-5))
        expected = float(ahead - behind) / 2e-5
        assert float((found * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", scorers(CROPPING))
def test_no_gradient_reaches_pixels_outside_the_crop(name):
    images = tiny.pictures(2, 48, 96)  # resized by 2/3; the crop keeps the columns 24 to 72, the filter reaches 3 more
    columns = gradient(shared(name), real(images), [CAT] * 2).abs().sum((0, 1, 2))
    assert float(columns[:21].max()) == float(columns[75:].max()) == 0
    assert float(columns[24:72].min()) > 0


def test_gradients_reach_every_pixel_that_hpsv2_pads():
    columns = gradient(shared("HPSv2"), real(tiny.pictures(2, 48, 96)), [CAT] * 2).abs().sum((0, 1, 2))
    assert float(columns.min()) > 0


@pytest.mark.parametrize("name", scorers())
def test_values_beyond_black_and_white_are_clamped(name):
    inside = real(tiny.pictures(2, 32, 32)).detach()
    beyond = inside.clone()
    beyond[:, :, :4], beyond[:, :, 4:8] = 1.25, -0.25
    beyond.requires_grad_()
    found = shared(name).gradient_scores(beyond, [CAT] * 2)
    expected = shared(name).gradient_scores(beyond.detach().clamp(0, 1), [CAT] * 2)
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-6)
    (slope,) = torch.autograd.grad(found.sum(), beyond)
    assert not slope[:, :, :8].any()
    assert slope[:, :, 8:].abs().amax((0, 1)).min() > 0


@pytest.mark.parametrize("name", scorers())
def test_rows_have_their_own_prompt_and_gradient(name):
    pixels, prompts = real(tiny.pictures(4, 32, 32)), [DOG, CAT, Prompt("a cat"), DOG]
    found = shared(name).gradient_scores(pixels, prompts)
    (slope,) = torch.autograd.grad(found[2], pixels, retain_graph=True)
    assert not slope[[0, 1, 3]].any()
    assert slope[2].any()
    alone = [shared(name).gradient_scores(pixels[[row]], [prompts[row]])[0] for row in range(4)]
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", scorers())
def test_a_video_scores_the_mean_over_the_frames_of_score(name):
    videos = np.stack([tiny.pictures(7, 32, 32), noise(32, 32, 7)])
    pixels = (torch.from_numpy(videos).permute(0, 4, 1, 2, 3).float() / 255).requires_grad_()
    found = shared(name).gradient_scores(pixels, [CAT] * 2)
    np.testing.assert_allclose(found.detach(), score(shared(name), videos), atol=1e-5, rtol=1e-5)
    (slope,) = torch.autograd.grad(found.sum(), pixels)
    reached = slope.abs().amax((0, 1, 3, 4)) > 0
    assert reached.tolist() == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("name", scorers())
def test_no_parameter_is_trained_and_batches_change_nothing(name):
    pixels = real(tiny.pictures(5, 32, 32))
    small, expected = make(name, batch_size=2), gradient(shared(name), pixels, [CAT] * 5)
    small.gradient_scores(pixels, [CAT] * 5).sum().backward()
    torch.testing.assert_close(pixels.grad, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    modules = [value for value in vars(small).values() if isinstance(value, torch.nn.Module)]
    parameters = [weight for module in modules for weight in module.parameters()]
    assert parameters
    assert not any(weight.requires_grad or weight.grad is not None for weight in parameters)


@pytest.mark.parametrize("name", scorers())
def test_half_precision_is_near(name):
    pixels = real(tiny.pictures(3, 32, 32))
    full = gradient(shared(name), pixels, [CAT] * 3).flatten()
    half = gradient(make(name, dtype="bfloat16"), pixels.detach().bfloat16().requires_grad_(), [CAT] * 3)
    assert half.dtype == torch.bfloat16
    assert float(torch.cosine_similarity(full, half.float().flatten(), dim=0)) > 0.95


def test_the_rewards_with_gradients_are_known_before_anything_loads():
    found = [name for name in SHIPPED if reward_class(name).has_gradient_scores()]
    assert tuple(sorted(found)) == WITH_GRADIENTS


def test_other_rewards_say_which_ones_have_gradients():
    reward = rewards.make("JPEGCompressibility")
    with pytest.raises(ConfigError, match="jpeg_compressibility: expected a reward with gradients .*PickScore"):
        reward.gradient_scores(torch.zeros(1, 3, 8, 8), [CAT])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(2, 32, 32, 3), r"real numbers \[B, 3, H, W\] .*, got float32 \[2, 32, 32, 3\]"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "got uint8"),
        (torch.zeros(2, 3, 0, 32), "real numbers"),
        (torch.zeros(1, 3, 32, 32), "one prompt for each of 1 samples, got 2"),
    ],
)
def test_other_pixels_are_refused(pixels, message):
    with pytest.raises(ConfigError, match=message):
        shared("CLIPScore").gradient_scores(pixels, [CAT] * 2)


def test_a_checkpoint_with_other_processing_has_no_gradients(tmp_path):
    tiny.save_processor(tmp_path, resample=Image.Resampling.BILINEAR)
    assert CheckpointCrop(tmp_path)(tiny.pictures(1)).shape == (1, 3, 32, 32)
    with pytest.raises(CheckpointError, match="other settings of resample: 3"):
        CheckpointCrop(tmp_path).differentiable(torch.zeros(1, 3, 32, 32))
    tiny.save_processor(tmp_path, crop_size={"height": 40, "width": 40})
    with pytest.raises(CheckpointError, match="other settings of crop_size"):
        CheckpointCrop(tmp_path).differentiable(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("size", [(32, 64), (298, 224), (100, 40), (48, 96)])
def test_resizing_is_that_of_torch_and_within_a_level_of_pillow(size):
    for images in (tiny.pictures(1), noise(48, 96, 1)):
        pixels = real(images, dtype=torch.float64)
        expected = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True)
        torch.testing.assert_close(resized(pixels, size), expected, rtol=0, atol=1e-12)
        pillow = np.asarray(Image.fromarray(images[0]).resize(size[::-1], Image.Resampling.BICUBIC)) / 255
        bounded = resized(pixels, size, between=(0.0, 1.0)).detach()[0].movedim(0, -1)
        np.testing.assert_allclose(bounded, pillow, atol=1.2 / 255)


def test_the_gradient_of_resizing():
    pixels = torch.rand(1, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    assert torch.autograd.gradcheck(lambda it: resized(it, (4, 12), between=(0.0, 1.0)), pixels.requires_grad_())
