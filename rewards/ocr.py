"""OCR: whether a picture shows the text that its prompt puts in quotation marks."""

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
    """One minus the edit distance between the text that is read and the one that is asked for, over its length; 0 to 1.

    Formula of Flow-GRPO (arXiv 2505.05470): both in lower case and without spaces, no distance where the picture holds
    the text among others, and at most its length. The text stands in the prompt's metadata under ``text``, or between
    the first pair of double quotation marks of the prompt; a prompt without is a failure. The reader is RapidOCR with
    the models of PP-OCR that come with it. For videos the mean over frames.

    Args:
        num_frames: uniformly spaced frames of a video that are read.
        engine: parameters of `rapidocr.RapidOCR`, such as ``{"Global.use_cls": False}``.

    Raises:
        ConfigError: RapidOCR is not installed.
    """

    def __init__(self, *, num_frames: Count = 4, engine: dict[str, Any] | None = None) -> None:
        self.num_frames = num_frames
        self._engine = _open_engine(engine)

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The score of each sample, float32 ``[n]``, see `PointwiseReward.score_samples`.

        Raises:
            ConfigError: the prompt asks for no text.
        """
        target = asked_text(prompt)
        return mean_over_frames(
            lambda pictures: [likeness(target, self._read(picture)) for picture in pictures],
            samples,
            num_frames=self.num_frames,
        )

    def _read(self, picture: NDArray[np.uint8]) -> str:
        found = self._engine(np.ascontiguousarray(picture[:, :, ::-1]))  # it takes OpenCV's order of colours
        return "".join(found.txts or ())

    def known_pairs(self) -> list[KnownPair]:
        """The text that is asked for against another."""
        return written_and_other_text()


def asked_text(prompt: Prompt) -> str:
    """The text that a picture must show.

    Raises:
        ConfigError: the prompt asks for none.
    """
    told = prompt.metadata.get("text")
    quoted = _QUOTED.search(prompt.text)
    text = told if isinstance(told, str) else quoted[1] if quoted else ""
    if not normal(text):
        raise ConfigError('expected a text in double quotation marks in the prompt, such as: a sign that says "open"')
    return text


def likeness(target: str, read: str) -> float:
    """One minus the edit distance over the length of the target, 0 to 1; 1 where the target is part of what is read."""
    target, read = normal(target), normal(read)
    if target in read:
        return 1.0
    return 1.0 - min(edit_distance(target, read), len(target)) / len(target)


def normal(text: str) -> str:
    """Lower case, without spaces."""
    return "".join(text.lower().split())


def edit_distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements that turn one text into the other (Levenshtein)."""
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
    """The reader, imported late: it is an extra."""
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise ConfigError(f"ocr needs RapidOCR ({error}): pip install 'flexgym[ocr]'") from error
    return RapidOCR(params={"Global.log_level": "error", **(parameters or {})})
