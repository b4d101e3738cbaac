"""OCR reward: whether an image shows the text that its prompt puts in quotation marks."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError
from flexgym.core.typed import Count
from flexgym.reward import KnownPair, PointwiseReward
from flexgym.types import Prompt
from rewards.images import mean_over_frames
from rewards.known import written_and_other_text

_QUOTED = re.compile(r"[\"\u201c\u201d]([^\"\u201c\u201d]+)[\"\u201c\u201d]")


class OCR(PointwiseReward):
    """One minus the edit distance between recognized and requested text, divided by the latter's length; 0 to 1.

    The formula is that of Flow-GRPO (arXiv 2505.05470): both texts are compared in lower case without spaces, the
    distance is 0 if the image contains the requested text among others, and at most the text's length. The requested
    text is ``text`` in the prompt's metadata, or the text between the first pair of double quotation marks in the
    prompt; a prompt without one is a failure. The text is recognized by RapidOCR with its built-in PP-OCR models. The
    score of a video is the mean over frames.

    Args:
        num_frames: number of uniformly spaced frames per video to read.
        engine: parameters of `rapidocr.RapidOCR`, such as ``{"Global.use_cls": False}``.

    Raises:
        ConfigError: if RapidOCR is not installed.
    """

    def __init__(self, *, num_frames: Count = 4, engine: dict[str, Any] | None = None) -> None:
        self.num_frames = num_frames
        self._engine = _open_engine(engine)

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the score of each sample, float32 ``[n]``, see `PointwiseReward.score_samples`.

        Raises:
            ConfigError: if the prompt requests no text.
        """
        target = asked_text(prompt)
        return mean_over_frames(
            lambda pictures: [likeness(target, self._read(picture)) for picture in pictures],
            samples,
            num_frames=self.num_frames,
        )

    def _read(self, picture: NDArray[np.uint8]) -> str:
        found = self._engine(np.ascontiguousarray(picture[:, :, ::-1]))  # it expects OpenCV's channel order
        return "".join(found.txts or ())

    def known_pairs(self) -> list[KnownPair]:
        """Return a pair of the requested text and another text."""
        return written_and_other_text()


def asked_text(prompt: Prompt) -> str:
    """Return the text that an image must show.

    Raises:
        ConfigError: if the prompt requests no text.
    """
    given = prompt.metadata.get("text")
    quoted = _QUOTED.search(prompt.text)
    text = given if isinstance(given, str) else quoted[1] if quoted else ""
    if not normal(text):
        raise ConfigError('expected a text in double quotation marks in the prompt, such as: a sign that says "open"')
    return text


def likeness(target: str, read: str) -> float:
    """Return one minus the edit distance over the target's length, 0 to 1; 1 if the target is part of ``read``."""
    target, read = normal(target), normal(read)
    if target in read:
        return 1.0
    return 1.0 - min(edit_distance(target, read), len(target)) / len(target)


def normal(text: str) -> str:
    """Convert a text to lower case without spaces."""
    return "".join(text.lower().split())


def edit_distance(first: str, second: str) -> int:
    """Compute the Levenshtein distance: the fewest insertions, deletions and replacements between two texts."""
    row = np.arange(len(second) + 1)
    letters = np.array(list(second), dtype=np.str_)
    steps = np.arange(len(second) + 1)
    for index, letter in enumerate(first, 1):
        best = np.empty_like(row)
        best[0] = index
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (letters != letter))
        # An insertion costs one per step to the right of the best position so far.
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def _open_engine(parameters: dict[str, Any] | None) -> Any:
    """Create the text recognizer, imported lazily since it is an optional dependency."""
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise ConfigError(f"ocr needs RapidOCR ({error}): pip install 'flexgym[ocr]'") from error
    return RapidOCR(params={"Global.log_level": "error", **(parameters or {})})
