"""The kit of generators finds what it is for: for every rule a generator that breaks it."""

from __future__ import annotations

import pytest
import torch

from flexgym.testing import GeneratorConformance
from tests.generators.tiny import fresh


class Kit(GeneratorConformance):
    """The smallest generator, with methods of the base class put in the place of its own."""

    dtypes = (torch.float32,)
    methods: dict = {}

    def make(self, dtype):
        generator = fresh("sd3", dtype=dtype)
        generator.__class__ = type("Broken", (type(generator),), self.methods)
        return generator


def method(name):
    """The method that the generator has, to be called by one that breaks it."""
    return getattr(type(fresh("sd3")), name)


def scaled(self, *args, **kwargs):
    return 1.01 * method("velocity")(self, *args, **kwargs)


def other_in_replay(self, *args, **kwargs):
    return method("velocity")(self, *args, **kwargs) + (1e-6 if torch.is_grad_enabled() else 0.0)


def mixed(self, latents, *args, **kwargs):
    return method("velocity")(self, latents, *args, **kwargs) + latents.mean()


def deaf(self, prompts):
    return method("condition")(self, ["a red cube"] * len(prompts))


def unseeded(self, count, seed):
    return torch.randn(count, *self.latent_shape)


BROKEN = {
    "test_sampling_equals_the_call_of_the_pipeline": ("velocity", scaled, "guidance_scale 1.0, 1 rows, torch.float32"),
    "test_evaluation_equals_the_call_of_the_pipeline": ("velocity", scaled, "the sample of the pipeline's call"),
    "test_replay_equals_rollout": (
        "velocity",
        other_in_replay,
        "the velocity of the rollout (lora, guidance_scale 1.0",
    ),
    "test_a_group_is_the_same_beside_any_other": ("velocity", mixed, "the velocity of 'a red cube' alone"),
    "test_guidance_changes_the_velocity": ("with_settings", lambda self, **settings: self, "1.0 and 4.0"),
    "test_the_text_and_the_level_reach_the_transformer": ("condition", deaf, "for different prompts, got equal ones"),
    "test_latents_depend_on_the_seed_alone": ("initial_latents", unseeded, "the same latents for the same seed"),
}


def test_every_rule_has_a_generator_that_breaks_it():
    assert set(BROKEN) == {name for name in dir(GeneratorConformance) if name.startswith("test_")}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_generator_is_told_its_rule(name):
    replaced, function, told = BROKEN[name]
    test = getattr(type("BrokenKit", (Kit,), {"methods": {replaced: function}})(), name)
    with pytest.raises(AssertionError) as failure:
        test()
    assert str(failure.value).startswith(f"broken rule: {test.rule}: expected ")
    assert told in str(failure.value)
