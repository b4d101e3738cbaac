"""Architectures of published generators, from their public configs, so that planning them needs no download.

The values are those of the ``config.json`` files beside the weights, without the defaults of the classes. A folder that
`write_configs` makes is like the folder of a checkpoint, without the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexgym.core.errors import unknown_name
from flexgym.generators.folder import MODEL_INDEX

Component = tuple[str, str, Mapping[str, Any]]
"""Library, class and config of a module or scheduler."""


@dataclass(frozen=True)
class Architecture:
    """Describes a pipeline without its weights.

    Attributes:
        pipeline: name of the class in diffusers.
        components: modules and scheduler, by name.
        options: further values in ``model_index.json``.
    """

    pipeline: str
    components: Mapping[str, Component]
    options: Mapping[str, Any] = field(default_factory=dict)


def _diffusers(name: str, **config: Any) -> Component:
    return ("diffusers", name, config)


def _transformers(name: str, model_type: str, **config: Any) -> Component:
    return ("transformers", name, {"model_type": model_type, "architectures": [name], **config})


def _clip(name: str, width: int, *, layers: int, heads: int, projection: int, act: str = "quick_gelu") -> Component:
    return _transformers(
        name,
        "clip_text_model",
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=projection,
        hidden_act=act,
        vocab_size=49408,
        max_position_embeddings=77,
    )


def _t5(name: str, model_type: str, vocabulary: int) -> Component:
    """Describe the encoder of T5 1.1 XXL or umT5 XXL."""
    return _transformers(
        name,
        model_type,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
        vocab_size=vocabulary,
    )


def _autoencoder(scale: float, shift: float) -> Component:
    """Describe the autoencoder of FLUX.1 or of Stable Diffusion 3."""
    return _diffusers(
        "AutoencoderKL",
        block_out_channels=[128, 256, 512, 512],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
        latent_channels=16,
        sample_size=1024,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=scale,
        shift_factor=shift,
    )


_T5 = _t5("T5EncoderModel", "t5", 32128)
_CLIP_L: dict[str, Any] = {"layers": 12, "heads": 12, "projection": 768}

_FLUX1 = Architecture(
    "FluxPipeline",
    {
        "scheduler": _diffusers("FlowMatchEulerDiscreteScheduler", shift=3.0, use_dynamic_shifting=True),
        "text_encoder": _clip("CLIPTextModel", 768, **_CLIP_L),
        "text_encoder_2": _T5,
        "transformer": _diffusers("FluxTransformer2DModel", guidance_embeds=True),
        "vae": _autoencoder(0.3611, 0.1159),
    },
)
_FLUX2_KLEIN_9B = Architecture(
    "Flux2KleinPipeline",
    {
        "scheduler": _diffusers("FlowMatchEulerDiscreteScheduler", shift=3.0, use_dynamic_shifting=True),
        "text_encoder": _transformers(
            "Qwen3ForCausalLM",
            "qwen3",
            hidden_size=4096,
            intermediate_size=12288,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151936,
            tie_word_embeddings=False,
        ),
        "transformer": _diffusers(
            "Flux2Transformer2DModel",
            num_layers=8,
            num_single_layers=24,
            num_attention_heads=32,
            joint_attention_dim=12288,
            guidance_embeds=False,
        ),
        "vae": _diffusers("AutoencoderKLFlux2"),
    },
    {"is_distilled": False},
)
_SD35_MEDIUM = Architecture(
    "StableDiffusion3Pipeline",
    {
        "scheduler": _diffusers("FlowMatchEulerDiscreteScheduler", shift=3.0),
        "text_encoder": _clip("CLIPTextModelWithProjection", 768, **_CLIP_L),
        "text_encoder_2": _clip("CLIPTextModelWithProjection", 1280, layers=32, heads=20, projection=1280, act="gelu"),
        "text_encoder_3": _T5,
        "transformer": _diffusers(
            "SD3Transformer2DModel",
            num_layers=24,
            num_attention_heads=24,
            caption_projection_dim=1536,
            pos_embed_max_size=384,
            dual_attention_layers=list(range(13)),
            qk_norm="rms_norm",
        ),
        "vae": _autoencoder(1.5305, 0.0609),
    },
)
_QWEN_IMAGE = Architecture(
    "QwenImagePipeline",
    {
        "scheduler": _diffusers(
            "FlowMatchEulerDiscreteScheduler",
            use_dynamic_shifting=True,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift_terminal=0.02,
        ),
        "text_encoder": _transformers(
            "Qwen2_5_VLForConditionalGeneration",
            "qwen2_5_vl",
            text_config={
                "hidden_size": 3584,
                "intermediate_size": 18944,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "vocab_size": 152064,
            },
            vision_config={
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "out_hidden_size": 3584,
            },
            tie_word_embeddings=False,
        ),
        "transformer": _diffusers("QwenImageTransformer2DModel"),
        "vae": _diffusers("AutoencoderKLQwenImage"),
    },
)


def _wan(transformer: Component, second: Component | None = None, **options: Any) -> Architecture:
    components = {
        "scheduler": _diffusers(
            "UniPCMultistepScheduler", use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
        "text_encoder": _t5("UMT5EncoderModel", "umt5", 256384),
        "transformer": transformer,
        "vae": _diffusers("AutoencoderKLWan"),
    }
    return Architecture("WanPipeline", components | ({"transformer_2": second} if second else {}), options)


_WAN_1B = _diffusers("WanTransformer3DModel", num_attention_heads=12, ffn_dim=8960, num_layers=30)
_WAN_14B = _diffusers("WanTransformer3DModel")

PUBLISHED: Mapping[str, Architecture] = {
    "black-forest-labs/FLUX.1-dev": _FLUX1,
    "black-forest-labs/FLUX.2-klein-base-9B": _FLUX2_KLEIN_9B,
    "stabilityai/stable-diffusion-3.5-medium": _SD35_MEDIUM,
    "Qwen/Qwen-Image": _QWEN_IMAGE,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": _wan(_WAN_1B),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": _wan(_WAN_14B),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": _wan(_WAN_14B, _WAN_14B, boundary_ratio=0.875),
}


def write_configs(source: str, folder: Path) -> Path:
    """Write the config files of a published pipeline.

    Args:
        source: hub id, one of `PUBLISHED`.
        folder: folder to write into.

    Returns:
        The folder.

    Raises:
        UnknownNameError: the source is not one of `PUBLISHED`.
    """
    if source not in PUBLISHED:
        raise unknown_name("published architecture", source, PUBLISHED)
    architecture = PUBLISHED[source]
    index = {"_class_name": architecture.pipeline, **architecture.options}
    for name, (library, kind, config) in architecture.components.items():
        index[name] = [library, kind]
        file = "scheduler_config.json" if kind.endswith("Scheduler") else "config.json"
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_text(json.dumps({"_class_name": kind, **config}, indent=2), encoding="utf-8")
    (folder / MODEL_INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return folder
