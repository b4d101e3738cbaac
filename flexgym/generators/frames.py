"""The picture side of a generator from image to video: what is told to the transformer, and which latents are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flexgym.core.errors import ConfigError
from flexgym.generators.conditioning import Conditioning, Embedding
from flexgym.generators.text import TextConditioned, Wanted
from flexgym.types import FirstFrame, Prompt

KNOWN = "known_latents"
"""Name of the latents of the first frame, where they are part of the sample; the transformer is not told it."""
_ENCODER = "image_encoder"


class FrameConditioned(TextConditioned):
    """Encoding of the pictures that videos begin with, by the autoencoder and what else a pipeline has for them."""

    text_sees_frame: ClassVar[bool] = False
    """Whether ``encode_prompt`` reads the picture with the text; a text without one is read with a black picture."""
    noise_share: ClassVar[float] = 1.0
    """Of what sampling starts from; the rest is the picture in every frame: the first tensor of `encode_frame`."""

    def encode_frame(self, picture: Image.Image) -> Embedding:
        """What the transformer is told of a first frame, in a family that has them.

        Args:
            picture: RGB, of the size of the sample.

        Returns:
            Tensors ``[1, ...]`` by argument name; under `KNOWN` float32 ``[1, C, 1, H, W]`` if the pipeline keeps the
            first latents as they are. The other latents are then made, and these count for nothing.
        """
        raise NotImplementedError

    def first_frames(self, prompts: Sequence[str | Prompt]) -> list[FirstFrame]:
        """The pictures of prompts, at the size of the sample.

        Args:
            prompts: P of them.

        Returns:
            One for each; none for a generator from text alone.

        Raises:
            ConfigError: when a prompt lacks its picture, or has one that would count for nothing.
            PromptSourceError: when a file cannot be read.
        """
        found = [None if isinstance(prompt, str) else prompt.first_frame for prompt in prompts]
        for prompt, frame in zip(prompts, found, strict=True):
            if (frame is not None) is not self.takes_first_frame:
                raise ConfigError(_mismatch(type(self.pipe).__name__, prompt))
        size = (self.settings.height, self.settings.width)
        return [frame.fitted(*size) for frame in found if frame is not None]

    def frame_options(self, prompted: bool) -> dict[str, Any]:
        """Further arguments of ``encode_prompt`` where it reads a picture, as JSON values.

        Args:
            prompted: whether it is the picture of a prompt, not the black one.
        """
        return {}

    def _text_of(self, prompt: str | Prompt) -> Wanted:
        """Where the picture is read with the text, an embedding is that of both."""
        alone = super()._text_of(prompt)
        if not self.text_sees_frame:
            return alone
        black = np.zeros((self.settings.height, self.settings.width, 3), np.uint8)
        frame = FirstFrame(black) if isinstance(prompt, str) else self.first_frames([prompt])[0]
        options = self.frame_options(not isinstance(prompt, str))
        request = {**alone.request, "first_frame": frame.digest, **options}
        told = {"image": Image.fromarray(frame.pixels), **options}
        return Wanted(tuple(request.items()), request, lambda: self._encode(request["text"], **told))

    def _wanted(self, prompts: Sequence[str | Prompt]) -> list[Wanted]:
        """The texts; and the pictures, if an encoder of their own would leave with the text encoders."""
        texts = super()._wanted(prompts)
        if not (self.takes_first_frame and _ENCODER in self.text_encoders()):
            return texts
        return texts + [self._frame_of(frame) for frame in self.first_frames([each for each in prompts if each])]

    def _frame_of(self, frame: FirstFrame) -> Wanted:
        tiled = bool(getattr(self.pipe.vae, "use_tiling", False))
        request = {"first_frame": frame.digest, "num_frames": self.settings.num_frames, "tiled": tiled, **self._place()}
        return Wanted(tuple(request.items()), request, lambda: self._encode_frame(frame))

    def _embed_frames(self, frames: Sequence[FirstFrame]) -> list[Embedding]:
        return self._embed_all([self._frame_of(frame) for frame in frames], "vae", _ENCODER)

    @torch.no_grad()
    def _encode_frame(self, frame: FirstFrame) -> Embedding:
        if _ENCODER in self._text.released:
            raise ConfigError(
                "expected one of the first frames that were encoded before the encoders were released, got another:"
                " name it among the prompts of the run, or set generator.release_text_encoders=false"
            )
        with self._acting("vae", _ENCODER):
            embedding = self.encode_frame(Image.fromarray(frame.pixels))
        return {name: tensor.to(self.device) for name, tensor in embedding.items()}

    def starting_latents(self, noise: Tensor, prompts: Sequence[str | Prompt]) -> Tensor:
        """What sampling starts from: noise, with what `noise_share` leaves to the first frame.

        Args:
            noise: ``[B, ...]``, see `FlowGenerator.initial_latents`.
            prompts: B of them.

        Returns:
            Latents of the same shape.
        """
        if self.noise_share == 1.0:
            return noise
        pictures = [next(iter(each.values())) for each in self._embed_frames(self.first_frames(prompts))]
        share = torch.tensor([self.noise_share], device=noise.device)  # float32, as pipelines compute it
        return noise * share + torch.cat(pictures) * (1 - share)

    def call_inputs(self, picture: Image.Image | None, rows: Conditioning) -> dict[str, Any]:
        """What ``__call__`` is given for a first frame, and in the place of what it is given otherwise.

        Args:
            picture: of all rows; None for generators from text alone.
            rows: encoded prompts, for a call that takes them and would encode several otherwise than one.
        """
        return {"image": picture}

    def with_first_frame(self, latents: Tensor, conditioning: Conditioning) -> Tensor:
        """Latents with those of the first frame in their place, where they are known; others come back as they are.

        What stands there before has no influence on any velocity. Samples are decoded from the latents returned here.

        Args:
            latents: ``[B, C, F, H, W]``.
            conditioning: B rows.

        Returns:
            Latents of the same shape.
        """
        known = conditioning.frames.get(KNOWN)
        if known is None:
            return latents
        return torch.cat([known.to(latents), latents[:, :, known.shape[2] :]], 2)


def without_known(velocity: Tensor, conditioning: Conditioning) -> Tensor:
    """A velocity of 0 for the latents that are known: nothing moves them, and nothing is to be learnt there.

    Args:
        velocity: ``[B, C, F, H, W]``.
        conditioning: B rows.
    """
    known = conditioning.frames.get(KNOWN)
    if known is None:
        return velocity
    return torch.cat([torch.zeros_like(known, dtype=velocity.dtype), velocity[:, :, known.shape[2] :]], 2)


def _mismatch(name: str, prompt: Any) -> str:
    text = prompt if isinstance(prompt, str) else prompt.text
    if isinstance(prompt, str) or prompt.first_frame is None:
        return (
            f"{name} makes videos from their first frame, and the prompt {text[:80]!r} has none: give"
            ' Prompt(text, first_frame=FirstFrame(path)), or {"prompt": ..., "first_frame": path} in a .jsonl file'
        )
    return f"{name} makes samples from text alone: expected a prompt without first_frame, got one for {text[:80]!r}"
