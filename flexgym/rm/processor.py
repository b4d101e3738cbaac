"""Checkpoints of vision-language judges, loaded for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen3VLProcessor,
)

from flexgym.core.errors import CheckpointError, unknown_name
from flexgym.judge.backends.local import check_source
from flexgym.rm.precision import DTYPES

_MARKS = ("image", "video")


class PictureProcessor(Qwen3VLProcessor):
    """Text and pictures for the Qwen-VL kinds (Qwen2-VL to Qwen3.5), without the processor of videos.

    Videos are sent as frames, and the processor of videos would need torchvision.

    Args:
        image_processor: cuts pictures into patches.
        tokenizer: with the marks ``<|image_pad|>``, ``<|video_pad|>``, ``<|vision_start|>`` and ``<|vision_end|>``.
        chat_template: the tokenizer's when None.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
    ) -> None:
        assert tokenizer is not None
        for mark, text in {
            **{f"{mark}_token": f"<|{mark}_pad|>" for mark in _MARKS},
            **{f"vision_{end}_token": f"<|vision_{end}|>" for end in ("start", "end")},
        }.items():
            setattr(self, mark, text)
            setattr(self, f"{mark}_id", tokenizer.convert_tokens_to_ids(text))
        ProcessorMixin.__init__(
            self, image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template
        )

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts of the processor."""
        return ["image_processor", "tokenizer"]


def load_processor(source: str | Path) -> PictureProcessor:
    """Tokenizer and picture processor of a checkpoint.

    Args:
        source: a folder or a hub id.

    Raises:
        CheckpointError: missing, half written, or of another kind.
    """
    check_source(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        pictures = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(source, error) from error
    if "image_grid_thw" not in pictures.model_input_names or tokenizer.chat_template is None:
        raise CheckpointError(
            f"{source}: expected a checkpoint of the Qwen-VL kind with a chat template; its pictures are prepared by"
            f" {type(pictures).__name__}"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return PictureProcessor(pictures, tokenizer)


def load_model(source: str | Path, dtype: str = "bfloat16") -> Any:
    """The weights of a checkpoint, from safetensors files only.

    Args:
        source: a folder or a hub id.
        dtype: ``"bfloat16"`` or ``"float32"``.

    Raises:
        CheckpointError: missing, half written, or of another kind.
        UnknownNameError: no such dtype.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    check_source(source)
    try:
        return AutoModelForImageTextToText.from_pretrained(
            source, dtype=DTYPES[dtype], use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise _not_loaded(source, error) from error


def context_length(source: str | Path) -> int:
    """Tokens that the model can read and write together, by its config alone.

    Raises:
        CheckpointError: no config.
    """
    check_source(source)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(source, error) from error
    return int(config.get_text_config().max_position_embeddings)


def _not_loaded(source: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{str(source)!r} could not be loaded as a vision-language checkpoint in safetensors format: {error}. Without a"
        " network, give the path of a checkpoint folder in place of a hub id."
    )
