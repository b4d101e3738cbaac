"""Named copies of the weights: the same rules for adapters and for full training."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from flexgym.core.errors import CheckpointError, ConfigError, GeneratorError, UnknownNameError
from flexgym.generators.weights import Weights
from tests.generators.tiny import fresh


def disturb(weights, amount=0.05):
    with torch.no_grad():
        for parameter in weights.trained().values():
            parameter.add_(amount)


def training(mode, family="sd3"):
    generator = fresh(family)
    if mode == "lora":
        generator.weights.add_lora(rank=2)
    else:
        generator.weights.train_full()
        generator.weights.keep("reference")
    return generator


def velocity(generator):
    latents, sigma = generator.initial_latents(2, 0), torch.tensor([0.95, 0.4])
    with torch.no_grad():
        return generator.velocity(latents, sigma, generator.condition(["a red cube"]).repeat(2))


@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_contexts_nest_and_give_every_copy_to_the_bit(mode, host):
    generator = training(mode)
    weights, base = generator.weights, velocity(generator)
    disturb(weights)
    old = velocity(generator)
    weights.keep("old", host=host)
    disturb(weights)
    current, pointers = velocity(generator), [value.data_ptr() for value in weights.trained().values()]
    assert not torch.equal(old, current)
    with weights.using("old"):
        assert torch.equal(velocity(generator), old)
        with weights.using("reference"):
            assert torch.equal(velocity(generator), base)
            with weights.using("current"), generator.with_settings(num_steps=2).weights.using("old"):
                assert torch.equal(velocity(generator), old)
            assert torch.equal(velocity(generator), base)
        assert torch.equal(velocity(generator), old)
        with weights.using("current"):
            assert torch.equal(velocity(generator), current)
    assert torch.equal(velocity(generator), current)
    assert [value.data_ptr() for value in weights.trained().values()] == pointers


def test_a_failure_inside_leaves_the_current_weights():
    generator = training("full")
    disturb(generator.weights)
    current = velocity(generator)
    with pytest.raises(RuntimeError), generator.weights.using("reference"):
        raise RuntimeError
    with pytest.raises(UnknownNameError, match="Did you mean 'reference'"), generator.weights.using("referense"):
        pass
    assert torch.equal(velocity(generator), current)


@pytest.mark.parametrize("host", [False, True])
def test_a_swap_between_forward_and_backward_changes_no_gradient(host):
    gradients = []
    for swapped in (False, True):
        generator = training("full")
        generator.weights.keep("old", host=host)
        disturb(generator.weights)
        conditioning = generator.condition(["a red cube"])
        out = generator.velocity(generator.initial_latents(1, 0), torch.ones(1), conditioning)
        if swapped:
            with torch.no_grad(), generator.weights.using("old"):
                generator.velocity(generator.initial_latents(1, 0), torch.ones(1), conditioning)
        out.square().mean().backward()
        gradients.append([value.grad for value in generator.weights.trained().values()])
    assert all(mine is other or torch.equal(mine, other) for mine, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_an_update_is_the_exponential_moving_average(decay):
    weights = training("lora").weights
    weights.keep("ema", host=True)
    before = {name: value.clone() for name, value in weights.kept["ema"].items()}
    disturb(weights)
    weights.update("ema", decay)
    for name, value in weights.trained().items():
        expected = value if decay == 0 else torch.lerp(before[name], value, 1.0 - decay)
        assert torch.equal(weights.kept["ema"][name], expected)


def test_states_hold_what_training_changes():
    weights = training("full").weights
    weights.keep("ema", host=True)
    disturb(weights)
    state, kept = weights.state(), weights.copies_state()
    assert list(kept) == ["ema"], "the reference never changes"
    weights.update("ema", 0.5)
    disturb(weights)
    weights.load_state(state)
    weights.load_copies_state({"ema": {name: value.numpy() for name, value in kept["ema"].items()}})
    assert all(torch.equal(value, state[name]) for name, value in weights.state().items())
    assert all(torch.equal(value, kept["ema"][name]) for name, value in weights.kept["ema"].items())
    with pytest.raises(CheckpointError, match="copy 'ema' does not fit"):
        weights.load_copies_state({"ema": {}})
    with pytest.raises(UnknownNameError, match="old"):
        weights.load_copies_state({"old": kept["ema"]})


def test_gathered_states_are_handed_out_until_they_are_released():
    weights = training("lora").weights
    weights.keep("ema")
    weights.gather()
    before = weights.state()
    disturb(weights)
    assert weights.state() is before
    weights.gather(keep=False)
    assert (weights.state(), weights.copies_state()) == ({}, {"ema": {}})
    weights.release()
    assert not torch.equal(next(iter(weights.state().values())), next(iter(before.values())))


def test_copies_are_changed_outside_of_contexts_alone():
    weights = training("lora").weights
    weights.keep("old")
    with weights.using("old"):
        for change in (lambda: weights.keep("new"), lambda: weights.update("old", 0.5), lambda: weights.load_state({})):
            with pytest.raises(GeneratorError, match=r"got the copy 'old': leave"):
                change()
    with pytest.raises(ConfigError, match="choose another name"):
        weights.keep("current")
    with pytest.raises(UnknownNameError, match="old"):
        weights.update("odl", 0.5)


class Layer(nn.Module):
    """The smallest model that peft adapts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x)


def test_a_model_of_peft_has_the_same_copies():
    model = get_peft_model(Layer(), LoraConfig(r=2, target_modules=["linear"], init_lora_weights=False))
    weights, x = Weights({"model": model}, mode="lora"), torch.ones(1, 3)
    assert all(name.startswith("model.base_model") for name in weights.state())
    old = model(x)
    weights.keep("old")
    disturb(weights)
    current = model(x)
    with weights.using("old"):
        assert torch.equal(model(x), old)
    with weights.using("reference"):
        assert torch.equal(model(x), Layer()(x))
    assert torch.equal(model(x), current)
    assert not torch.equal(old, current)
