"""Frozen dataclasses that pass between the stages of a run.

Dimension suffixes in names and docstrings of FlexGym: P prompts, G samples of a group, T denoising steps, W trained
steps of the window, F frames, C channels, H height, W width, B any batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flexgym.core.errors import ConfigError, PromptSourceError
from flexgym.core.images import MAX_PIXELS, ImageReader
from flexgym.core.text import halves_of_pairs

Modality = Literal["image", "video"]
MODALITIES: tuple[Modality, ...] = ("image", "video")

_FRAMES = ImageReader(error=lambda _, message: PromptSourceError(message), max_bytes=64 * 2**20)


@dataclass(frozen=True, eq=False)
class FirstFrame:
    """First frame of a video to generate, from an array or an image file.

    The header of a file is checked at construction, and its pixels are read each time they are asked for, so a set of
    prompts holds paths instead of pixels. Two first frames are equal when their pixels are.

    Attributes:
        source: uint8 ``[H, W, 3]``, or the path of a BMP, JPEG, PNG or WebP file of at most 64 MiB and 2^26 pixels.

    Raises:
        PromptSourceError: the file is missing, not an image or too large, or the array has another type or shape.
            `pixels` raises it for a truncated file.
    """

    source: NDArray[np.uint8] | Path | str

    def __post_init__(self) -> None:
        if isinstance(self.source, str | Path):
            path = Path(self.source).expanduser()
            _FRAMES.stored_size(path)
            object.__setattr__(self, "source", path)
        else:
            object.__setattr__(self, "source", _own_pixels(self.source))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FirstFrame) and (self is other or self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Return uint8 ``[H, W, 3]``, upright; read-only for an array, read anew for a file."""
        return self.source if isinstance(self.source, np.ndarray) else np.array(_FRAMES.load(self.source))

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 digest of the pixels and their shape, in hexadecimal."""
        pixels = self.pixels
        return hashlib.sha256(str(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()

    def fitted(self, height: int, width: int) -> FirstFrame:
        """Scale the frame until it covers ``height`` x ``width`` pixels, and crop what exceeds them.

        Returns:
            A first frame that holds its pixels; this one if it holds pixels of that size already.
        """
        if isinstance(self.source, np.ndarray) and self.source.shape[:2] == (height, width):
            return self
        image = Image.fromarray(self.pixels)
        return FirstFrame(np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)))


def _own_pixels(pixels: Any) -> NDArray[np.uint8]:
    """Return a read-only copy of the pixels of a first frame, once they are checked."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        got = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else repr(pixels)[:80]
        raise PromptSourceError(f"first frame: expected uint8 [H, W, 3] or the path of an image, got {got}")
    if not 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS:
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise PromptSourceError(f"first frame: expected at least 1 and at most {MAX_PIXELS} pixels, got {size}")
    own: NDArray[np.uint8] = pixels.copy()
    own.flags.writeable = False
    return own


@dataclass(frozen=True)
class Prompt:
    """Prompt that a group of samples is generated for.

    Attributes:
        text: caption that the generator reads.
        metadata: JSON values for rewards, such as the category of a benchmark.
        first_frame: image that the video begins with, for image-to-video generators; None for others.

    Raises:
        PromptSourceError: half of a surrogate pair in a text, which no tokenizer, file or server takes.
    """

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    first_frame: FirstFrame | None = None

    def __post_init__(self) -> None:
        if half := next(halves_of_pairs([self.text, self.metadata]), None):
            raise PromptSourceError(
                f"half of a surrogate pair, which is no character, in {half[:80]!r}: write the whole character, or"
                " replace it"
            )


@dataclass(frozen=True)
class SampleGroup:
    """Finished samples of one prompt.

    Attributes:
        prompt: prompt that they were generated for.
        samples: uint8 ``[G, H, W, 3]`` for images, ``[G, F, H, W, 3]`` for videos.
        references: samples of the frozen reference policy for the same prompt and seeds, shaped like ``samples``; a
            tournament then measures how often each sample beats its reference. None if there are none.
    """

    prompt: Prompt
    samples: NDArray[np.uint8]
    references: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if self.references is not None and self.references.shape != self.samples.shape:
            raise ConfigError(
                f"every sample needs one reference of its own size: expected references of shape {self.samples.shape},"
                f" got {self.references.shape}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def modality(self) -> Modality:
        """Return ``"image"`` for samples ``[G, H, W, 3]``, ``"video"`` for those with frames."""
        return "video" if self.samples.ndim == 5 else "image"

    def joined(self) -> SampleGroup:
        """Return the group with its references as further samples: sample i has index i, its reference G + i."""
        if self.references is None:
            return self
        return SampleGroup(self.prompt, np.concatenate([self.samples, self.references]))


@dataclass(frozen=True)
class GroupScores:
    """Scores of one group.

    Attributes:
        rewards: float32 ``[G]``; NaN where a sample could not be scored.
        terms: named components of the reward, each float32 ``[G]``, NaN where unscored.
        weights: weight of each term in the advantage when terms are normalized one by one (they sum to 1);
            empty when the advantage is computed from ``rewards`` alone.
        failures: number of failed judgments by kind, such as ``{"unparsable": 2}``.
        assessments: outcomes of a judge, one per judged pair; empty for pointwise rewards.
        pairs: int ``[M, 2]``, indices of the samples of each assessment, the one shown first in front; indices from G
            on are references, as in `SampleGroup.joined`. None for pointwise rewards.
        win_rate_vs_reference: float32 ``[G]``, share of the comparisons with its reference that a sample wins, NaN
            where none is valid. Unlike win rates within the group, it rises with the policy. None without references.
    """

    rewards: NDArray[np.float32]
    terms: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    assessments: tuple[Any, ...] = ()
    pairs: NDArray[np.intp] | None = None
    win_rate_vs_reference: NDArray[np.float32] | None = None

    @property
    def mean(self) -> float:
        """Return the mean win rate against the references if there are any, else the mean reward.

        NaN entries are ignored; the result is NaN if all are.
        """
        values = self.rewards if self.win_rate_vs_reference is None else self.win_rate_vs_reference
        valid = values[~np.isnan(values)]
        return float(valid.mean()) if len(valid) else float("nan")


def stacked_term(scores: Sequence[GroupScores], name: str) -> NDArray[np.float32]:
    """Stack one term of several groups.

    Args:
        scores: scores of P groups of the same size G.
        name: name of the term.

    Returns:
        float32 ``[P, G]``; NaN for a group without the term, such as one on which the reward failed altogether.
    """
    return np.stack([group.terms.get(name, np.full_like(group.rewards, np.nan)) for group in scores])
