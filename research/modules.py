"""The small pipelines of the embedded world, untrained: standard diffusers classes with small modules."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from flexgym.shapes.captions import vocabulary as caption_words
from flexgym.shapes.scenes import FRAMES, SIZE

TOKENS = 24
"""Text tokens: the longest caption has 22 words and marks, with a beginning and an end."""
SHIFT = 2.0
SHIFT_TERMINAL = 0.1
"""Noise level of the last step: without it the grid of stock SD3 ends in a step that does next to nothing."""
GENERATION: dict[str, dict[str, Any]] = {
    "t2i": {
        "num_steps": 8,
        "guidance_scale": 1.0,
        "height": SIZE,
        "width": SIZE,
        "max_sequence_length": 1,
    },
    "t2v": {
        "num_steps": 8,
        "guidance_scale": 1.0,
        "height": SIZE,
        "width": SIZE,
        "num_frames": FRAMES,
        "max_sequence_length": TOKENS,
    },
}
"""Sampling defaults that each folder carries in ``generation_config.json``. The image pipeline has no T5 encoder, so
the sequence that stock SD3 fills with zeros for it is kept at one token."""


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token for each word and mark of the small world's captions."""
    # transformers takes the end of text to be the largest id when that of "</s>" is 2, as in old CLIP checkpoints
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", *caption_words(), "<s>", "</s>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TOKENS,
    )


def _clip(tokenizer: PreTrainedTokenizerFast, width: int) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


def build_t2i(*, width: int = 96, layers: int = 4) -> StableDiffusion3Pipeline:
    """Build a small text-to-image pipeline of Stable Diffusion 3's form, with random weights.

    Args:
        width: channels of the transformer, a multiple of 32.
        layers: joint transformer blocks.
    """
    tokenizer = word_tokenizer()
    encoders = [_clip(tokenizer, width // 2) for _ in range(2)]
    autoencoder = AutoencoderKL(
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=8,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=SIZE,
        shift_factor=0.0,
        scaling_factor=1.0,
    )
    transformer = SD3Transformer2DModel(
        sample_size=SIZE // 4,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=width // 32,
        joint_attention_dim=width,
        caption_projection_dim=width,
        pooled_projection_dim=width,
        pos_embed_max_size=SIZE // 8,
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT, shift_terminal=SHIFT_TERMINAL),
        vae=autoencoder,
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def build_t2v(*, width: int = 96, layers: int = 5) -> WanPipeline:
    """Build a small text-to-video pipeline of Wan's form, with random weights.

    Args:
        width: channels of the transformer, a multiple of 32.
        layers: transformer blocks.
    """
    tokenizer = word_tokenizer()
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=32,
            d_ff=2 * width,
            num_layers=2,
            num_heads=width // 32,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            dropout_rate=0.0,
            tie_word_embeddings=False,
        )
    )
    channels = 16
    autoencoder = AutoencoderKLWan(
        base_dim=12,
        z_dim=channels,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        scale_factor_spatial=4,
        latents_mean=[0.0] * channels,
        latents_std=[1.0] * channels,
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=width // 32,
        attention_head_dim=32,
        in_channels=channels,
        out_channels=channels,
        text_dim=width,
        freq_dim=64,
        ffn_dim=3 * width,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=autoencoder,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT, shift_terminal=SHIFT_TERMINAL),
        transformer=transformer,
    )
