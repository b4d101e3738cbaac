from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from flexgym.core.errors import CheckpointError, ConfigError, GeneratorError, UnknownNameError
from flexgym.generators import load_generator
from flexgym.types import Prompt
from tests.generators.tiny import FAMILIES, fresh, picture, shared, shorten


def velocity(generator):
    latents = generator.initial_latents(2, 0)
    prompt = Prompt("a red cube", first_frame=picture() if generator.takes_first_frame else None)
    return generator.velocity(latents, torch.tensor([0.9, 0.3]), generator.condition([prompt]).repeat(2))


def disturb(generator):
    with torch.no_grad():
        for parameter in list(generator.weights.trained().values()):
            parameter.add_(0.05)


def test_nothing_trains_at_first():
    assert list(shared("sd3").weights.trained().values()) == []
    assert shared("sd3").weights.mode == "frozen"


@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_starts_as_nothing_and_switches_off_exactly(family):
    generator = fresh(family)
    base = velocity(generator)
    generator.weights.add_lora(rank=2, seed=1)
    assert torch.equal(velocity(generator), base)
    disturb(generator)
    assert not torch.allclose(velocity(generator), base)
    with generator.weights.using("reference"), generator.with_settings(num_steps=2).weights.using("reference"):
        assert torch.equal(velocity(generator), base)
    assert not torch.allclose(velocity(generator), base)
    assert len(list(generator.weights.trained().values())) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_adapter_and_nothing_else(family):
    generator = fresh(family, guidance=3.0)
    generator.weights.add_lora(rank=2)
    disturb(generator)
    velocity(generator).square().mean().backward()
    modules = generator.denoisers.values()
    with_gradient = sum(value.grad is not None for module in modules for value in module.parameters())
    assert with_gradient == len(generator.weights.state())
    assert all("lora_" in name for name in generator.weights.state())
    assert all(float(value.grad.abs().sum()) > 0 for value in list(generator.weights.trained().values()))


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_blocks_change_neither_velocity_nor_gradients(family):
    found = []
    for recompute in (False, True):
        generator = fresh(family)
        generator.weights.add_lora(rank=2)
        disturb(generator)
        if recompute:
            generator.weights.checkpoint_gradients()
        out = velocity(generator)
        out.square().mean().backward()
        found.append([out, *(value.grad for value in list(generator.weights.trained().values()))])
    assert all(torch.equal(plain, recomputed) for plain, recomputed in zip(*found, strict=True))


def test_a_transformer_that_cannot_recompute_says_so(monkeypatch):
    generator = fresh("sd3")
    monkeypatch.setattr(type(generator.pipe.transformer), "_supports_gradient_checkpointing", False)
    with pytest.raises(GeneratorError, match="SD3Transformer2DModel, which cannot recompute"):
        generator.weights.checkpoint_gradients()


def test_adapter_weights_depend_on_the_seed_alone():
    states = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        generator = fresh("sd3")
        torch.manual_seed(noise)
        generator.weights.add_lora(rank=2, seed=seed)
        states.append(torch.cat([value.flatten() for value in generator.weights.state().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_full_training_trains_the_transformer_alone():
    generator = fresh("wan")
    generator.weights.train_full()
    assert set(generator.weights.state()) == {name for name, _ in generator.pipe.transformer.named_parameters()}
    others = (generator.pipe.vae, generator.pipe.text_encoder)
    assert not any(value.requires_grad for module in others for value in module.parameters())
    with pytest.raises(GeneratorError, match="keep.*reference"), generator.weights.using("reference"):
        pass


def test_full_training_can_keep_its_reference():
    generator = fresh("sd3")
    base = velocity(generator)
    generator.weights.train_full()
    generator.weights.keep("reference")
    disturb(generator)
    changed = velocity(generator)
    with generator.weights.using("reference"):
        assert torch.equal(velocity(generator), base)
    assert torch.equal(velocity(generator), changed)


def test_training_is_chosen_once():
    generator = fresh("sd3")
    generator.weights.train_full()
    with pytest.raises(GeneratorError, match="full"):
        generator.weights.add_lora()


def test_target_without_a_layer_names_what_exists():
    generator = fresh("sd3")
    with pytest.raises(UnknownNameError, match=r"'to_query'.*to_q.*add_k_proj.*to_out\.0"):
        generator.weights.add_lora(targets=["to_k", "to_query"])
    with pytest.raises(ConfigError, match="at least one target"):
        generator.weights.add_lora(targets=[])
    with pytest.raises(ConfigError, match="rank"):
        generator.weights.add_lora(rank=0)
    assert generator.weights.mode == "frozen", "a rejected adapter leaves the generator as it was"


def test_state_round_trip_and_independence():
    generator = fresh("sd3")
    generator.weights.add_lora(rank=2)
    state = generator.weights.state()
    kept = {name: value.clone() for name, value in state.items()}
    disturb(generator)
    assert all(torch.equal(state[name], kept[name]) for name in state), "the state does not follow the training"
    generator.weights.load_state(state)
    assert all(torch.equal(value, kept[name]) for name, value in generator.weights.state().items())


def test_state_that_does_not_fit_changes_nothing():
    generator = fresh("sd3")
    generator.weights.add_lora(rank=2)
    state = generator.weights.state()
    last = list(state)[-1]
    bad = {name: value + 1 for name, value in state.items()} | {last: torch.zeros(1)}
    with pytest.raises(CheckpointError, match="must have shape"):
        generator.weights.load_state(bad)
    with pytest.raises(CheckpointError, match="missing from the state"):
        generator.weights.load_state({name: value for name, value in state.items() if name != last})
    assert all(torch.equal(value, state[name]) for name, value in generator.weights.state().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_adapter_loads_in_the_stock_pipeline(family, tmp_path):
    generator = fresh(family)
    generator.weights.add_lora(rank=2)
    disturb(generator)
    generator.save(tmp_path / "adapter")
    stock = fresh(family)
    if hasattr(stock.pipe, "load_lora_weights"):
        stock.pipe.load_lora_weights(tmp_path / "adapter")
    else:
        stock.pipe.transformer.load_lora_adapter(tmp_path / "adapter", use_safetensors=True)
    if len(generator.denoisers) > 1:
        stock.pipe.load_lora_weights(tmp_path / "adapter" / "transformer_2", load_into_transformer_2=True)
    files = [path.name for path in (tmp_path / "adapter").rglob("*") if path.is_file()]
    assert files == ["pytorch_lora_weights.safetensors"] * len(generator.denoisers)
    assert torch.equal(velocity(stock), velocity(generator))
    with pytest.raises(CheckpointError, match="exists already"):
        generator.save(tmp_path / "adapter")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pipeline_comes_back_from_its_folder(family, tmp_path):
    generator = shared(family, guidance=2.0)
    generator.pipe.save_pretrained(tmp_path / "pipe")
    again = load_generator(tmp_path / "pipe", device="cpu", **vars(generator.settings))
    shorten(again.pipe)
    assert type(again.family) is type(generator.family)
    # weights read from a file lie elsewhere in memory, and kernels for a single row may round by that
    torch.testing.assert_close(velocity(again), velocity(generator), rtol=1e-5, atol=1e-5)


def test_saved_pipeline_loads_everywhere(tmp_path):
    generator = fresh("sd3", guidance=2.0)
    generator.weights.train_full()
    disturb(generator)
    folder = generator.save(tmp_path / "full")
    again = load_generator(folder)
    assert again.settings == generator.settings
    assert torch.equal(velocity(again), velocity(generator))
    stock = DiffusionPipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    assert isinstance(stock, type(generator.pipe))
    np.testing.assert_array_equal(
        again.decode(again.initial_latents(1, 0)), generator.decode(again.initial_latents(1, 0))
    )
