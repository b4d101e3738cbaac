"""Rows that generators are trained on: a caption, and one or several samples of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from flexgym.data.files import MediaFile
from flexgym.data.schema import Candidate, Change, PromptText, Row

MAX_SAMPLES = 64
"""Maximum number of samples of a row."""

_PROMPTS = ("prompt", "caption", "text")
_SINGLE = ("image", "video")
_PAIRS = (("chosen", "rejected"), ("first", "second"))


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _score(value: Any) -> Any:
    """Return a score as a float; null, which is NaN in pandas, is a sample without one."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise PydanticCustomError("score_type", "expected a finite number, or null for a sample without a score")
    return float(value)


Score = Annotated[float, BeforeValidator(_score)]


class SampleRow(Row):
    """A caption with its samples.

    The caption is under ``prompt``, ``caption`` or ``text``. A single sample is under ``image`` or ``video``, several
    are a list under ``samples``; each is the path of a file, or for a video also a list of its frames. A pair may also
    be under ``chosen`` and ``rejected``, or be a `flexgym.data.schema.PreferencePair`, whose winner then has the score
    1 and the loser 0.

    Attributes:
        prompt: the caption.
        samples: the samples, each an image, a video file, or the frames of a video.
        scores: one number for each sample, higher for better ones, NaN for none; empty where the row has no scores.
    """

    prompt: PromptText
    samples: Annotated[tuple[Candidate, ...], BeforeValidator(_listed), Field(min_length=1, max_length=MAX_SAMPLES)]
    scores: Annotated[tuple[Score, ...], BeforeValidator(_listed)] = ()

    @classmethod
    def columns(cls) -> frozenset[str]:
        """Return the keys that are read, other spellings included."""
        other = (*_PROMPTS, *_SINGLE, "score", "winner", *(name for pair in _PAIRS for name in pair))
        return frozenset(cls.model_fields) | frozenset(other)

    @model_validator(mode="before")
    @classmethod
    def _in_one_form(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        found = {name: item for name, item in value.items() if name in cls.model_fields and item is not None}
        prompt = next((value[name] for name in _PROMPTS if value.get(name) is not None), None)
        found |= {} if prompt is None else {"prompt": prompt}
        if "samples" not in found:
            found |= _samples_of(value)
        if "scores" not in found and value.get("score") is not None:
            found["scores"] = value["score"]
        return found

    @model_validator(mode="after")
    def _has_all_scores(self) -> Self:
        if self.scores and len(self.scores) != len(self.samples):
            raise PydanticCustomError(
                "scores",
                "expected a score for each of {samples} samples, got {scores}",
                {"samples": len(self.samples), "scores": len(self.scores)},
            )
        return self

    @property
    def media(self) -> tuple[MediaFile, ...]:
        """Return the files of all samples in order."""
        return tuple(file for sample in self.samples for file in sample)

    def with_files(self, change: Change) -> Self:
        """Return the row with ``change`` applied to every file."""
        return self.model_copy(update={"samples": tuple(tuple(map(change, sample)) for sample in self.samples)})


def _samples_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return samples, and the scores of a pair, of a row that names them in another way."""
    for name in _SINGLE:
        if value.get(name) is not None:
            return {"samples": (value[name],)}
    for better, worse in _PAIRS:
        if value.get(better) is not None and value.get(worse) is not None:
            return {"samples": (value[better], value[worse]), "scores": _pair_scores(value, better)}
    return {}


def _pair_scores(value: Mapping[str, Any], first: str) -> tuple[float, float]:
    """Return the scores of a pair: 1 for the winner and 0 for the other, one half for each of a tie."""
    winner = 0 if first == "chosen" else value.get("winner", "")
    if winner is None or (isinstance(winner, float) and math.isnan(winner)):  # as pandas writes a tie
        return (0.5, 0.5)
    if isinstance(winner, bool) or winner not in (0, 1):
        raise PydanticCustomError("winner", "winner: expected 0 for the first, 1 for the second, or null for a tie")
    return (1.0, 0.0) if winner == 0 else (0.0, 1.0)
