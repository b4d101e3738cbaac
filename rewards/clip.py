"""CLIP models as scorers, shared by CLIPScore, PickScore, HPSv2 and the aesthetic predictor.

Scores are computed by the full forward pass instead of ``get_image_features``, whose return value has changed between
versions of transformers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flexgym.core.errors import ConfigError
from flexgym.core.typed import Count
from flexgym.reward import PointwiseReward
from flexgym.types import Prompt
from rewards.checkpoints import Dtype, load_model, load_part
from rewards.images import mean_over_frames

Pictures = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Matches:
    """Similarities of a text and N images by a CLIP model.

    Attributes:
        cosines: cosine similarities of text and images, float32 ``[N]``.
        scale: factor that the model multiplies them with, ``exp(logit_scale)``.
    """

    cosines: torch.Tensor
    scale: float


class PictureProcessor:
    """Preprocessing of images for a CLIP model, by the image processor in the model's folder.

    The Pillow processor is used instead of the torchvision one, since it gives the pixels that the published scorers
    were trained on.

    Args:
        source: folder or hub id with ``preprocessor_config.json``.
        pad: resize the longest side to the model's size and pad with black, instead of resizing the shortest side and
            cropping the center.
    """

    def __init__(self, source: str | Path, *, pad: bool = False) -> None:
        self._whole = load_part(CLIPImageProcessorPil, source)
        self._pad = pad
        self._side = int(self._whole.crop_size["height"])

    def __call__(self, pictures: Pictures) -> torch.Tensor:
        """Convert images, uint8 ``[N, H, W, 3]``, to normalized pixels, float32 ``[N, 3, S, S]``."""
        images = [Image.fromarray(picture) for picture in pictures]
        if not self._pad:
            return self._whole(images, return_tensors="pt")["pixel_values"]
        padded = [pad_to_square(image, self._side) for image in images]
        return self._whole(padded, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]


def pad_to_square(image: Image.Image, side: int) -> Image.Image:
    """Resize the longest side and pad the other with black on both ends, as HPSv2 does (arXiv 2306.09341).

    Args:
        image: image of any size.
        side: side length of the result in pixels.
    """
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), ((side - width) // 2, (side - height) // 2))
    return square


class ClipScorer:
    """CLIP model with its tokenizer and image processor.

    Args:
        model: folder or hub id in the transformers format.
        processor: folder or hub id with tokenizer and image processor; None uses the model's.
        pad: see `PictureProcessor`.
        device: device of the model; by default the first GPU if there is one.
        dtype: data type of the weights.
        batch_size: number of images per forward pass.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        processor: str | Path | None = None,
        pad: bool = False,
        device: str | None = None,
        dtype: Dtype = "float32",
        batch_size: Count = 32,
    ) -> None:
        self._batch_size = batch_size
        self._tokenizer = load_part(AutoTokenizer, model if processor is None else processor)
        self._pictures = PictureProcessor(model if processor is None else processor, pad=pad)
        self._model = load_model(CLIPModel, model, device=device, dtype=dtype)

    @torch.inference_mode()
    def matches(self, text: str, pictures: Pictures) -> Matches:
        """Compare a text with images, uint8 ``[N, H, W, 3]``; the text is truncated to the model's 77 tokens."""
        # No padding is needed: the text encoder is causal, so tokens after the last one change nothing.
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer([text], truncation=True, max_length=length, return_tensors="pt")
        text_input = {name: tokens[name].to(self._model.device) for name in ("input_ids", "attention_mask")}

        def cosines(pixels: torch.Tensor) -> torch.Tensor:
            output = self._model(pixel_values=pixels, **text_input)
            return (output.image_embeds @ output.text_embeds.T)[:, 0].float()

        found = batched(cosines, self._pictures, pictures, batch_size=self._batch_size, like=self._model)
        return Matches(found, float(self._model.logit_scale.exp()))


def batched(
    function: Callable[[torch.Tensor], torch.Tensor],
    processor: Callable[[Pictures], torch.Tensor],
    pictures: Pictures,
    *,
    batch_size: int,
    like: Any,
) -> torch.Tensor:
    """Apply a function to images in batches on the model's device, and return ``[N, ...]`` on the CPU.

    Args:
        function: function of normalized pixels ``[B, 3, S, S]`` that returns ``[B, ...]``.
        processor: converts images to pixels.
        pictures: uint8 ``[N, H, W, 3]``.
        batch_size: maximum batch size B.
        like: model whose device and data type the pixels are converted to.
    """
    parts = [pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size)]
    return torch.cat([function(processor(part).to(like.device, like.dtype)).cpu() for part in parts])


class ClipSettings(TypedDict, total=False):
    """Settings of every reward by a CLIP model, see `ClipScorer`.

    Attributes:
        processor: folder or hub id with tokenizer and image processor, if the model has none.
        device: device of the model; by default the first GPU if there is one.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        batch_size: number of images per forward pass.
    """

    processor: str | Path | None
    device: str | None
    dtype: str
    batch_size: int


class ClipReward(PointwiseReward):
    """Base class of rewards that compare text and image with a CLIP model; a video scores the mean over its frames.

    Args:
        model: folder or hub id in the transformers format; the subclass may define a default.
        num_frames: number of uniformly spaced frames per video to score.
        processor: see `ClipSettings`.
        device: see `ClipSettings`.
        dtype: see `ClipSettings`.
        batch_size: see `ClipSettings`.

    Raises:
        ConfigError: if no model is given, or a number is out of range.
        CheckpointError: if the model cannot be loaded.
    """

    default_model: ClassVar[str] = ""
    default_processor: ClassVar[str | None] = None
    pad: ClassVar[bool] = False
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
            pad=self.pad,
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
        """Compute the scores ``[N]`` of N images from their similarities."""

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the score of each sample, float32 ``[n]``, see `PointwiseReward.score_samples`."""
        return mean_over_frames(
            lambda pictures: self.formula(self.scorer.matches(prompt.text, pictures)).numpy(),
            samples,
            num_frames=self.num_frames,
        )
