"""Load processors and models of vision-language judges, and select their trainable parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen3VLProcessor,
)

from flexgym.config.judge import JudgeModelSettings
from flexgym.core.errors import CheckpointError, unknown_name
from flexgym.core.pretrained import load_part, load_pretrained
from flexgym.judge.backends.local import CHECKPOINT_KIND, check_source

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Precisions that judges are trained and exported in, by name."""
_HINT = "Without network access, give the path of a checkpoint folder instead of a hub id."
_MEDIA = ("image", "video")


class PictureProcessor(Qwen3VLProcessor):
    """Processor of texts and images for Qwen-VL architectures (Qwen2-VL to Qwen3.5), without a video processor.

    Videos are sent as frames, and the video processor would need torchvision.

    Args:
        image_processor: processor that splits images into patches.
        tokenizer: tokenizer with the tokens ``<|image_pad|>``, ``<|video_pad|>``, ``<|vision_start|>`` and
            ``<|vision_end|>``.
        chat_template: chat template; None uses the tokenizer's.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
    ) -> None:
        assert tokenizer is not None
        for name, text in {
            **{f"{medium}_token": f"<|{medium}_pad|>" for medium in _MEDIA},
            **{f"vision_{end}_token": f"<|vision_{end}|>" for end in ("start", "end")},
        }.items():
            setattr(self, name, text)
            setattr(self, f"{name}_id", tokenizer.convert_tokens_to_ids(text))
        ProcessorMixin.__init__(
            self, image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template
        )

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Return the names of the processor's components."""
        return ["image_processor", "tokenizer"]


def load_processor(source: str | Path) -> PictureProcessor:
    """Load the tokenizer and the image processor of a checkpoint.

    Args:
        source: a folder or a hub id.

    Raises:
        CheckpointError: if the checkpoint is missing, incomplete, or of another architecture.
    """
    check_source(source)
    tokenizer = _load_part(AutoTokenizer, source)
    pictures = _load_part(AutoImageProcessor, source)
    if "image_grid_thw" not in pictures.model_input_names or tokenizer.chat_template is None:
        raise CheckpointError(
            f"{source}: expected a Qwen-VL checkpoint with a chat template; its image processor is"
            f" {type(pictures).__name__}"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return PictureProcessor(pictures, tokenizer)


def load_model(source: str | Path, dtype: str = "bfloat16") -> Any:
    """Load the weights of a checkpoint, from safetensors files only.

    Args:
        source: a folder or a hub id.
        dtype: ``"bfloat16"`` or ``"float32"``.

    Raises:
        CheckpointError: if the checkpoint is missing, incomplete, or of another architecture; the message names the
            tensors.
        UnknownNameError: if there is no such dtype.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    check_source(source)
    return load_pretrained(
        AutoModelForImageTextToText,
        source,
        what=CHECKPOINT_KIND,
        hint=_HINT,
        dtype=DTYPES[dtype],
        trust_remote_code=False,
    )


def make_trainable(model: Any, judge: JudgeModelSettings) -> Any:
    """Freeze the parameters of a model that do not train, and add an adapter in mode ``"lora"``.

    Args:
        model: model of transformers, changed in place.
        judge: settings that select the trainable parameters.

    Returns:
        The model, or a peft model around it.
    """
    if judge.mode == "lora":
        model.requires_grad_(False)
        adapter = LoraConfig(task_type="CAUSAL_LM", **judge.lora.model_dump(mode="json"))
        # The adapter is float32 whatever the frozen weights are: small steps would be lost in bfloat16.
        return get_peft_model(model, adapter, autocast_adapter_dtype=True)
    if not judge.train_vision:
        model.model.visual.requires_grad_(False)
    return model


def context_length(source: str | Path) -> int:
    """Read the context length of a model, in tokens, from its config alone.

    Raises:
        CheckpointError: if the config cannot be read.
    """
    check_source(source)
    config = _load_part(AutoConfig, source)
    return int(config.get_text_config().max_position_embeddings)


def _load_part(kind: Any, source: str | Path) -> Any:
    return load_part(kind, source, what=CHECKPOINT_KIND, hint=_HINT)
