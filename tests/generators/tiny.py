"""Pipelines with small random modules: what diffusers ships, built offline in a tenth of a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTXVideo,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    ClassifierFreeGuidance,
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from flexgym.generators import FlowGenerator, wrap_pipeline
from flexgym.types import FirstFrame, Prompt

PROMPTS = ["a red cube", "a blue ball", "two green cones"]
_WORDS = ["<pad>", "<unk>", "<s>", "two", "a", "red", "blue", "green", "cube", "ball", "cones", "</s>"]
TOKENS = 16
FRAME = "_frame"
"""End of the names of families that make videos from their first frame."""
_SIGHT = {"height": 32, "width": 32}
_LLAVA_MARKS = ["<|start_header_id|>", "<|end_header_id|>", "\n\n", "<image>", ":"]
"""With those ahead of it, a prompt begins at token 103, as with the real tokenizer; its pipeline counts on that."""
_CHAT = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %} {% endfor %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(_WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(mark, vocabulary[mark]) for mark in ("<s>", "</s>")]
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        chat_template=_CHAT,
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=TOKENS,
    )


def _clip(
    words: PreTrainedTokenizerFast, kind: type = CLIPTextModelWithProjection, *, positions: int = TOKENS
) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        projection_dim=16,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return kind(config)


def _t5(words: PreTrainedTokenizerFast, kind: type = T5EncoderModel, config: type = T5Config) -> torch.nn.Module:
    return kind(
        config(
            vocab_size=len(words),
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
        )
    )


def _autoencoder(levels: int = 2) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
        sample_size=32,
    )


def sd3(*, third_encoder: bool = False) -> StableDiffusion3Pipeline:
    """Build a pipeline of 32x32 images from latents of 4x16x16."""
    torch.manual_seed(0)
    words = tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
        dual_attention_layers=(0,) if third_encoder else (),
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_autoencoder(),
        text_encoder=_clip(words),
        tokenizer=words,
        text_encoder_2=_clip(words),
        tokenizer_2=words,
        text_encoder_3=_t5(words) if third_encoder else None,
        tokenizer_3=words if third_encoder else None,
    )


def flux(*, distilled: bool = True) -> FluxPipeline:
    """Build a pipeline of 32x32 images from latents of 4x16x16, which the pipeline packs into tokens."""
    torch.manual_seed(0)
    words = tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=distilled,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_autoencoder(),
        text_encoder=_clip(words, CLIPTextModel),
        tokenizer=words,
        text_encoder_2=_t5(words),
        tokenizer_2=words,
        transformer=transformer,
    )


def _qwen_vl(words: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    text = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    }
    sight = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=sight))


def qwen_image() -> QwenImagePipeline:
    """Build a pipeline of 32x32 images from latents of 4x8x8, which the pipeline packs into tokens."""
    torch.manual_seed(0)
    words = tokenizer()
    autoencoder = AutoencoderKLQwenImage(
        base_dim=6,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1] * 4,
        latents_std=[1.7] * 4,
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    return QwenImagePipeline(
        scheduler=scheduler, vae=autoencoder, text_encoder=_qwen_vl(words), tokenizer=words, transformer=transformer
    )


_DECODER = {
    "vocab_size": len(_WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def _qwen3(layers: int) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**_DECODER, head_dim=8, num_hidden_layers=layers))


def _flux2_parts(guidance_embeds: bool) -> dict[str, Any]:
    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )
    torch.nn.init.uniform_(autoencoder.bn.running_mean)
    torch.nn.init.uniform_(autoencoder.bn.running_var, 0.5, 2.0)
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return {"vae": autoencoder, "transformer": transformer, "scheduler": scheduler, "tokenizer": tokenizer()}


def flux2() -> Flux2Pipeline:
    """Build a pipeline of 32x32 images from latents of 16x8x8; its text encoder is no Mistral (layers 10, 20, 30)."""
    torch.manual_seed(0)
    return Flux2Pipeline(**_flux2_parts(True), text_encoder=_qwen3(30))


def flux2_klein(*, is_distilled: bool = False) -> Flux2KleinPipeline:
    """Build a pipeline of 32x32 images from latents of 16x8x8."""
    torch.manual_seed(0)
    return Flux2KleinPipeline(**_flux2_parts(False), text_encoder=_qwen3(27), is_distilled=is_distilled)


def z_image() -> ZImagePipeline:
    """Build a pipeline of 32x32 images from latents of 4x16x16."""
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[128, 32, 32],
    )
    # the weights of padding tokens are not initialized
    torch.nn.init.normal_(transformer.x_pad_token)
    torch.nn.init.normal_(transformer.cap_pad_token)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_autoencoder(),
        text_encoder=_qwen3(2),
        tokenizer=tokenizer(),
        transformer=transformer,
    )


def lumina2() -> Lumina2Pipeline:
    """Build a pipeline of 32x32 images from latents of 4x4x4. The text encoder is not Gemma."""
    torch.manual_seed(0)
    transformer = Lumina2Transformer2DModel(
        sample_size=4,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(128, 8, 8),
        cap_feat_dim=16,
    )
    return Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_autoencoder(levels=4),
        text_encoder=LlamaModel(LlamaConfig(**_DECODER, num_hidden_layers=2)),
        tokenizer=tokenizer(),
    )


def sana() -> SanaPipeline:
    """Build a pipeline of 32x32 images from latents of 4x8x8. The text encoder is not Gemma."""
    torch.manual_seed(0)
    stages = {
        "block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
        "block_out_channels": (8, 8, 8),
        "qkv_multiscales": ((), (), (5,)),
        "layers_per_block": (1, 1, 1),
    }
    autoencoder = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        scaling_factor=0.5,
        **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in stages.items()},
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
        sample_size=8,
        timestep_scale=0.5,
    )
    return SanaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder,
        text_encoder=LlamaModel(LlamaConfig(**_DECODER, num_hidden_layers=2)),
        tokenizer=tokenizer(),
        transformer=transformer,
    )


def _hunyuan_parts(words: PreTrainedTokenizerFast, **config: Any) -> dict[str, Any]:
    autoencoder = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    transformer = HunyuanVideoTransformer3DModel(
        **{"in_channels": 4, "guidance_embeds": True, **config},
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=2,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(2, 4, 4),
    )
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "vae": autoencoder,
        "transformer": transformer,
        "tokenizer": words,
        "tokenizer_2": words,
        "text_encoder_2": _clip(words, CLIPTextModel, positions=77),
    }


def hunyuan_video() -> HunyuanVideoPipeline:
    """Videos of 5x32x32 from latents of 4x2x4x4."""
    torch.manual_seed(0)
    parts = _hunyuan_parts(tokenizer())
    return HunyuanVideoPipeline(**parts, text_encoder=LlamaModel(LlamaConfig(**_DECODER, num_hidden_layers=3)))


def _llava(words: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """It sees an image as 24x24 patches, as many as the pipeline counts on."""
    sight = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=48, patch_size=2
    )
    text = {**_DECODER, "vocab_size": len(words), "max_position_embeddings": 1024, "num_hidden_layers": 3}
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=sight,
            text_config=LlamaConfig(**text),
            image_token_index=words.convert_tokens_to_ids("<image>"),
            pad_token_id=words.pad_token_id,
        )
    )


def hunyuan_video_frame(kind: str = "token_replace") -> HunyuanVideoImageToVideoPipeline:
    """Videos from latents of 4xFx4x4 and a first frame, of F*4-3 frames; with ``latent_concat`` four fewer."""
    torch.manual_seed(0)
    words = tokenizer()
    words.add_tokens(_LLAVA_MARKS, special_tokens=True)
    # four channels of latents and one of a mask beside those of the sample
    config = {"in_channels": 9, "guidance_embeds": False} if kind == "latent_concat" else {}
    eyes = CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    parts = _hunyuan_parts(words, image_condition_type=kind, **config)
    return HunyuanVideoImageToVideoPipeline(**parts, text_encoder=_llava(words), image_processor=eyes)


def hunyuan_video15(*, first_frame: bool = False) -> HunyuanVideo15Pipeline | HunyuanVideo15ImageToVideoPipeline:
    """Videos of 5x32x32 from latents of 4x2x2x2. The text encoder is that of Qwen-Image without its eyes."""
    torch.manual_seed(0)
    words = tokenizer()
    autoencoder = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1)
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_refiner_layers=1,
        text_embed_dim=32,
        text_embed_2_dim=32,
        image_embed_dim=16,
        rope_axes_dim=(2, 4, 4),
        target_size=32,
    )
    parts = {
        "text_encoder": _qwen_vl(words).model.language_model,
        "tokenizer": words,
        "text_encoder_2": _t5(words),
        "tokenizer_2": words,
        "transformer": transformer,
        "vae": autoencoder,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }
    sight = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    if first_frame:
        eyes = {"image_encoder": SiglipVisionModel(sight), "feature_extractor": SiglipImageProcessor(size=_SIGHT)}
        pipe = HunyuanVideo15ImageToVideoPipeline(**parts, **eyes)
    else:
        pipe = HunyuanVideo15Pipeline(**parts)
    shorten(pipe)
    return pipe


def shorten(pipe: DiffusionPipeline) -> None:
    """Let HunyuanVideo 1.5 take fewer tokens than the real ones, whose number is in no config."""
    if hasattr(pipe, "vision_num_semantic_tokens"):
        pipe.prompt_template_encode_start_idx, pipe.tokenizer_max_length = 72, 24
        pipe.tokenizer_2_max_length, pipe.vision_num_semantic_tokens = 8, 4


def ltx(*, timestep_conditioning: bool = False, kind: type = LTXPipeline) -> LTXPipeline | LTXImageToVideoPipeline:
    """Videos of 5x32x32 from latents of 8x2x8x8, which the pipeline packs into tokens."""
    torch.manual_seed(0)
    words = tokenizer()
    autoencoder = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        timestep_conditioning=timestep_conditioning,
        patch_size=1,
    )
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=32,
    )
    return kind(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder,
        text_encoder=_t5(words),
        tokenizer=words,
        transformer=transformer,
    )


def _wan_transformer(**config: Any) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        **{"in_channels": 8, **config},
        out_channels=8,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )


def _wan_autoencoder() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=3,
        z_dim=8,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 8,
        latents_std=[1.7] * 8,
    )


def wan(*, boundary_ratio: float | None = None, second: bool = True, expand_timesteps: bool = False) -> WanPipeline:
    """Videos of 5x32x32 from latents of 8x2x4x4."""
    torch.manual_seed(0)
    words = tokenizer()
    return WanPipeline(
        tokenizer=words,
        text_encoder=_t5(words, UMT5EncoderModel, UMT5Config),
        vae=_wan_autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=_wan_transformer(),
        transformer_2=_wan_transformer() if boundary_ratio and second else None,
        boundary_ratio=boundary_ratio,
        expand_timesteps=expand_timesteps,
    )


def wan_frame(
    *, clip: bool = True, boundary_ratio: float | None = None, expand_timesteps: bool = False
) -> WanImageToVideoPipeline:
    """Videos of 5x32x32 from latents of 8x2x4x4 and a first frame: of Wan 2.1 with ``clip``, else of Wan 2.2."""
    torch.manual_seed(0)
    words = tokenizer()
    sight = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    # four channels of a mask and eight of latents beside those of the sample
    config = {} if expand_timesteps else {"in_channels": 20, "image_dim": 16 if clip else None}
    return WanImageToVideoPipeline(
        tokenizer=words,
        text_encoder=_t5(words, UMT5EncoderModel, UMT5Config),
        vae=_wan_autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_SIGHT) if clip else None,
        image_encoder=CLIPVisionModel(sight) if clip else None,
        transformer=_wan_transformer(**config),
        transformer_2=_wan_transformer(**config) if boundary_ratio else None,
        boundary_ratio=boundary_ratio,
        expand_timesteps=expand_timesteps,
    )


def not_flow() -> StableDiffusion3Pipeline:
    """A pipeline whose scheduler is that of a diffusion model."""
    pipe = sd3()
    pipe.register_modules(scheduler=DDPMScheduler())
    return pipe


@dataclass(frozen=True)
class Case:
    """A pipeline to test with.

    Attributes:
        build: makes it.
        settings: how it samples.
        guidance: the setting that weighs the two branches of classifier-free guidance.
    """

    build: Callable[[], DiffusionPipeline]
    settings: dict[str, Any]
    guidance: str = "guidance_scale"


_PICTURE = {"num_steps": 3, "height": 32, "width": 32, "max_sequence_length": 8}
_VIDEO = {**_PICTURE, "num_frames": 5}
CASES = {
    "sd3": Case(sd3, {"num_steps": 3, "max_sequence_length": 4}),
    "sd35": Case(partial(sd3, third_encoder=True), _PICTURE),
    "flux": Case(flux, _PICTURE, guidance="true_cfg_scale"),
    "qwen_image": Case(qwen_image, _PICTURE),
    "wan": Case(wan, _VIDEO),
    # the first of three steps lies above the boundary, the others below
    "wan22": Case(partial(wan, boundary_ratio=0.9), _VIDEO),
    "wan22_ti2v": Case(partial(wan, expand_timesteps=True), _VIDEO),
    "flux2": Case(flux2, {**_PICTURE, "max_sequence_length": 64}),
    "flux2_klein": Case(flux2_klein, _PICTURE),
    "z_image": Case(z_image, {**_PICTURE, "max_sequence_length": 40}),
    "sana": Case(sana, _PICTURE),
    "hunyuan_video": Case(hunyuan_video, {**_VIDEO, "max_sequence_length": 40}, guidance="true_cfg_scale"),
    "hunyuan_video_frame": Case(hunyuan_video_frame, {**_VIDEO, "max_sequence_length": 40}, guidance="true_cfg_scale"),
    "hunyuan_video_concat_frame": Case(
        partial(hunyuan_video_frame, "latent_concat"),
        {**_VIDEO, "num_frames": 9, "max_sequence_length": 40},
        guidance="true_cfg_scale",
    ),
    "ltx": Case(ltx, _VIDEO),
    "lumina2": Case(lumina2, {**_PICTURE, "max_sequence_length": 48}),
    "hunyuan_video15": Case(hunyuan_video15, _VIDEO),
    "wan21_frame": Case(wan_frame, _VIDEO),
    "wan22_frame": Case(partial(wan_frame, clip=False, boundary_ratio=0.9), _VIDEO),
    "wan22_ti2v_frame": Case(partial(wan_frame, clip=False, expand_timesteps=True), _VIDEO),
    "ltx_frame": Case(partial(ltx, kind=LTXImageToVideoPipeline), _VIDEO),
    "hunyuan_video15_frame": Case(partial(hunyuan_video15, first_frame=True), _VIDEO),
}


QUICK = ("sd3", "flux", "wan22", "ltx_frame")
"""Families that every run of the tests covers: images, embedded guidance, two experts, a first frame. The others are in
the slow half."""


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    """Marks for the tests of a family: slow, unless it is quick."""
    return [] if name in QUICK else [pytest.mark.slow]


def families(*names: str) -> list[Any]:
    """Parameters for a test that runs over the named families."""
    return [pytest.param(name, marks=marks_of(name)) for name in names]


FAMILIES = families(*CASES)


def picture(seed: int = 0, height: int = 32, width: int = 32) -> FirstFrame:
    """A first frame of noise."""
    return FirstFrame(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def prompts_for(family: str, texts: Sequence[str] = PROMPTS, *, seed: int = 0) -> list[Prompt]:
    """Prompts as a family takes them: each with a first frame of its own where it has them."""
    frames = [picture(seed + at) if family.endswith(FRAME) else None for at in range(len(texts))]
    return [Prompt(text, first_frame=frame) for text, frame in zip(texts, frames, strict=True)]


def fresh(family: str, *, guidance: float = 1.0, dtype: torch.dtype = torch.float32) -> FlowGenerator:
    """A generator of one's own, to train."""
    case = CASES[family]
    return wrap_pipeline(case.build().to(dtype), **{**case.settings, case.guidance: guidance})


@cache
def _loaded(family: str, dtype: torch.dtype) -> FlowGenerator:
    return fresh(family, dtype=dtype)


def shared(family: str, *, guidance: float = 1.0, dtype: torch.dtype = torch.float32) -> FlowGenerator:
    """A frozen generator that all tests share."""
    return _loaded(family, dtype).with_settings(**{CASES[family].guidance: guidance})
