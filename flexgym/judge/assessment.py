"""Hierarchical assessments of sample pairs: an overall winner, category winners and scored sub-dimensions.

Field names are the JSON keys that UnifiedReward-Flex writes (arXiv 2602.02380), so a dumped model is a valid reply.
Fields that decide the outcome (winners, scores, category names) are validated strictly. Explanations (reasons, the
repeated prompt) are not: any value that is not a string is read as an empty string.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

SCORE_SUM = 10.0
"""Total number of points that the two scores of a sub-dimension sum to."""

ANCHOR_KEYWORDS = ("semantic", "quality", "aesthetic")
"""Words that identify the three mandatory categories A, B and C by name, for images and for videos."""

Label = Literal["Image 1", "Image 2", "Video 1", "Video 2"]

_LABELS = frozenset({"Image 1", "Image 2", "Video 1", "Video 2"})
_DECORATION = r"[\s*_`\"'\u2018\u2019\u201c\u201d()\[\]<>.,:;]*"
_ONE_LABEL = re.compile(rf"{_DECORATION}(?:the\s+)?(image|video)[\s_#:-]*([12]){_DECORATION}", re.IGNORECASE)
_ECHOED_LABEL = re.compile(r"1\s*[/|]\s*(?:image|video)?\s*2|2\s*[/|]\s*(?:image|video)?\s*1", re.IGNORECASE)
_LONE_NUMBER = re.compile(r"(?<!\d)[12](?!\d)")
_SUM_TOLERANCE = 1e-3


def normalize_label(value: Any) -> str:
    """Return the canonical label for the winner that a model wrote.

    Only a label on its own is accepted, in any case and with any spacing, quotes and brackets. A bare ``1`` is rejected
    because it may be a position counted from zero, and a sentence is rejected because it may say that ``Image 1`` lost.
    Image and video labels are interchangeable: models mix them up, since video frames reach them as images, and the
    number alone identifies the candidate.

    Args:
        value: the JSON value of ``winner`` or ``cat_winner``.

    Returns:
        ``"Image 1"``, ``"Image 2"``, ``"Video 1"`` or ``"Video 2"``.

    Raises:
        PydanticCustomError: of type ``echoed_template``, ``contradictory`` or ``no_winner``.
    """
    if isinstance(value, str):
        if value in _LABELS:
            return value
        if match := _ONE_LABEL.fullmatch(value):
            return f"{match[1].capitalize()} {match[2]}"
        if _ECHOED_LABEL.search(value):
            raise PydanticCustomError("echoed_template", "the reply repeats the template instead of choosing a winner")
        if {"1", "2"} <= set(_LONE_NUMBER.findall(value)):
            raise PydanticCustomError("contradictory", "both candidates are named as the winner")
    elif isinstance(value, list | tuple) and len(value) > 1:
        raise PydanticCustomError("contradictory", "several winners are listed")
    raise PydanticCustomError("no_winner", "expected one of 'Image 1', 'Image 2', 'Video 1', 'Video 2'")


def anchor_places(names: Sequence[str]) -> tuple[int, ...]:
    """Locate the three mandatory categories in a reply.

    Categories are recognized by keywords in their names, since models drop the letter or put a personalized category
    first. If several names match, one with the right letter is preferred. If any keyword matches no name, the first
    three categories are taken.

    Args:
        names: names of all categories, in the order of the reply.

    Returns:
        Indices into ``names`` in the order A, B, C.
    """
    rest = list(range(len(names)))
    found = []
    for letter, keyword in zip("abc", ANCHOR_KEYWORDS, strict=True):
        likely = [place for place in rest if keyword in names[place].lower()]
        lettered = [place for place in likely if names[place].lower().startswith(f"{letter}.")]
        if not likely:
            return tuple(range(len(ANCHOR_KEYWORDS)))
        found.append((lettered or likely)[0])
        rest.remove(found[-1])
    return tuple(found)


def _score(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("score", "expected a number from 0 to 10, got a truth value")
    if isinstance(value, str) and "_" in value:  # which Pydantic skips between digits
        raise PydanticCustomError("score", "expected a number from 0 to 10, got text")
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _encodable(value: str) -> str:
    # JSON can contain a lone surrogate, which cannot be encoded as UTF-8.
    return value.encode("utf-8", "replace").decode()


Winner = Annotated[Label, BeforeValidator(normalize_label)]
Score = Annotated[float, BeforeValidator(_score), Field(ge=0.0, le=SCORE_SUM)]
Name = Annotated[str, AfterValidator(_encodable)]
Explanation = Annotated[Name, BeforeValidator(_text)]


class _Part(BaseModel):
    """Base of all levels of an assessment: frozen, ignores unknown keys."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Dimension(_Part):
    """One sub-dimension chosen by the judge, with a score for each candidate.

    Attributes:
        name: the criterion in the judge's words.
        reason_1: evidence about the first candidate.
        reason_2: evidence about the second candidate.
        score_1: points of the first candidate, 0 to 10.
        score_2: points of the second candidate; the two scores sum to 10.
    """

    name: Name
    reason_1: Explanation = ""
    reason_2: Explanation = ""
    score_1: Score
    score_2: Score

    @model_validator(mode="after")
    def _scores_share_ten_points(self) -> Self:
        if abs(self.score_1 + self.score_2 - SCORE_SUM) > _SUM_TOLERANCE:
            raise PydanticCustomError(
                "score_sum",
                "scores of {name} add up to {total}, expected 10",
                {"name": repr(self.name), "total": f"{self.score_1 + self.score_2:g}"},
            )
        return self


class OddDimension(_Part):
    """One sub-dimension whose scores break a rule; it is set aside, and the winners count.

    Attributes:
        name: the criterion in the judge's words; empty if it is missing.
        problem: description of the broken rule, such as ``"score_1: expected a number"``.
    """

    name: Explanation = ""
    problem: str


class Category(_Part):
    """A category of criteria with its own winner.

    Attributes:
        name: category name, such as ``"A. Semantic Alignment & Accuracy"``.
        dims: the sub-dimensions with valid scores; empty only if all of them were set aside.
        cat_reason: the judge's explanation of the category winner.
        cat_winner: label of the category winner.
        odd_dims: the sub-dimensions that were set aside for their scores. It is not part of a reply, so dumps and the
            JSON schema omit it.
    """

    name: Name
    dims: tuple[Dimension, ...] = Field(json_schema_extra={"minItems": 1})
    cat_reason: Explanation = ""
    cat_winner: Winner
    odd_dims: SkipJsonSchema[tuple[OddDimension, ...]] = Field(default=(), exclude=True)

    @model_validator(mode="after")
    def _has_dimensions(self) -> Self:
        if not self.dims and not self.odd_dims:
            raise PydanticCustomError("too_short", "expected at least one sub-dimension, got none")
        return self

    @property
    def side(self) -> int:
        """Return the stated winner of the category: 0 for the first candidate, 1 for the second."""
        return _side(self.cat_winner)

    @property
    def score_margin(self) -> float:
        """Return the first candidate's points minus the second's, summed over the sub-dimensions."""
        return sum(dim.score_1 - dim.score_2 for dim in self.dims)

    @property
    def score_side(self) -> int | None:
        """Return the winner by summed sub-dimension scores: 0, 1, or None for a tie."""
        margin = self.score_margin
        if abs(margin) <= _SUM_TOLERANCE:
            return None
        return 0 if margin > 0 else 1

    @property
    def consistent(self) -> bool:
        """Return True if the scores do not contradict the stated winner; a tie contradicts neither."""
        return self.score_side in (None, self.side)


class Assessment(_Part):
    """A judge's complete answer about one pair.

    Attributes:
        prompt: the caption as repeated by the judge.
        categories: the three mandatory categories and any personalized ones that the prompt calls for.
        reason: the judge's explanation of the overall winner.
        winner: label of the overall winner.
        left_out: number of personalized categories that were dropped because they broke the rules. It is not part of a
            reply, so dumps and the JSON schema omit it.
    """

    prompt: Explanation = ""
    categories: tuple[Category, ...] = Field(min_length=len(ANCHOR_KEYWORDS))
    reason: Explanation = ""
    winner: Winner
    left_out: SkipJsonSchema[int] = Field(default=0, ge=0, exclude=True)

    @property
    def side(self) -> int:
        """Return the overall winner: 0 for the first candidate, 1 for the second."""
        return _side(self.winner)

    @property
    def anchors(self) -> tuple[Category, ...]:
        """Return the three mandatory categories in the order A, B, C, as located by `anchor_places`."""
        return tuple(self.categories[place] for place in self._anchor_places)

    @property
    def personalized(self) -> tuple[Category, ...]:
        """Return the categories that the judge added for this prompt; they affect rewards only via the winner."""
        anchors = self._anchor_places
        return tuple(category for place, category in enumerate(self.categories) if place not in anchors)

    @property
    def _anchor_places(self) -> tuple[int, ...]:
        return anchor_places([category.name for category in self.categories])

    @property
    def odd_scores(self) -> int:
        """Return the number of sub-dimensions that were set aside because their scores break a rule."""
        return sum(len(category.odd_dims) for category in self.categories)

    @property
    def agreement(self) -> float:
        """Return the share of categories whose scores do not contradict their stated winner, 0 to 1."""
        return sum(category.consistent for category in self.categories) / len(self.categories)

    @property
    def majority_side(self) -> int | None:
        """Return the candidate that wins the most categories: 0, 1, or None for a tie; may differ from `side`."""
        balance = sum(1 if category.side == 0 else -1 for category in self.categories)
        if balance == 0:
            return None
        return 0 if balance > 0 else 1


def _side(label: str) -> int:
    return 0 if label.endswith("1") else 1
