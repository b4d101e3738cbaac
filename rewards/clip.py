"""Shared code of the rewards by CLIP models: CLIPScore, PickScore, HPSv2 and the aesthetic predictor.

Scores come from the full forward pass, not from ``get_image_features``, whose return value has changed between
versions of transformers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, CLIPModel

from flexgym.core.errors import ConfigError
from flexgym.core.typed import Count
from flexgym.reward import PointwiseReward
from flexgym.types import Prompt
from rewards.checkpoints import Dtype, load_model, load_part
from rewards.clip_text import OPENAI_MARKS, ClipTokens
from rewards.images import mean_over_frames
from rewards.preprocessing import Images, PillowCrop, Preprocessor


@dataclass(frozen=True, eq=False)
class Matches:
    """Similarity of a text and N images by a CLIP model.

    Attributes:
        cosines: cosine of the text with each image, float32 ``[N]``.
        scale: factor that the model multiplies them with, ``exp(logit_scale)``.
    """

    cosines: torch.Tensor
    scale: float


class ClipScorer:
    """A CLIP model with its processor.

    Args:
        model: a folder or hub id, in the format of transformers.
        processor: a folder or hub id with tokenizer and image processor; the model's own if None.
        preprocessor: class that prepares images, see `rewards.preprocessing`.
        marks: words that the published tokenizer reads as start and end, see `rewards.clip_text.ClipTokens`; None for
            the tokenizer of transformers.
        device: name of a torch device; by default the first GPU if there is one.
        dtype: precision of the weights.
        batch_size: maximum number of images in one forward pass.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        processor: str | Path | None = None,
        preprocessor: type[Preprocessor] = PillowCrop,
        marks: tuple[str, str] | None = OPENAI_MARKS,
        device: str | None = None,
        dtype: Dtype = "float32",
        batch_size: Count = 32,
    ) -> None:
        self._batch_size = batch_size
        source = model if processor is None else processor
        self._tokenizer = load_part(AutoTokenizer, source)
        self._published = None if marks is None else ClipTokens(self._tokenizer, marks)
        self._images = preprocessor(source)
        self._model = load_model(CLIPModel, model, device=device, dtype=dtype)

    @torch.inference_mode()
    def matches(self, text: str, images: Images) -> Matches:
        """Compare a text with images uint8 ``[N, H, W, 3]``; the text is truncated to the model's 77 tokens."""
        # Not padded: attention is causal, so tokens after the last one would change nothing.
        tokens = torch.tensor([self.tokens(text)], device=self._model.device)

        def cosines(pixels: torch.Tensor) -> torch.Tensor:
            output = self._model(pixel_values=pixels, input_ids=tokens, attention_mask=torch.ones_like(tokens))
            return (output.image_embeds @ output.text_embeds.T)[:, 0].float()

        found = batched(cosines, self._images, images, batch_size=self._batch_size, like=self._model)
        return Matches(found, float(self._model.logit_scale.exp()))

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, at most as many as the model can read."""
        length = self._model.config.text_config.max_position_embeddings
        if self._published is not None:
            return self._published(text, length)
        sendable = text.encode("utf-8", "replace").decode()  # half a surrogate pair has no tokens
        return list(self._tokenizer([sendable], truncation=True, max_length=length)["input_ids"][0])


def batched(
    function: Callable[[torch.Tensor], torch.Tensor],
    processor: Preprocessor,
    images: Images,
    *,
    batch_size: int,
    like: Any,
) -> torch.Tensor:
    """Apply a function to images batch by batch, on the model's device.

    Args:
        function: maps normalized pixels ``[B, 3, S, S]`` to ``[B, ...]``.
        processor: returns the normalized pixels of images.
        images: uint8 ``[N, H, W, 3]``.
        batch_size: maximum of B.
        like: the model; the pixels get its device and dtype.

    Returns:
        The results ``[N, ...]`` on the CPU.
    """
    parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return torch.cat([function(processor(part).to(like.device, like.dtype)).cpu() for part in parts])


class ClipReward(PointwiseReward):
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

    pickled_as_settings = True

    default_model: ClassVar[str] = ""
    default_processor: ClassVar[str | None] = None
    preprocessor: ClassVar[type[Preprocessor]] = PillowCrop
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
        self.num_frames = num_frames
        self.scorer = ClipScorer(
            model or self.default_model,
            processor=processor or (None if model else self.default_processor),
            preprocessor=self.preprocessor,
            marks=self.marks,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
        )

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Require a model where the class has no default."""
        if not (settings.get("model") or cls.default_model):
            raise ConfigError(f"{cls.name}: expected a model, got none: {cls.no_model}")

    @abstractmethod
    def formula(self, matches: Matches) -> torch.Tensor:
        """Return the scores ``[N]`` of N images."""

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score the samples of one prompt, float32 ``[n]``; see `PointwiseReward.score_samples`."""
        return mean_over_frames(
            lambda images: self.formula(self.scorer.matches(prompt.text, images)).numpy(),
            samples,
            num_frames=self.num_frames,
        )
