from __future__ import annotations

import json
import re
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, WanPipeline
from safetensors.torch import load_file, save_file

from flexgym.core.errors import CheckpointError, ConfigError, GeneratorError, UnknownNameError
from flexgym.generators import families as families_package
from flexgym.generators import load_generator, wrap_pipeline
from flexgym.generators.families import families
from tests.generators.tiny import CASES, FAMILIES, flux2_klein, not_flow, sd3, shared, wan
from tests.generators.tiny import families as families_of


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "sd3"
    sd3().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_families_are_found_by_themselves():
    assert {"StableDiffusion3Pipeline", "WanPipeline"} <= set(families())


def test_settings_come_from_call_then_checkpoint_then_user(folder):
    generator = load_generator(folder)
    settings = generator.settings
    assert (settings.num_steps, settings.guidance_scale, settings.height, settings.max_sequence_length) == (
        28,
        7.0,
        32,
        256,
    )
    config = {"num_steps": 6, "guidance_scale": 2.0, "max_sequence_length": 4}
    (folder / "generation_config.json").write_text(json.dumps(config))
    settings = load_generator(folder, num_steps=3, guidance_scale=None).settings
    assert (settings.num_steps, settings.guidance_scale, settings.height, settings.max_sequence_length) == (
        3,
        2.0,
        32,
        4,
    )


def test_loaded_modules_are_frozen_in_the_asked_precision(folder):
    generator = load_generator(folder, dtype="bfloat16", num_steps=2, max_sequence_length=4)
    modules = [part for part in generator.pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert len(modules) == 4
    assert not any(module.training or value.requires_grad for module in modules for value in module.parameters())
    assert generator.pipe.transformer.dtype == torch.bfloat16
    velocity = generator.velocity(generator.initial_latents(1, 0), torch.ones(1), generator.condition(["a red cube"]))
    assert velocity.dtype == torch.float32


@pytest.mark.parametrize("source", ["shapes-t2i", "shapes-t2v"])
def test_channels_last_changes_the_layout_and_hardly_the_samples(source):
    stock, relaid = load_generator(source), load_generator(source, channels_last=True)
    latents = torch.cat([stock.initial_latents(2, seed) for seed in range(2)])
    difference = stock.decode(latents).astype(int) - relaid.decode(latents)
    assert abs(difference).max() <= 1
    kernels = [weight for weight in relaid.pipe.vae.parameters() if weight.ndim >= 4 and weight.shape[-1] > 1]
    assert kernels
    assert all(weight.stride(1) == 1 for weight in kernels)


def test_unknown_settings_name_the_nearest(folder):
    with pytest.raises(UnknownNameError, match="Did you mean 'num_steps'"):
        load_generator(folder, num_step=3)
    (folder / "generation_config.json").write_text('{"guidance": 2.0}')
    with pytest.raises(UnknownNameError, match="guidance_scale"):
        load_generator(folder)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_generator(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 33}, "height must be a multiple of 4, got 33; the nearest are 32 and 36"),
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
        ({"num_steps": True}, "num_steps"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"num_frames": 5}, "makes images"),
    ],
)
def test_pictures_of_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        shared("sd3").with_settings(**settings)


def test_frames_that_the_autoencoder_cannot_make():
    with pytest.raises(ConfigError, match="got 7; the nearest are 5 and 9"):
        shared("wan").with_settings(num_frames=7)
    assert shared("wan").with_settings(num_frames=9).sample_shape == (9, 32, 32, 3)


def test_a_view_shares_the_modules():
    generator = shared("sd3")
    view = generator.with_settings(num_steps=5)
    assert view.pipe.transformer is generator.pipe.transformer
    assert (len(view.sigmas()), len(generator.sigmas())) == (6, 4)
    assert generator.with_settings(num_steps=3) is generator


def test_missing_and_foreign_folders(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_generator(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no model_index.json"):
        load_generator(tmp_path)
    with pytest.raises(CheckpointError, match="shapes-t2i"):
        load_generator("shapes/t2i")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def drop_shard(folder):
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    index = {"weight_map": {"a": weights.name, "b": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
    (weights.parent / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


BREAKAGES = {
    "no weights": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        "safetensors format in .*vae",
    ),
    "cut weights": (lambda f: cut(f / "transformer" / "diffusion_pytorch_model.safetensors"), "should have .* bytes"),
    "cut header": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(struct.pack("<Q", 99) + b"{"),
        "ends within its header",
    ),
    "missing shard": (drop_shard, "00002-of-00002.*missing"),
    "no component": (lambda f: shutil.rmtree(f / "text_encoder_2"), "'text_encoder_2'.*its folder is missing"),
    "no component config": (lambda f: (f / "transformer" / "config.json").unlink(), "config.json.*missing"),
    "no scheduler config": (lambda f: (f / "scheduler" / "scheduler_config.json").unlink(), "scheduler_config.json"),
    "no tokenizer config": (lambda f: (f / "tokenizer" / "tokenizer_config.json").unlink(), "tokenizer_config.json"),
    "cut index": (lambda f: cut(f / "model_index.json"), "model_index.json is not valid JSON"),
    "pickled weights": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").rename(f / "vae" / "diffusion_pytorch_model.bin"),
        r"found only diffusion_pytorch_model\.bin",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_half_written_folders_are_refused(breakage, folder):
    destroy, message = BREAKAGES[breakage]
    destroy(folder)
    with pytest.raises(CheckpointError, match=message):
        load_generator(folder)


# --- complete weights ------------------------------------------------------------------------------------------------

PARTS = {
    "text_encoder": ("model.safetensors", "CLIPTextModelWithProjection"),
    "transformer": ("diffusion_pytorch_model.safetensors", "SD3Transformer2DModel"),
    "vae": ("diffusion_pytorch_model.safetensors", "AutoencoderKL"),
}
CHANGES = {
    "missing": (lambda tensors: tensors.pop("LAST"), "lacks 1 weights of a {kind}, such as LAST"),
    "unexpected": (
        lambda tensors: tensors.update(extra=torch.ones(2)),
        "has 1 weights that a {kind} has no place for, such as extra",
    ),
    "misshapen": (
        lambda tensors: tensors.update(LAST=torch.ones(3, 5)),
        r"has 1 weights of another shape than those of a {kind}, such as LAST \(3, 5\) in place of",
    ),
}


def altered(path, change, message):
    """Change the weights of a file, where LAST is its last tensor, and return the message with its name."""
    tensors = load_file(path)
    last = list(tensors)[-1]
    tensors["LAST"] = tensors.pop(last)
    change(tensors)
    if "LAST" in tensors:
        tensors[last] = tensors.pop("LAST")
    save_file(tensors, path, {"format": "pt"})
    return message.replace("LAST", re.escape(last))


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_not_those_of_their_part_are_refused_by_name(part, kind, folder):
    change, message = CHANGES[kind]
    file, name = PARTS[part]
    message = altered(folder / part / file, change, message.format(kind=name))
    with pytest.raises(CheckpointError, match=rf"{part}' {message}"):
        load_generator(folder)


@pytest.mark.parametrize("family", families_of("wan", "hunyuan_video_frame"))
def test_parts_of_every_library_are_checked(family, tmp_path):
    """Tied weights may be absent, here the second name of an embedding; an image encoder and Llava are checked too."""
    CASES[family].build().save_pretrained(tmp_path / "pipe")
    encoder = tmp_path / "pipe" / "text_encoder" / "model.safetensors"
    assert load_generator(tmp_path / "pipe", device="cpu", **CASES[family].settings)
    altered(encoder, *CHANGES["missing"])
    with pytest.raises(CheckpointError, match=r"text_encoder' lacks [12] weights of a \w+, such as [\w.]+"):
        load_generator(tmp_path / "pipe")


def test_buffers_that_a_model_computes_itself_may_be_in_the_file(folder):
    file = folder / "text_encoder" / "model.safetensors"
    save_file({**load_file(file), "text_model.embeddings.position_ids": torch.arange(16)[None]}, file, {"format": "pt"})
    load_generator(folder)


def test_sharded_weights_are_those_of_their_index(folder):
    shutil.rmtree(folder / "transformer")
    sd3().transformer.save_pretrained(folder / "transformer", max_shard_size="40KB")
    whole, parts = load_generator(folder), sorted((folder / "transformer").glob("*-of-*.safetensors"))
    assert len(parts) > 1
    assert all(
        torch.equal(one, other)
        for one, other in zip(whole.pipe.transformer.parameters(), sd3().transformer.parameters(), strict=True)
    )
    tensors = load_file(parts[0])
    lost = sorted(tensors)[0]
    save_file({name: value for name, value in tensors.items() if name != lost}, parts[0], {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{parts[0].name} lacks the tensor {re.escape(lost)}, which the index"):
        load_generator(folder)


def test_files_of_a_variant(folder):
    plain = load_generator(folder).pipe.transformer.state_dict()
    half = sd3().to(torch.float16)
    for part in PARTS:
        getattr(half, part).save_pretrained(folder / part, variant="fp16")
    found = load_generator(folder, variant="fp16").pipe
    assert all(torch.equal(value, plain[name].half().float()) for name, value in found.transformer.state_dict().items())
    assert found.text_encoder_2.dtype == torch.float32, "a component without the variant is read from its plain file"
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="found only the variant fp16: set variant=fp16"):
        load_generator(folder)
    with pytest.raises(CheckpointError, match=r"variant 'bf16'.*fp16"):
        load_generator(folder, variant="bf16")
    with pytest.raises(ConfigError, match=r"variant: expected the word before \.safetensors"):
        load_generator(folder, variant="../fp16")


def test_a_tokenizer_that_needs_sentencepiece_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    (folder / "tokenizer" / "spiece.model").touch()
    load_generator(folder, **CASES["sd3"].settings)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer, found only spiece\.model.*'flexgym\[sentencepiece\]'"):
        load_generator(folder)


def test_what_is_not_flow_matching_is_refused(tmp_path):
    with pytest.raises(GeneratorError, match="got DDPMScheduler"):
        wrap_pipeline(not_flow())
    not_flow().save_pretrained(tmp_path / "ddpm")
    with pytest.raises(GeneratorError, match="got DDPMScheduler"):
        load_generator(tmp_path / "ddpm")


def test_other_modalities_families_and_kinds_are_refused(folder):
    with pytest.raises(GeneratorError, match="use FlexT2I-v0"):
        load_generator(folder, modality="video")
    with pytest.raises(UnknownNameError, match="Did you mean 'video'"):
        load_generator(modality="vidio")
    with pytest.raises(UnknownNameError, match="Did you mean 'bfloat16'"):
        load_generator(folder, dtype="bf16loat")
    with pytest.raises(GeneratorError, match=r"expected a transformer_2 .* below boundary_ratio=0\.9"):
        wrap_pipeline(wan(boundary_ratio=0.9, second=False), **CASES["wan"].settings)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "WanPipelin"}))
    with pytest.raises(GeneratorError, match="Did you mean 'WanPipeline'"):
        load_generator(folder)


class PlainPipeline(WanPipeline):
    """One that the general adapter fits."""


class PooledPipeline(StableDiffusion3Pipeline):
    """One whose transformer needs more than the general adapter hands over."""


def upside_down():
    """A pipeline that does something else after the last step."""
    pipe = PlainPipeline(**wan().components)
    finish = pipe.video_processor.postprocess_video
    pipe.video_processor.postprocess_video = lambda video, **options: finish(video.flip(3), **options)
    return pipe


def test_a_pipeline_without_a_family_is_served_where_the_general_adapter_fits():
    stock = shared("wan", guidance=3.0)
    generator = wrap_pipeline(PlainPipeline(**wan().components), **CASES["wan"].settings, guidance_scale=3.0)
    assert generator.modality == "video"
    latents = generator.initial_latents(1, 0)
    velocities = [view.velocity(latents, torch.ones(1), view.condition(["a red cube"])) for view in (generator, stock)]
    assert torch.equal(*velocities)


@pytest.mark.parametrize(
    ("pipe", "message"),
    [
        (lambda: PooledPipeline(**sd3().components), "PooledPipeline has no family here.*AttributeError"),
        (upside_down, "guidance_scale=1.0 its decoded samples differ"),
    ],
)
def test_a_pipeline_that_needs_a_family_says_so(pipe, message):
    settings = {"height": 32, "width": 32}
    with pytest.raises(GeneratorError, match=rf"(?s){message}.*docs/adding_a_generator\.md"):
        wrap_pipeline(pipe(), **settings)


def test_a_pipeline_without_a_scheduler(folder):
    pipe = sd3()
    pipe.scheduler = None
    with pytest.raises(GeneratorError, match="has no scheduler"):
        wrap_pipeline(pipe)
    index = json.loads((folder / "model_index.json").read_text())
    del index["scheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(GeneratorError, match="has no scheduler: expected one of flow matching"):
        load_generator(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_that_cannot_be_made(family):
    generator = shared(family)
    multiple = generator.family.size_multiple()
    with pytest.raises(ConfigError, match=f"width must be a multiple of {multiple}, got {multiple + 1}"):
        generator.with_settings(width=multiple + 1)
    if generator.modality == "video":
        with pytest.raises(ConfigError, match="num_frames must be 1 more than a multiple of .*, got 3; the nearest"):
            generator.with_settings(num_frames=3)


def test_one_weight_of_guidance_or_two():
    assert shared("flux").settings.guidance_scale == 3.5
    assert shared("qwen_image").settings.guidance_scale == 1.0
    for family in ("sd3", "qwen_image", "flux2"):
        with pytest.raises(ConfigError, match="one weight of guidance: pass guidance_scale"):
            shared(family).with_settings(true_cfg_scale=2.0)
    distilled = wrap_pipeline(flux2_klein(is_distilled=True), **CASES["flux2_klein"].settings, guidance_scale=4.0)
    assert not distilled.family.guided


def test_a_family_is_short(record_property):
    """What it takes more than this belongs into the general adapter."""
    folder = Path(families_package.__file__).parent
    lines = {path.stem: len(path.read_text().splitlines()) for path in folder.glob("[!_]*.py")}
    for name, count in sorted(lines.items()):
        record_property(name, count)
        print(f"{name:16} {count}")
    assert max(lines.values()) <= 80


def test_reading_a_spec_copies_no_weights():
    import copy

    generator = shared("sd3")
    assert copy.deepcopy({"generator": generator})["generator"] is generator
