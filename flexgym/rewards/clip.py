"""Shared code of the rewards by CLIP models of text and image: CLIPScore, PickScore and HPSv2.

Scores come from the full forward pass, not from ``get_image_features``, whose return value has changed between
versions of transformers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoTokenizer, CLIPModel

from flexgym.core.errors import ConfigError
from flexgym.core.typed import Count
from flexgym.rewards.checkpoints import Dtype, load_model, load_part
from flexgym.rewards.clip_text import OPENAI_MARKS, ClipTokens
from flexgym.rewards.image_model import ImageModelReward, Scorer, at_least_float32
from flexgym.rewards.preprocessing import DifferentiablePreprocessor, PillowCrop


@dataclass(frozen=True, eq=False)
class Matches:
    """Similarity of a text and N images by a CLIP model.

    Attributes:
        cosines: cosine of the text with each image, ``[N]`` in float32 at least.
        scale: factor that the model multiplies them with, ``exp(logit_scale)``.
    """

    cosines: torch.Tensor
    scale: float


class ClipReward(ImageModelReward):
    """Base of scores of text and image by a CLIP model. Subclasses define model and formula; videos score the mean.

    Args:
        model: a folder or hub id in the format of transformers; the subclass's own by default.
        num_frames: number of uniformly spaced frames of a video that are scored.
        processor: a folder or hub id with tokenizer and image processor, if the model has none.
        device: name of a torch device; by default the first GPU if there is one.
        dtype: precision of the weights.
        batch_size: maximum number of images in one forward pass.

    Raises:
        CheckpointError: if the model cannot be loaded.
    """

    default_model: ClassVar[str] = ""
    default_processor: ClassVar[str | None] = None
    preprocessor: ClassVar[type[DifferentiablePreprocessor]] = PillowCrop
    marks: ClassVar[tuple[str, str] | None] = OPENAI_MARKS
    no_model: ClassVar[str] = "give a folder or hub id as model"

    def __init__(
        self,
        model: str | Path = "",
        *,
        num_frames: Count = 8,
        processor: str | Path | None = None,
        device: str | None = None,
        dtype: Dtype = "float32",
        batch_size: Count = 32,
    ) -> None:
        source = model or self.default_model
        parts = processor or (None if model else self.default_processor) or source
        self.num_frames, self.batch_size = num_frames, batch_size
        self._tokenizer = load_part(AutoTokenizer, parts)
        self._published = None if self.marks is None else ClipTokens(self._tokenizer, self.marks)
        self.images = self.preprocessor(parts)
        self.model = load_model(CLIPModel, source, device=device, dtype=dtype)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Require a model where the class has no default."""
        if not (settings.get("model") or cls.default_model):
            raise ConfigError(f"{cls.name}: expected a model, got none: {cls.no_model}")

    @abstractmethod
    def formula(self, matches: Matches) -> torch.Tensor:
        """Return the scores ``[N]`` of N images."""

    def scorer(self, text: str) -> Scorer:
        """Return the function that scores images for a prompt, truncated to the model's 77 tokens."""
        # Not padded: attention is causal, so tokens after the last one would change nothing.
        tokens = torch.tensor([self._tokens(text)], device=self.model.device)
        scale = float(self.model.logit_scale.exp())

        def scores(pixels: torch.Tensor) -> torch.Tensor:
            output = self.model(pixel_values=pixels, input_ids=tokens, attention_mask=torch.ones_like(tokens))
            cosines = (output.image_embeds @ output.text_embeds.T)[:, 0]
            return self.formula(Matches(at_least_float32(cosines), scale))

        return scores

    def _tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, at most as many as the model can read."""
        length = self.model.config.text_config.max_position_embeddings
        if self._published is not None:
            return self._published(text, length)
        sendable = text.encode("utf-8", "replace").decode()  # half a surrogate pair has no tokens
        return list(self._tokenizer([sendable], truncation=True, max_length=length)["input_ids"][0])
