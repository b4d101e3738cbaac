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
from PIL import Image
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flexgym.core.errors import ConfigError
from flexgym.core.typed import Count
from flexgym.reward import PointwiseReward
from flexgym.types import Prompt
from rewards.checkpoints import Dtype, load_model, load_part
from rewards.images import mean_over_frames

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Matches:
    """Similarity of a text and N images by a CLIP model.

    Attributes:
        cosines: cosine of the text with each image, float32 ``[N]``.
        scale: factor that the model multiplies them with, ``exp(logit_scale)``.
    """

    cosines: torch.Tensor
    scale: float


class ImageProcessor:
    """Prepares images for a CLIP model with the image processor of its checkpoint.

    Uses the processor for Pillow, not the one for torchvision: it gives the pixels that the published scorers were
    trained on.

    Args:
        source: a folder or hub id with ``preprocessor_config.json``.
        pad: resize the longest side to the model's size and pad with black, instead of resizing the shortest side and
            cropping the center.
    """

    def __init__(self, source: str | Path, *, pad: bool = False) -> None:
        self._processor = load_part(CLIPImageProcessorPil, source)
        self._pad = pad
        self._side = int(self._processor.crop_size["height"])

    def __call__(self, images: Images) -> torch.Tensor:
        """Return normalized pixels, float32 ``[N, 3, S, S]``, of images uint8 ``[N, H, W, 3]``."""
        loaded = [Image.fromarray(image) for image in images]
        if not self._pad:
            return self._processor(loaded, return_tensors="pt")["pixel_values"]
        padded = [pad_to_square(image, self._side) for image in loaded]
        return self._processor(padded, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]


def pad_to_square(image: Image.Image, side: int) -> Image.Image:
    """Resize the longest side and pad the other with black on both ends, as HPSv2 does (arXiv 2306.09341).

    Args:
        image: an image of any size.
        side: side length of the result in pixels.
    """
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), ((side - width) // 2, (side - height) // 2))
    return square


class ClipScorer:
    """A CLIP model with its processor.

    Args:
        model: a folder or hub id, in the format of transformers.
        processor: a folder or hub id with tokenizer and image processor; the model's own if None.
        pad: see `ImageProcessor`.
        device: name of a torch device; by default the first GPU if there is one.
        dtype: precision of the weights.
        batch_size: maximum number of images in one forward pass.
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
        self._images = ImageProcessor(model if processor is None else processor, pad=pad)
        self._model = load_model(CLIPModel, model, device=device, dtype=dtype)

    @torch.inference_mode()
    def matches(self, text: str, images: Images) -> Matches:
        """Compare a text with images uint8 ``[N, H, W, 3]``; the text is truncated to the model's 77 tokens."""
        # Not padded: attention is causal, so tokens after the last one would change nothing.
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer([text], truncation=True, max_length=length, return_tensors="pt")
        text_input = {name: tokens[name].to(self._model.device) for name in ("input_ids", "attention_mask")}

        def cosines(pixels: torch.Tensor) -> torch.Tensor:
            output = self._model(pixel_values=pixels, **text_input)
            return (output.image_embeds @ output.text_embeds.T)[:, 0].float()

        found = batched(cosines, self._images, images, batch_size=self._batch_size, like=self._model)
        return Matches(found, float(self._model.logit_scale.exp()))


def batched(
    function: Callable[[torch.Tensor], torch.Tensor],
    processor: Callable[[Images], torch.Tensor],
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
        """Return the scores ``[N]`` of N images."""

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score the samples of one prompt, float32 ``[n]``; see `PointwiseReward.score_samples`."""
        return mean_over_frames(
            lambda images: self.formula(self.scorer.matches(prompt.text, images)).numpy(),
            samples,
            num_frames=self.num_frames,
        )
