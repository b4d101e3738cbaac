"""Pipelines with small random modules: what diffusers ships, built offline in a tenth of a second."""

from __future__ import annotations

from functools import cache

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from flexgym.generators import FlowGenerator, wrap_pipeline

PROMPTS = ["a red cube", "a blue ball", "two green cones"]
_WORDS = ["<pad>", "<unk>", "<s>", "two", "a", "red", "blue", "green", "cube", "ball", "cones", "</s>"]
TOKENS = 16


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(_WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(mark, vocabulary[mark]) for mark in ("<s>", "</s>")]
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=TOKENS,
    )


def _clip(words: PreTrainedTokenizerFast) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=16,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


def sd3() -> StableDiffusion3Pipeline:
    """Pictures of 32x32 from latents of 4x16x16."""
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
    )
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
        sample_size=32,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder,
        text_encoder=_clip(words),
        tokenizer=words,
        text_encoder_2=_clip(words),
        tokenizer_2=words,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def wan(*, boundary_ratio: float | None = None) -> WanPipeline:
    """Videos of 5x32x32 from latents of 8x2x4x4."""
    torch.manual_seed(0)
    words = tokenizer()
    encoder = UMT5EncoderModel(
        UMT5Config(
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
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=8,
        out_channels=8,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    autoencoder = AutoencoderKLWan(
        base_dim=3,
        z_dim=8,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 8,
        latents_std=[1.7] * 8,
    )
    return WanPipeline(
        tokenizer=words,
        text_encoder=encoder,
        vae=autoencoder,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=transformer,
        boundary_ratio=boundary_ratio,
    )


def not_flow() -> StableDiffusion3Pipeline:
    """A pipeline whose scheduler is that of a diffusion model."""
    pipe = sd3()
    pipe.register_modules(scheduler=DDPMScheduler())
    return pipe


SETTINGS = {
    "sd3": {"num_steps": 3, "max_sequence_length": 4},
    "wan": {"num_steps": 3, "height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 8},
}
BUILDERS = {"sd3": sd3, "wan": wan}
FAMILIES = tuple(BUILDERS)


def fresh(family: str, *, guidance: float = 1.0) -> FlowGenerator:
    """A generator of one's own, to train."""
    return wrap_pipeline(BUILDERS[family](), **SETTINGS[family], guidance_scale=guidance)


@cache
def _loaded(family: str) -> FlowGenerator:
    return fresh(family)


def shared(family: str, *, guidance: float = 1.0) -> FlowGenerator:
    """A frozen generator that all tests share."""
    return _loaded(family).with_settings(guidance_scale=guidance)
