"""The gradient of a reward at clean latents is that of autograd through everything at once, in chunks of any size."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from flexgym import rewards
from flexgym.algorithm.reward_gradient import reward_gradient, reward_losses
from flexgym.core.errors import ConfigError
from flexgym.types import Prompt
from tests.generators.tiny import FAMILIES, FRAME, prompts_for, shared
from tests.rewards.test_conformance import clip_folder

TEXTS = ["a red cube", "a blue ball", "a red cube"]


@cache
def scorer():
    return rewards.make("CLIPScore", model=clip_folder(), num_frames=2)


def clean(generator, rows=3):
    return generator.initial_latents(rows, 3)


def at_once(generator, latents, prompts, *, threshold, conditioning=None):
    """Scores and gradient by one graph from the latents to the sum of the losses, without recomputation."""
    inputs = latents.clone().requires_grad_()
    placed = inputs if conditioning is None else generator.with_first_frame(inputs, conditioning)
    scores = scorer().gradient_scores(generator.autoencoder.decode_pixels(placed), prompts)
    losses = [-score if threshold is None else torch.relu(threshold - score) for score in scores]
    sum(losses).backward()
    return scores.detach(), inputs.grad


def check(family, chunks):
    generator, prompts = shared(family), prompts_for(family, TEXTS)
    conditioning = generator.condition(prompts) if family.endswith(FRAME) else None
    latents = clean(generator)
    scores, plain = at_once(generator, latents, prompts, threshold=None, conditioning=conditioning)
    assert float(plain.abs().max()) > 0
    threshold = float(scores.median()) + 1e-6  # the best of three reaches it
    expected = at_once(generator, latents, prompts, threshold=threshold, conditioning=conditioning)[1]
    assert (expected.flatten(1).abs().amax(1) > 0).sum() == 2
    for chunk in chunks:
        for limit, gradient in ((None, plain), (threshold, expected)):
            found = reward_gradient(
                generator,
                scorer(),
                latents,
                prompts=prompts,
                conditioning=conditioning,
                threshold=limit,
                chunk=chunk,
            )
            allowed = 1e-4 * float(plain.abs().max())
            torch.testing.assert_close(found.scores, scores, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found.gradient, gradient, rtol=1e-4, atol=allowed)
    assert latents.grad is None
    assert not any(weight.grad is not None for weight in generator.pipe.vae.parameters())
    assert not getattr(generator.pipe.vae, "is_gradient_checkpointing", False)


@pytest.mark.parametrize("family", ["sd3", "wan", "flux"])
def test_chunks_give_the_gradient_of_everything_at_once(family):
    check(family, (1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_gradients(family):
    check(family, (2, 3))


def test_blocks_of_the_autoencoder_are_recomputed_where_they_can_be(monkeypatch):
    generator, seen = shared("sd3"), []
    decode = generator.autoencoder.decode_pixels
    monkeypatch.setattr(
        type(generator.autoencoder),
        "decode_pixels",
        lambda self, latents: seen.append(generator.pipe.vae.is_gradient_checkpointing) or decode(latents),
    )
    reward_gradient(generator, scorer(), clean(generator), prompts=prompts_for("sd3", TEXTS))
    assert seen == [True] * 3


def test_an_offloaded_autoencoder_comes_back_afterwards():
    generator = shared("sd3")
    places = []
    with generator.autoencoder.for_gradients():
        places.append(set(generator.placement.offloaded))
    generator.placement.offloaded.add("vae")
    try:
        with generator.autoencoder.for_gradients():
            places.append(set(generator.placement.offloaded))
        assert places == [set(), set()]
        assert generator.placement.offloaded == {"vae"}
    finally:
        generator.placement.offloaded.discard("vae")


def test_it_works_where_gradients_are_off():
    generator, prompts = shared("sd3"), [Prompt(text) for text in TEXTS]
    expected = reward_gradient(generator, scorer(), clean(generator), prompts=prompts)
    with torch.no_grad():
        found = reward_gradient(generator, scorer(), clean(generator), prompts=prompts)
    assert torch.equal(found.gradient, expected.gradient)
    assert not found.scores.requires_grad


def test_losses():
    scores = torch.tensor([0.2, 0.6])
    assert reward_losses(scores, None).tolist() == (-scores).tolist()
    assert reward_losses(scores, 0.5).tolist() == pytest.approx([0.3, 0.0])


def test_what_cannot_have_a_gradient_is_refused():
    generator, prompts = shared("sd3"), [Prompt(text) for text in TEXTS]
    for rows, chunk in ((2, 1), (3, 0)):
        with pytest.raises(ConfigError, match=f"3 prompts for {rows} rows and chunk={chunk}"):
            reward_gradient(generator, scorer(), clean(generator, rows), prompts=prompts, chunk=chunk)
    with pytest.raises(ConfigError, match="ImageReward"):
        reward_gradient(generator, rewards.make("JPEGCompressibility"), clean(generator), prompts=prompts)
