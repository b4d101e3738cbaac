"""OCR: how well an image shows the text that its prompt puts in quotation marks."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError
from flexgym.core.typed import Count
from flexgym.reward import KnownPair, PointwiseReward
from flexgym.rewards.images import mean_over_frames
from flexgym.rewards.known import written_and_other_text
from flexgym.types import Prompt

_QUOTED = re.compile(r"[\"\u201c\u201d]([^\"\u201c\u201d]+)[\"\u201c\u201d]")


class OCR(PointwiseReward):
    """One minus the normalized edit distance between the text in the image and the target text; 0 to 1.

    The formula is that of Flow-GRPO (arXiv 2505.05470): both texts are compared in lower case without spaces, the
    distance is 0 if the image contains the target among other text, and it is at most the length of the target. The
    target is ``text`` in the prompt's metadata, or else the first part of the prompt in double quotation marks; a
    prompt without one is a failure. The text is read by RapidOCR with the PP-OCR models that it ships. Videos score
    the mean over frames.

    Args:
        num_frames: number of uniformly spaced frames of a video that are read.
        engine: parameters of `rapidocr.RapidOCR`, such as ``{"Global.use_cls": False}``.

    Raises:
        ConfigError: if RapidOCR is not installed.
    """

    pickled_as_settings = True

    def __init__(self, *, num_frames: Count = 4, engine: dict[str, Any] | None = None) -> None:
        self.num_frames = num_frames
        self._engine = _open_engine(engine)

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score the samples of one prompt, float32 ``[n]``; see `PointwiseReward.score_samples`.

        Raises:
            ConfigError: if the prompt has no target text.
        """
        target = asked_text(prompt)
        return mean_over_frames(
            lambda images: [likeness(target, self._read(image)) for image in images],
            samples,
            num_frames=self.num_frames,
        )

    def _read(self, image: NDArray[np.uint8]) -> str:
        found = self._engine(np.ascontiguousarray(image[:, :, ::-1]))  # BGR, as in OpenCV
        return "".join(found.txts or ())

    def known_pairs(self) -> list[KnownPair]:
        """Return the target text and another."""
        return written_and_other_text()


def asked_text(prompt: Prompt) -> str:
    """Return the target text of a prompt.

    Raises:
        ConfigError: if there is none.
    """
    given = prompt.metadata.get("text")
    quoted = _QUOTED.search(prompt.text)
    text = given if isinstance(given, str) else quoted[1] if quoted else ""
    if not normal(text):
        raise ConfigError('expected a text in double quotation marks in the prompt, such as: a sign that says "open"')
    return text


def likeness(target: str, read: str) -> float:
    """Return one minus the edit distance over the target's length, 0 to 1; 1 if ``read`` contains the target."""
    target, read = normal(target), normal(read)
    if target in read:
        return 1.0
    return 1.0 - min(edit_distance(target, read), len(target)) / len(target)


def normal(text: str) -> str:
    """Return a text in lower case without spaces."""
    return "".join(text.lower().split())


def edit_distance(first: str, second: str) -> int:
    """Return the Levenshtein distance: fewest insertions, deletions and replacements between two texts."""
    row = np.arange(len(second) + 1)
    letters = np.array(list(second), dtype=np.str_)
    steps = np.arange(len(second) + 1)
    for index, letter in enumerate(first, 1):
        best = np.empty_like(row)
        best[0] = index
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (letters != letter))
        # An insertion costs one per step to the right of the best place so far.
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def _open_engine(parameters: dict[str, Any] | None) -> Any:
    """Start RapidOCR, which is an extra."""
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise ConfigError(f"ocr needs RapidOCR ({error}): pip install 'flexgym[ocr]'") from error
    return RapidOCR(params={"Global.log_level": "error", **(parameters or {})})
