"""The hierarchical assessment of a pair: overall winner, categories with their winners, scored sub-dimensions.

The field names are the JSON keys that UnifiedReward-Flex writes (arXiv 2602.02380), so a dumped model is again a reply.
What decides (winners, scores, the names of categories) is held to the format. What explains (reasons, the repeated
prompt) is not: where it is no text, it is taken as empty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

SCORE_SUM = 10.0
"""Both scores of a sub-dimension share this many points."""

ANCHOR_KEYWORDS = ("semantic", "quality", "aesthetic")
"""What the names of the three mandatory categories A, B and C contain, for images and for videos."""

Label = Literal["Image 1", "Image 2", "Video 1", "Video 2"]

_LABELS = frozenset({"Image 1", "Image 2", "Video 1", "Video 2"})
_DECORATION = r"[\s*_`\"'\u2018\u2019\u201c\u201d()\[\]<>.,:;]*"
_ONE_LABEL = re.compile(rf"{_DECORATION}(?:the\s+)?(image|video)[\s_#:-]*([12]){_DECORATION}", re.IGNORECASE)
_ECHOED_LABEL = re.compile(r"1\s*[/|]\s*(?:image|video)?\s*2|2\s*[/|]\s*(?:image|video)?\s*1", re.IGNORECASE)
_LONE_NUMBER = re.compile(r"(?<!\d)[12](?!\d)")
_SUM_TOLERANCE = 1e-3


def normalise_label(value: Any) -> str:
    """The canonical label behind what a model wrote as a winner.

    Only a label on its own counts, whatever its case, spacing, quotes and brackets. A bare ``1`` is refused, since it
    may as well be a position counted from zero, and so is a sentence, since it may say that ``Image 1`` lost.
    Whether the label says image or video is left open: models mix the two, as the frames of videos reach them as
    images, and the number alone says which candidate is meant.

    Args:
        value: the JSON value under ``winner`` or ``cat_winner``.

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
            raise PydanticCustomError("echoed_template", "the template was echoed in place of a choice")
        if {"1", "2"} <= set(_LONE_NUMBER.findall(value)):
            raise PydanticCustomError("contradictory", "both candidates are named as the winner")
    elif isinstance(value, list | tuple) and len(value) > 1:
        raise PydanticCustomError("contradictory", "several winners are listed")
    raise PydanticCustomError("no_winner", "expected one of 'Image 1', 'Image 2', 'Video 1', 'Video 2'")


def anchor_places(names: Sequence[str]) -> tuple[int, ...]:
    """Where the three mandatory categories stand.

    They are found by what their names contain, since models drop the letter or put a personalised category first; of
    several candidates the one with the right letter is preferred. Where a name is not recognised, the first three
    are taken.

    Args:
        names: of all categories, in the order of the reply.

    Returns:
        Their places in ``names`` in the order A, B, C.
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
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _encodable(value: str) -> str:
    # JSON can hold half of a surrogate pair, which no file can.
    return value.encode("utf-8", "replace").decode()


Winner = Annotated[Label, BeforeValidator(normalise_label)]
Score = Annotated[float, BeforeValidator(_score), Field(ge=0.0, le=SCORE_SUM)]
Name = Annotated[str, AfterValidator(_encodable)]
Explanation = Annotated[Name, BeforeValidator(_text)]


class _Part(BaseModel):
    """What all levels share: frozen, unknown keys dropped."""

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


class Category(_Part):
    """A category of criteria with its own winner.

    Attributes:
        name: such as ``"A. Semantic Alignment & Accuracy"``.
        dims: the sub-dimensions, at least one.
        cat_reason: why the winner wins the category.
        cat_winner: label of the winner.
    """

    name: Name
    dims: tuple[Dimension, ...] = Field(min_length=1)
    cat_reason: Explanation = ""
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
        left_out: number of personalised categories that broke the rules and are not among ``categories``. It is no
            part of a reply, so neither dumps nor the JSON schema show it.
    """

    prompt: Explanation = ""
    categories: tuple[Category, ...] = Field(min_length=len(ANCHOR_KEYWORDS))
    reason: Explanation = ""
    winner: Winner
    left_out: SkipJsonSchema[int] = Field(default=0, ge=0, exclude=True)

    @property
    def side(self) -> int:
        """Overall winner: 0 for the first candidate, 1 for the second."""
        return _side(self.winner)

    @property
    def anchors(self) -> tuple[Category, ...]:
        """The three mandatory categories in the order A, B, C, as `anchor_places` finds them."""
        return tuple(self.categories[place] for place in self._anchor_places)

    @property
    def personalised(self) -> tuple[Category, ...]:
        """The categories that the judge added for this prompt; they count through the overall winner alone."""
        anchors = self._anchor_places
        return tuple(category for place, category in enumerate(self.categories) if place not in anchors)

    @property
    def _anchor_places(self) -> tuple[int, ...]:
        return anchor_places([category.name for category in self.categories])

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
