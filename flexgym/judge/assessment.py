"""The hierarchical assessment of a pair: overall winner, categories with their winners, scored sub-dimensions.

The field names are the JSON keys that UnifiedReward-Flex writes (arXiv 2602.02380), so a dumped model is again a reply.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

SCORE_SUM = 10.0
"""Both scores of a sub-dimension share this many points."""

ANCHOR_KEYWORDS = ("semantic", "quality", "aesthetic")
"""What the names of the three mandatory categories A, B and C contain, for images and for videos."""

Label = Literal["Image 1", "Image 2", "Video 1", "Video 2"]

_LABELS = frozenset({"Image 1", "Image 2", "Video 1", "Video 2"})
_ONE_LABEL = re.compile(r"[\W_]*(?:the\s+)?(image|video)[\s_#-]*([12])[\W_]*", re.IGNORECASE)
_ECHOED_LABEL = re.compile(r"(?:image|video)\s*(?:1\s*[/|]\s*2|2\s*[/|]\s*1)", re.IGNORECASE)
_SUM_TOLERANCE = 1e-3


def normalise_label(value: Any) -> str:
    """The canonical label behind what a model wrote as a winner.

    Only a label on its own counts, with any punctuation, case and spacing around it. A bare ``1`` is refused, since
    it may as well be a position counted from zero, and so is a sentence, since it may say that ``Image 1`` lost.

    Args:
        value: the JSON value under ``winner`` or ``cat_winner``.

    Returns:
        ``"Image 1"``, ``"Image 2"``, ``"Video 1"`` or ``"Video 2"``.

    Raises:
        PydanticCustomError: of type ``echoed_label``, ``two_winners`` or ``no_winner``.
    """
    if isinstance(value, str):
        if value in _LABELS:
            return value
        if match := _ONE_LABEL.fullmatch(value):
            return f"{match[1].capitalize()} {match[2]}"
        if _ECHOED_LABEL.search(value):
            raise PydanticCustomError("echoed_label", "the template was echoed in place of a choice")
        if {"1", "2"} <= set(re.findall(r"(?<!\d)[12](?!\d)", value)):
            raise PydanticCustomError("two_winners", "both candidates are named as the winner")
    elif isinstance(value, list | tuple) and len(value) > 1:
        raise PydanticCustomError("two_winners", "several winners are listed")
    raise PydanticCustomError("no_winner", "expected one of 'Image 1', 'Image 2', 'Video 1', 'Video 2'")


Winner = Annotated[Label, BeforeValidator(normalise_label)]
Score = Annotated[float, Field(ge=0.0, le=SCORE_SUM)]


class _Part(BaseModel):
    """What all levels share: frozen, unknown keys dropped, surplus text allowed."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Dimension(_Part):
    """One sub-dimension that the judge chose, with both scores.

    Attributes:
        name: the criterion in the judge's words.
        reason_1: evidence about the first candidate.
        reason_2: evidence about the second candidate.
        score_1: points of the first candidate, 0 to 10.
        score_2: points of the second candidate; both add up to 10.
    """

    name: str
    reason_1: str = ""
    reason_2: str = ""
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


class Category(_Part):
    """A category of criteria with its own winner.

    Attributes:
        name: such as ``"A. Semantic Alignment & Accuracy"``.
        dims: the sub-dimensions, at least one.
        cat_reason: why the winner wins the category.
        cat_winner: label of the winner.
    """

    name: str
    dims: tuple[Dimension, ...] = Field(min_length=1)
    cat_reason: str = ""
    cat_winner: Winner

    @property
    def side(self) -> int:
        """Stated winner of the category: 0 for the first candidate, 1 for the second."""
        return _side(self.cat_winner)

    @property
    def score_margin(self) -> float:
        """Points of the first candidate minus those of the second, summed over the sub-dimensions."""
        return sum(dim.score_1 - dim.score_2 for dim in self.dims)

    @property
    def score_side(self) -> int | None:
        """Winner by summed sub-dimension scores: 0, 1, or None when the points are even."""
        margin = self.score_margin
        if abs(margin) <= _SUM_TOLERANCE:
            return None
        return 0 if margin > 0 else 1

    @property
    def consistent(self) -> bool:
        """Whether the scores do not contradict the stated winner; even points contradict nobody."""
        return self.score_side in (None, self.side)


class Assessment(_Part):
    """All that a judge says about one pair.

    Attributes:
        prompt: the caption as the judge repeats it.
        categories: the three mandatory categories and, where the prompt asks for them, personalised ones.
        reason: why the winner wins.
        winner: label of the overall winner.
    """

    prompt: str = ""
    categories: tuple[Category, ...] = Field(min_length=len(ANCHOR_KEYWORDS))
    reason: str = ""
    winner: Winner

    @property
    def side(self) -> int:
        """Overall winner: 0 for the first candidate, 1 for the second."""
        return _side(self.winner)

    @property
    def anchors(self) -> tuple[Category, ...]:
        """The three mandatory categories in the order A, B, C.

        They are found by what their names contain, since models drop the letter or put a personalised category first;
        when a name is not recognised, the first three in the reply are taken.
        """
        rest = list(self.categories)
        found = []
        for keyword in ANCHOR_KEYWORDS:
            match = next((category for category in rest if keyword in category.name.lower()), None)
            if match is None:
                return self.categories[: len(ANCHOR_KEYWORDS)]
            rest.remove(match)
            found.append(match)
        return tuple(found)

    @property
    def personalised(self) -> tuple[Category, ...]:
        """The categories that the judge added for this prompt; they count through the overall winner alone."""
        anchors = {id(category) for category in self.anchors}
        return tuple(category for category in self.categories if id(category) not in anchors)

    @property
    def agreement(self) -> float:
        """Share of the categories whose sub-dimension scores do not contradict their stated winner, 0 to 1."""
        return sum(category.consistent for category in self.categories) / len(self.categories)

    @property
    def majority_side(self) -> int | None:
        """Side that wins most categories: 0, 1, or None when they are even; may differ from `side`."""
        balance = sum(1 if category.side == 0 else -1 for category in self.categories)
        if balance == 0:
            return None
        return 0 if balance > 0 else 1


def _side(label: str) -> int:
    return 0 if label.endswith("1") else 1
