"""Training that starts from an adapter, and pipelines that come with one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_pipeline import HunyuanVideoLoraLoaderMixin
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexgym.core.errors import CheckpointError, ConfigError, GeneratorError, UnknownNameError
from flexgym.generators import FlowGenerator, load_generator, wrap_pipeline
from tests.generators.tiny import CASES, families, fresh

FILE = "pytorch_lora_weights.safetensors"
LEVELS = torch.tensor([0.95, 0.4])


def velocity(generator: FlowGenerator) -> Tensor:
    conditioning = generator.condition(["a red cube"]).repeat(2)
    with torch.no_grad():
        return generator.velocity(generator.initial_latents(2, 0), LEVELS, conditioning)


def disturb(generator: FlowGenerator, amount: float = 0.05) -> None:
    with torch.no_grad():
        for parameter in generator.weights.trained().values():
            parameter.add_(amount * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


def styled(family: str, folder: Path, **lora: Any) -> Tensor:
    """Save an adapter, and return the velocity with it."""
    generator = fresh(family)
    generator.weights.add_lora(**{"rank": 2, **lora})
    disturb(generator, 0.3)
    generator.save(folder)
    return velocity(generator)


def close(one: Tensor, other: Tensor) -> bool:
    """Return whether two velocities differ by rounding alone."""
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def style(tmp_path_factory) -> tuple[Path, Tensor]:
    folder = tmp_path_factory.mktemp("adapters") / "style"
    return folder, styled("sd3", folder)


# --- training that starts from an adapter ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", families("sd3", "wan22", "hunyuan_video15"))
def test_training_starts_from_a_saved_adapter(family, tmp_path):
    """Families with a loader, with two adapters, and without a loader."""
    expected = styled(family, tmp_path / "style")
    generator = fresh(family)
    generator.make_trainable(adapter=tmp_path / "style")
    assert torch.equal(velocity(generator), expected)
    disturb(generator)
    moved = velocity(generator)
    assert not close(moved, expected)
    generator.weights.keep("reference")
    with generator.weights.using("reference"):
        assert torch.equal(velocity(generator), expected), "the reference is the policy at the start, with the adapter"
    assert torch.equal(velocity(generator), moved)
    assert generator.weights.copies_state() == {}
    generator.save(tmp_path / "trained")
    again = fresh(family)
    again.make_trainable(adapter=str(tmp_path / "trained"), lora={"rank": 2, "alpha": 4})
    assert torch.equal(velocity(again), moved)


@pytest.mark.parametrize("family", families("sd3", "wan22", "hunyuan_video15"))
def test_training_goes_on_top_of_a_merged_adapter(family, tmp_path):
    expected = styled(family, tmp_path / "style")
    generator = fresh(family)
    generator.make_trainable(adapter=tmp_path / "style", adapter_as="merge", lora={"rank": 3, "targets": ["to_q"]})
    start = velocity(generator)
    assert close(start, expected)
    disturb(generator, 0.3)
    with generator.weights.using("reference"):
        assert torch.equal(velocity(generator), start)
    moved = velocity(generator)
    assert not close(moved, start)
    generator.save(tmp_path / "both")
    exported = fresh(family)
    for name, module in exported.denoisers.items():
        part = tmp_path / "both" if name == "transformer" else tmp_path / "both" / name
        loader = exported.pipe if hasattr(exported.pipe, "load_lora_weights") else HunyuanVideoLoraLoaderMixin
        tensors, metadata = loader.lora_state_dict(part / FILE, return_lora_metadata=True)
        module.load_lora_adapter(tensors, metadata=metadata)
    assert close(velocity(exported), moved), "one adapter file on the bare pipeline is the policy"


def test_full_training_starts_from_a_merged_adapter(style, tmp_path):
    folder, expected = style
    generator = fresh("sd3")
    with pytest.raises(ConfigError, match="adapter_as=merge"):
        generator.make_trainable("full", adapter=folder)
    generator = fresh("sd3")
    generator.make_trainable("full", adapter=folder, adapter_as="merge")
    assert close(velocity(generator), expected)
    start = velocity(generator)
    again = load_generator(generator.save(tmp_path / "full"), device="cpu")
    assert torch.equal(velocity(again), start)


def test_settings_that_differ_from_the_adapter_are_refused(style):
    for lora, message in (
        ({"rank": 4}, "has rank 2, got rank=4: leave out"),
        ({"alpha": 8}, "has alpha 4, got alpha=8"),
        ({"targets": ["to_q"]}, "other layers than lora.targets"),
        ({"seed": 1}, "leave out lora.seed"),
    ):
        generator = fresh("sd3")
        with pytest.raises(ConfigError, match=message):
            generator.make_trainable(adapter=style[0], lora=lora)
        assert generator.weights.mode == "frozen"
    with pytest.raises(UnknownNameError, match="Did you mean 'merge'"):
        fresh("sd3").make_trainable(adapter=style[0], adapter_as="merged")


# --- formats ---------------------------------------------------------------------------------------------------------


def plain(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a saved adapter, with its scale of 2 in the values."""
    tensors = load_file(folder / FILE)
    return {name.partition(".")[2]: value * (2 if "lora_B" in name else 1) for name, value in tensors.items()}


def kohya(name: str) -> str:
    layer, part = name.rsplit(".lora_", 1)
    return f"lora_unet_{layer.replace('.', '_')}.lora_{'down' if part.startswith('A') else 'up'}.weight"


def with_alpha(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Halve the scale by alpha, and double the values."""
    alphas = {f"{name.partition('.')[0]}.alpha": torch.tensor(1.0) for name in tensors}
    return alphas | {name: value * 2 if "lora_up" in name else value for name, value in tensors.items()}


FORMATS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "diffusers without metadata": lambda tensors: {f"transformer.{name}": value for name, value in tensors.items()},
    "names of the layers alone": dict,
    "kohya": lambda tensors: with_alpha({kohya(name): value for name, value in tensors.items()}),
}


@pytest.mark.parametrize("form", FORMATS)
def test_keys_of_other_libraries(form, style, tmp_path):
    save_file(FORMATS[form](plain(style[0])), tmp_path / "style.safetensors")
    generator = fresh("sd3")
    generator.make_trainable(adapter=tmp_path)
    assert close(velocity(generator), style[1])


def test_an_adapter_of_peft(style, tmp_path):
    generator = fresh("sd3")
    targets = ["to_q", "proj_out"]
    config = LoraConfig(r=4, lora_alpha=2, target_modules=targets, use_rslora=True, rank_pattern={"proj_out": 2})
    model = get_peft_model(generator.pipe.transformer, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model.save_pretrained(tmp_path)
    expected = velocity(generator)
    other = fresh("sd3")
    other.make_trainable(adapter=tmp_path)
    assert close(velocity(other), expected)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    with pytest.raises(CheckpointError, match="use_dora=False, got True"):
        fresh("sd3").make_trainable(adapter=tmp_path)


def kohya_layer(name: str, width: int, out: int, *, down: str = "lora_down", up: str = "lora_up") -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(width + out)
    values = {f"{name}.{down}.weight": (2, width), f"{name}.{up}.weight": (out, 2)}
    made = {key: torch.randn(shape, generator=random) for key, shape in values.items()}
    return {**made, f"{name}.alpha": torch.tensor(1.0)}


CONVERTED = {
    "flux": kohya_layer("lora_unet_double_blocks_0_img_attn_qkv", 32, 96)
    | kohya_layer("lora_unet_single_blocks_0_linear2", 160, 32),
    "wan": kohya_layer("diffusion_model.blocks.0.self_attn.q", 24, 24)
    | kohya_layer("diffusion_model.blocks.1.ffn.0", 24, 32),
}


@pytest.fixture(params=["heard", "diffusers", "logging", "disabled"])
def warnings_of_diffusers(request):
    """Warnings of diffusers, heard or switched off in each of the ways that there are; runs switch them off."""
    logger = logging.getLogger("diffusers.loaders.lora_conversion_utils")
    before = diffusers_logging.get_verbosity()
    if request.param == "diffusers":
        diffusers_logging.set_verbosity_error()
    elif request.param == "logging":
        logging.disable(logging.CRITICAL)
    logger.disabled = request.param == "disabled"
    yield
    diffusers_logging.set_verbosity(before)
    logging.disable(logging.NOTSET)
    assert logger.disabled == (request.param == "disabled")
    assert logger.level == logging.NOTSET
    logger.disabled = False


def test_what_diffusers_only_warns_about_is_an_error(warnings_of_diffusers, tmp_path):
    save_file({**CONVERTED["flux"], "lora_te1_text.alpha": torch.ones(1)}, tmp_path / "style.safetensors")
    with pytest.raises(CheckpointError, match="Unsupported keys.*lora_te1_text"):
        fresh("flux").make_trainable(adapter=tmp_path)


@pytest.mark.parametrize("name", ["lora_unet_{}.dora_scale", "transformer.{}.lora_magnitude_vector"])
def test_magnitudes_of_dora_are_refused_by_name(name, warnings_of_diffusers, tmp_path):
    layer = "double_blocks_0_img_attn_qkv"
    save_file({**CONVERTED["flux"], name.format(layer): torch.ones(96)}, tmp_path / "style.safetensors")
    with pytest.raises(CheckpointError, match=f"1 of 7 tensors are no lora_A.*{name.format(layer)}"):
        fresh("flux").make_trainable(adapter=tmp_path)


@pytest.mark.parametrize("family", families(*CONVERTED))
def test_keys_that_diffusers_converts(family, tmp_path):
    """The names of the model's authors, among them three layers that are one."""
    file = tmp_path / "style.safetensors"
    save_file(CONVERTED[family], file)
    stock, generator = fresh(family), fresh(family)
    bare = velocity(stock)
    stock.pipe.load_lora_weights(file)
    generator.make_trainable(adapter=file)
    assert close(velocity(generator), velocity(stock))
    assert not close(velocity(generator), bare)
    strange = kohya_layer("lora_unet_strange" if family == "flux" else "diffusion_model.blocks.0.strange", 2, 2)
    save_file({**CONVERTED[family], **strange}, file)
    with pytest.raises(CheckpointError, match="strange"):
        fresh(family).make_trainable(adapter=file)


def without(ending: str) -> Callable[[dict[str, Tensor]], None]:
    def remove(tensors: dict[str, Tensor]) -> None:
        del tensors[next(name for name in tensors if name.endswith(ending))]

    return remove


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor]], None], str]] = {
    "half of a layer": (without("to_q.lora_B.weight"), "to_q has no lora_B"),
    "a text encoder": (lambda t: t.update({"text_encoder.x.lora_A.weight": torch.ones(2, 2)}), "text_encoder.x"),
    "another shape": (lambda t: t.update({next(iter(t)): torch.ones(2, 3)}), "expected .* with lora_A"),
    "no number": (lambda t: t.update({next(iter(t)): torch.full_like(next(iter(t.values())), torch.nan)}), "NaN"),
    "DoRA": (lambda t: t.update({"transformer.proj_out.dora_scale": torch.ones(1)}), "dora_scale"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_adapters_that_do_not_fit_are_refused_by_name(kind, style, tmp_path):
    change, message = BROKEN[kind]
    tensors = load_file(style[0] / FILE)
    change(tensors)
    save_file(tensors, tmp_path / "style.safetensors")
    with pytest.raises(CheckpointError, match=message):
        fresh("sd3").make_trainable(adapter=tmp_path)


def test_files_that_are_no_adapter_are_refused_by_name(style, tmp_path):
    generator = fresh("sd3")
    (tmp_path / "style.bin").write_bytes(b"x")
    for source, message in (
        (tmp_path, r"found style\.bin"),
        (tmp_path / "style.bin", "may run code"),
        (tmp_path / "nowhere", "expected a folder, a safetensors file or a hub id"),
    ):
        with pytest.raises(CheckpointError, match=message):
            generator.make_trainable(adapter=source)
    (tmp_path / FILE).write_bytes((style[0] / FILE).read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="should have .* bytes"):
        generator.make_trainable(adapter=tmp_path)
    styled("wan", tmp_path / "wan")
    with pytest.raises(CheckpointError, match="holds no adapter of transformer_2: .* put its adapter into"):
        fresh("wan22").make_trainable(adapter=tmp_path / "wan")


def test_an_adapter_on_the_hub(style, monkeypatch):
    asked = []

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns[0]))
        return str(style[0])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for source in ("owner/style", f"owner/style/{FILE}"):
        generator = fresh("sd3")
        generator.make_trainable(adapter=source)
        assert torch.equal(velocity(generator), style[1])
    assert asked == [("owner/style", FILE)] * 2
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(style[0].parent))
    with pytest.raises(CheckpointError, match="name its file, as in owner/style/FILE"):
        fresh("sd3").make_trainable(adapter="owner/style")


# --- pipelines that come with an adapter -----------------------------------------------------------------------------


def loaded(folder: Path, change: Callable[[Any], object] = lambda pipe: None) -> FlowGenerator:
    pipe = CASES["sd3"].build()
    pipe.load_lora_weights(folder, adapter_name="style")
    change(pipe)
    return wrap_pipeline(pipe, **CASES["sd3"].settings, guidance_scale=1.0)


@pytest.mark.parametrize("change", [lambda pipe: None, lambda pipe: pipe.fuse_lora()], ids=["active", "fused"])
@pytest.mark.parametrize("targets", [["proj_out"], None], ids=["other layers", "same layers"])
def test_a_loaded_adapter_stays_part_of_the_policy(change, targets, style, tmp_path):
    generator = loaded(style[0], change)
    before = velocity(generator)
    assert close(before, style[1])
    generator.weights.add_lora(rank=4, targets=targets)
    assert torch.equal(velocity(generator), before)
    disturb(generator)
    moved = velocity(generator)
    with generator.weights.using("reference"):
        assert torch.equal(velocity(generator), before)
    again = loaded(generator.save(tmp_path / "both"))
    assert close(velocity(again), moved)


def test_a_loaded_adapter_is_trained_with_all_weights(style, tmp_path):
    generator = loaded(style[0], lambda pipe: pipe.set_adapters("style", 0.5))
    before = velocity(generator)
    generator.weights.train_full()
    again = load_generator(generator.save(tmp_path / "full"), device="cpu")
    assert torch.equal(velocity(again), before)
    assert not close(before, style[1])


def test_adapters_that_would_be_lost_are_refused(style):
    def adapt_text(pipe: Any) -> None:
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), pipe.text_encoder)

    for change, message in (
        (lambda pipe: pipe.disable_lora(), "'style', which is not active"),
        (lambda pipe: pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"])), "'style'.*not active"),
        (adapt_text, r"text_encoder comes with an adapter.*fuse_lora"),
    ):
        with pytest.raises(GeneratorError, match=message):
            loaded(style[0], change)
    for config in (LoraConfig(r=2, target_modules=["to_q"], use_dora=True),):
        pipe = CASES["sd3"].build()
        pipe.transformer.add_adapter(config)
        with pytest.raises(GeneratorError, match="no plain LoRA"):
            wrap_pipeline(pipe, **CASES["sd3"].settings)
