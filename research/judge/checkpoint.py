"""The checkpoint of the small judge: a Qwen3-VL folder with small modules and a tokenizer of its own, untrained."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from flexgym.judge.dialect import FLEX
from flexgym.judge.sources import CONFIG_NAME, JudgeConfig
from flexgym.shapes.brief import pieces, words
from flexgym.shapes.captions import vocabulary
from flexgym.shapes.scenes import SIZE
from flexgym.types import Modality

NUM_FRAMES = 9
"""Frames per video: all there are, since one of them may decide."""
ASKED = JudgeConfig(inputs={"num_frames": NUM_FRAMES, "format": "png"}, decoding={"max_tokens": 160}, batch_size=128)
"""How the judge is asked, as its folder says; JPEG would blur the colors of images this small."""
CONTEXT = 640
"""Tokens of a request and its reply; those of two videos take some 400."""
PATCH = 4
DESCRIBE = "Say what this shows, and what of the caption it misses. The caption: "
"""The text below a single sample in the first phase of training, before a caption as a JSON string."""

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_CHAT_TEMPLATE = (
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
_SENTINEL = "~"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer for any text, in which the text of the small world takes few tokens.

    Every word of the captions and of the assessments is one token; so is each fixed piece of an assessment, and each
    part of the built-in wording around the caption.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    said = [*vocabulary(), *(word for text in words() for word in text.split())]
    texts = [*said, *(f" {word}" for word in said)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Each word once: its frequency must not decide whether it becomes a token.
    spans = ((text, span) for text in texts for _, span in core.pre_tokenizer.pre_tokenize_str(text))
    core.train_from_iterator(
        sorted({text[slice(*span)] for text, span in spans}),
        trainers.BpeTrainer(vocab_size=4096, initial_alphabet=alphabet, show_progress=False),
    )
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    core.add_tokens([AddedToken(text, normalized=False) for text in (*pieces(), *wording(), DESCRIBE)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[3:]),
        model_max_length=CONTEXT,
        chat_template=_CHAT_TEMPLATE,
        processor_class="Qwen3VLProcessor",
    )


def wording() -> list[str]:
    """Return the built-in text of a request before and after the caption, for images and for videos."""
    counts: dict[Modality, int] = {"image": 1, "video": NUM_FRAMES}
    texts = [FLEX.template(kind).fill(_SENTINEL, kind, (count, count)) for kind, count in counts.items()]
    return [part for text in texts for part in text.split(json.dumps(_SENTINEL))]


def build_judge(*, width: int = 128, layers: int = 5) -> tuple[Qwen3VLForConditionalGeneration, Any]:
    """Build a model with random weights, and its tokenizer.

    Args:
        width: of the language model, a multiple of 64.
        layers: of the language model.
    """
    tokenizer = build_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen3VLConfig(
        text_config=_text_config(len(tokenizer), ids, width=width, layers=layers),
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 3,
            "out_hidden_size": width,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": (SIZE // PATCH) ** 2,
            "deepstack_visual_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"], do_sample=False
    )
    return model, tokenizer


def _text_config(vocabulary: int, ids: dict[str, int], *, width: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": width // 64,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [8, 4, 4],
            "mrope_interleaved": True,
            "rope_theta": 10000.0,
        },
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": True,
    }


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Build a processor that resizes images to about the size of the small world's and splits them into patches.

    With these bounds, every image that is about square gets 32 x 32 pixels, even if a little was cut off.
    """
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 25 * SIZE, "longest_edge": 39 * SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def save_judge(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Write a folder that transformers and vLLM load.

    Args:
        model: of `build_judge`, in float32.
        tokenizer: that it was built with.
        folder: to write into; made when missing.
    """
    model.to(torch.float32).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    build_image_processor().save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    # the names of the classes as the published checkpoints write them
    images = json.loads(path.read_text())
    images |= {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"}
    path.write_text(json.dumps(images, indent=2) + "\n")
    videos = {key: value for key, value in images.items() if key != "image_processor_type"}
    videos["video_processor_type"] = "Qwen3VLVideoProcessor"
    (folder / "video_preprocessor_config.json").write_text(json.dumps(videos, indent=2) + "\n")
    (folder / CONFIG_NAME).write_text(json.dumps(asdict(ASKED), indent=2) + "\n")
    return folder
