"""A Qwen3-VL checkpoint of a few hundred kilobytes in the true format, or one of its relatives: random weights.

The weights are scaled so that the reply depends on the images and on the text, and the model can write printable
characters only, so that two decoders never differ over half a character.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
)

from flexgym.judge.backends.base import Picture

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CONTEXT = 4096
PATCH = 16
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{ message.content }}{%- else %}"
    "{%- for part in message.content %}"
    "{%- if part.type == 'image' or 'image' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>"
    "{%- elif 'text' in part %}{{ part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}{{ '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


_MROPE = {"rope_type": "default", "mrope_section": [8, 4, 4], "rope_theta": 10000.0}
# What the configurations of the kinds say about text and images beside `_TEXT` and `_VISION`.
KINDS = {
    "qwen2_vl": ({"rope_parameters": _MROPE}, {"embed_dim": 64, "mlp_ratio": 2}),
    "qwen2_5_vl": (
        {"rope_parameters": _MROPE},
        {"intermediate_size": 128, "out_hidden_size": 64, "window_size": 64, "fullatt_block_indexes": [1]},
    ),
    "qwen3_vl": (
        {"head_dim": 32, "rope_parameters": {**_MROPE, "mrope_interleaved": True}},
        {
            "intermediate_size": 128,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
    ),
    "qwen3_5": (
        {
            "head_dim": 32,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "rope_parameters": {
                **_MROPE,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
                "partial_rotary_factor": 0.25,
            },
        },
        {"intermediate_size": 128, "out_hidden_size": 64, "num_position_embeddings": 64},
    ),
}
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
}
_VISION = {
    "depth": 2,
    "hidden_size": 64,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def save_tiny_qwen_vl(
    folder: Path, *, kind: str = "qwen3_vl", seed: int = 0, stop_tokens: tuple[int, ...] = ()
) -> Path:
    """Write the checkpoint.

    Args:
        folder: to write into.
        kind: one of `KINDS`.
        seed: of the weights.
        stop_tokens: token ids that end a reply, beside the end of a turn.

    Returns:
        The folder.
    """
    tokenizer = _tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    model = _model(kind, ids, len(tokenizer), seed)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"], *stop_tokens],
        pad_token_id=ids["<|endoftext|>"],
        # What a backend must not take over.
        do_sample=True,
        temperature=0.7,
        top_k=20,
        top_p=0.8,
        repetition_penalty=1.5,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=2, temporal_patch_size=2, **_SIZES).save_pretrained(folder)
    _name_processors(folder)
    return folder


_SIZES = {
    "size": {"shortest_edge": 32 * 32, "longest_edge": 256 * 256},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def _name_processors(folder: Path) -> None:
    """The names of the classes as the published checkpoints write them, and the processor of videos."""
    path = folder / "preprocessor_config.json"
    images = json.loads(path.read_text())
    images |= {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"}
    path.write_text(json.dumps(images, indent=2))
    videos = {key: value for key, value in images.items() if key != "image_processor_type"}
    videos["video_processor_type"] = "Qwen3VLVideoProcessor"
    (folder / "video_preprocessor_config.json").write_text(json.dumps(videos, indent=2))


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, in the byte-level form of Qwen's tokenizer, and the special tokens."""
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[3:]),
        model_max_length=CONTEXT,
        chat_template=CHAT_TEMPLATE,
        processor_class="Qwen3VLProcessor",
    )


def _model(kind: str, ids: dict[str, int], size: int, seed: int) -> PreTrainedModel:
    text, vision = KINDS[kind]
    ends = {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    config = AutoConfig.for_model(
        kind,
        text_config={"vocab_size": size, **_TEXT, **text, **ends},
        vision_config={**_VISION, **vision},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
        model.lm_head.weight.mul_(4.0)
        # Printable characters stand for themselves in the byte-level alphabet, whose first 94 they are when sorted.
        model.lm_head.weight[94:] = 0.0
    return model


def picture(seed: int, size: tuple[int, int] = (64, 64), *, flat: bool = False) -> Picture:
    """An image of noise in blocks of 8 pixels, height by width, or all of one value."""
    height, width = size
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    if flat:
        pixels = np.full_like(pixels, seed)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return Picture(file.getvalue(), "image/png", hashlib.sha256(pixels.tobytes()).hexdigest())
