"""Short assessments of the small world, from which a small model can learn to reason: first observe, then conclude.

The format is that of every assessment, with one criterion per category. Category A says what each sample shows and
which demands of the caption it misses, B how well its objects are formed, C whether it shows the caption as a whole,
and D whether the trait is met that the category of the caption tests. The text is composed from a small set of pieces,
so that a tokenizer can represent each piece as one token (see `pieces`).

If neither sample can be read, because it shows no object or none with a recognizable form, all scores are even and the
reason says so; see `cannot_tell`. The winners, which the format requires, then mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexgym.judge import Assessment
from flexgym.shapes.captions import BETWEEN, SIZES, Noun, Spec, parse_caption
from flexgym.shapes.oracle import ANCHORS, PERSONALIZED, kind_of, personal_keys
from flexgym.shapes.reading import OTHER, Reading, Seen, read_sample
from flexgym.shapes.scenes import COLORS, SHAPES, SIZE
from flexgym.shapes.verifier import (
    MIN_FIT,
    MOTIONS_OF_ONE,
    MOTIONS_OF_TWO,
    asked_motion,
    assign,
    check,
    check_frame,
    seen_motion,
    size_word,
)
from flexgym.types import MODALITIES

SCORE_REACH = 4
"""Maximum change of a score from the neutral 5 by a criterion."""

_CRITERIA = ("Demands of the caption", "Forms of the things", "Staging of the caption")
_TRAITS = {
    "shape": "Shape as asked",
    "color": "Color as asked",
    "two_things": "Both things there",
    "size": "Size as asked",
    "counting": "Count as asked",
    "binding": "Each in its color",
    "three_things": "All things there",
    "position": "Places as asked",
    "between": "Places as asked",
    "absence": "Absent as asked",
    "order": "Order as asked",
}
_MOTION = "Motion as asked"
_FORMS = ((0.93, "clean"), (MIN_FIT, "rough"), (0.0, "broken"))
_LEAST_READABLE, _MOST_READABLE = 0.65, 8.0
"""Fit of the best object below which a sample is unreadable, and number of objects above which it is."""
_STAGING = ("whole", "partial")
_TRAIT_MET = ("met", "partly", "missed")
_MOST_SHOWN = 5
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
_NOTHING, _FURTHER = "nothing", "more"
_UNREADABLE = "Neither can be read."
_REASONS = (
    "More of the caption is met.",
    "As much is met, and better formed.",
    "Nothing tells them apart.",
    _UNREADABLE,
)


@dataclass(frozen=True)
class View:
    """Content of a short assessment about one sample.

    Attributes:
        spec: meaning of the caption.
        met: which of its constraints are satisfied, by the verifier's names.
        shown: description of the sample.
        form: index into the list of forms, 0 for the best.
        readable: False if it shows no object with a recognizable form; then it satisfies nothing.
    """

    spec: Spec
    met: Mapping[str, bool]
    shown: str
    form: int
    readable: bool

    @property
    def share(self) -> float:
        """Return the share of satisfied constraints, 0 to 1."""
        return sum(self.met.values()) / len(self.met)

    @property
    def worth(self) -> tuple[float, int]:
        """Return the sort key that decides the winner: the share, then the form; larger is better."""
        return self.share, -self.form


def view(caption: str, sample: NDArray[np.uint8], reading: Reading | None = None) -> View:
    """Evaluate a sample against a caption.

    Args:
        caption: a caption of the small world.
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.
        reading: objects in the sample, if already known.

    Raises:
        ValueError: if the caption is not from the small world, or the sample has the wrong modality.
    """
    spec = parse_caption(caption)
    reading = read_sample(sample) if reading is None else reading
    met = check(spec, reading).constraints
    if not _is_readable(reading):
        return View(spec, dict.fromkeys(met, False), _NOTHING, len(_FORMS) - 1, readable=False)
    fits = [min((thing.fit for thing in frame), default=0.0) for frame in reading]
    form = next(place for place, (least, _) in enumerate(_FORMS) if float(np.mean(fits)) >= least)
    return View(spec, met, describe(spec, reading, met), form, readable=True)


def _is_readable(reading: Reading) -> bool:
    best = [max((thing.fit for thing in frame), default=0.0) for frame in reading]
    return float(np.mean(best)) >= _LEAST_READABLE and float(np.mean([*map(len, reading)])) <= _MOST_READABLE


def describe(spec: Spec, reading: Reading, met: Mapping[str, bool]) -> str:
    """Describe a sample in terms of the caption.

    Objects are listed in the order of the caption, then all others from left to right, with sizes and positions if the
    caption mentions them. One that differs from what the caption asks for is followed by the latter, as in ``"green
    square instead of black square"``; so is a motion. A video is described by its motion and by the frame that agrees
    best with what the whole sample satisfies and misses; among equal frames, the one with the most objects.

    Args:
        spec: meaning of the caption.
        reading: objects in the sample.
        met: which constraints the sample satisfies.
    """
    frame = max(reading, key=lambda frame: (_agreement(spec, frame, met), len(frame)))
    pairs = _paired(spec, frame) or [(None, None)]
    words = [_phrase(spec, *pair) for pair in pairs[:_MOST_SHOWN]] + [_FURTHER] * (len(pairs) > _MOST_SHOWN)
    told = ", ".join(words)
    if spec.modality == "image":
        return told
    motion, asked = seen_motion(spec, reading), asked_motion(spec)
    return f"{told}; {motion}" + (f"{_INSTEAD}{asked}" if motion != asked else "")


def _paired(spec: Spec, frame: Sequence[Seen]) -> list[tuple[Seen | None, Noun | None]]:
    """Return the objects of a frame with the nouns they are matched to: those of the caption, then all others."""
    if spec.category == "counting":
        return [(thing, spec.nouns[0]) for thing in frame]
    asked = assign(spec.nouns, frame, spec.relation)
    return [*zip(asked, spec.nouns, strict=True), *((thing, None) for thing in frame if thing not in asked)]


def _agreement(spec: Spec, frame: Sequence[Seen], met: Mapping[str, bool]) -> int:
    """Count the constraints for which a single frame agrees with the whole sample."""
    return sum(met[name] == holds for name, holds in check_frame(spec, frame).items())


def _phrase(spec: Spec, thing: Seen | None, noun: Noun | None) -> str:
    """Return what an object looks like and where it is, and what the caption asks for in its place if that differs."""
    sized = any(each.size for each in spec.nouns)
    words = [_NOTHING]
    if thing is not None:
        size = [size_word(thing)] if sized else []
        words = [*size, thing.color, thing.shape, *_place(spec.relation, thing)]
    return " ".join(words) + (f"{_INSTEAD}{noun.name}" if noun and not _matches(noun, thing) else "")


def _matches(noun: Noun, thing: Seen | None) -> bool:
    """Return whether an object is called as a noun demands; how well it is formed does not count."""
    if thing is None:
        return False
    demanded = ((noun.shape, thing.shape), (noun.color, thing.color), (noun.size, size_word(thing)))
    return all(asked in (None, found) for asked, found in demanded)


def _place(relation: str | None, thing: Seen) -> list[str]:
    """Return where an object is, by thirds of the canvas, along the axes that a relation is about."""
    row = _ROWS[min(int(3 * thing.y / SIZE), 2)]
    column = _COLUMNS[min(int(3 * thing.x / SIZE), 2)]
    if relation == BETWEEN:
        return [row] if row == column else [row, column]
    return {None: [], "above": [row], "below": [row]}.get(relation, [column])


def brief_assessment(first: View, second: View) -> str:
    """Compare two samples briefly; both views must be for the same caption.

    The sample that satisfies more of the caption wins; if both satisfy the same share, the better formed one; if
    nothing separates them, the first.

    Args:
        first: view of the sample shown first.
        second: view of the sample shown second.

    Returns:
        The assessment as JSON text, in the format of UnifiedReward-Flex.
    """
    return "".join(_pieces(first.spec, first, second))


def cannot_tell(assessment: Assessment) -> bool:
    """Return True if a short assessment says that neither sample can be read, so that its winners mean nothing."""
    return assessment.reason == _UNREADABLE


def pieces() -> list[str]:
    """Return the fixed pieces of all short assessments: everything except what is seen and which demands are missed."""
    found: dict[str, None] = {}
    for modality in MODALITIES:
        names = [*zip(ANCHORS[modality], _CRITERIA, strict=True)]
        names += [(title, _TRAITS.get(category, _MOTION)) for category, (title, _) in PERSONALIZED.items()]
        found |= dict.fromkeys(_opening(*name, first=name[1] == _CRITERIA[0]) for name in names)
        found |= dict.fromkeys(f"{modality.capitalize()} {side}" for side in (1, 2))
    return list(found) + [_MISSES, _INSTEAD, _BETWEEN, _CLOSING, *map(_ending, _REASONS), *map(_scores, range(1, 10))]


def words() -> list[str]:
    """Return all words that occur between the pieces."""
    places = sorted({*_ROWS, *_COLUMNS})
    colors = (*COLORS, OTHER)
    things = [f"{size} {color} {shape}" for size in (*SIZES, "medium") for color in colors for shape in SHAPES]
    demands = [f"{word} {number}" for word in _DEMANDS for number in (1, 2, 3)]
    forms = [form for _, form in _FORMS]
    motions = [*MOTIONS_OF_ONE, *MOTIONS_OF_TWO]
    return [*things, *places, *motions, *demands, *forms, *_STAGING, *_TRAIT_MET, _NOTHING, _FURTHER]


_DEMANDS = ("count", "shape", "color", "size", "place", "absence", "motion", "speed", "still")
_MISSES = "; misses "
_INSTEAD = " instead of "
_BETWEEN = '","reason_2":"'
_CLOSING = '"}'


def _opening(category: str, criterion: str, *, first: bool) -> str:
    before = '{"categories":[' if first else '"},'
    return f'{before}{{"name":"{category}","dims":[{{"name":"{criterion}","reason_1":"'


def _scores(score: int) -> str:
    return f'","score_1":{score},"score_2":{10 - score}}}],"cat_winner":"'


def _ending(reason: str) -> str:
    return f'"}}],"reason":"{reason}","winner":"'


@dataclass(frozen=True)
class _Criterion:
    """One category with its only criterion.

    Attributes:
        category: name of the category.
        name: name of the criterion.
        evidence: evidence about the first and the second sample.
        values: values of both samples, 0 to 1.
    """

    category: str
    name: str
    evidence: tuple[str, str]
    values: tuple[float, float]

    @property
    def lead(self) -> int:
        """Return the points by which the first sample's score exceeds the neutral 5."""
        return round(SCORE_REACH * (self.values[0] - self.values[1]))


def _pieces(spec: Spec, first: View, second: View) -> Iterable[str]:
    media, both = spec.modality.capitalize(), (first, second)
    ahead = 0 if first.worth >= second.worth else 1
    for number, criterion in enumerate(_criteria(spec, both)):
        yield _opening(criterion.category, criterion.name, first=not number)
        yield from (criterion.evidence[0], _BETWEEN, criterion.evidence[1], _scores(5 + criterion.lead))
        # A category that cannot separate the samples follows the overall winner.
        yield f"{media} {1 + (criterion.lead < 0 if criterion.lead else ahead)}"
    yield from (_ending(_reason(first, second)), f"{media} {1 + ahead}", _CLOSING)


def _reason(first: View, second: View) -> str:
    if not first.readable and not second.readable:
        return _UNREADABLE
    more, better, even, _ = _REASONS
    return more if first.share != second.share else better if first.form != second.form else even


def _criteria(spec: Spec, both: tuple[View, View]) -> Iterable[_Criterion]:
    shares = both[0].share, both[1].share
    demands, forms, staging = zip(ANCHORS[spec.modality], _CRITERIA, strict=True)
    yield _Criterion(*demands, (seen(both[0]), seen(both[1])), shares)
    yield _Criterion(
        *forms,
        (_FORMS[both[0].form][1], _FORMS[both[1].form][1]),
        (1 - both[0].form / 4, 1 - both[1].form / 4),
    )
    yield _Criterion(*staging, (_STAGING[shares[0] < 1], _STAGING[shares[1] < 1]), shares)
    if keys := personal_keys(spec, both[0].met):
        values = [sum(each.met[key] for key in keys) / len(keys) for each in both]
        verdicts = [_TRAIT_MET[0 if value == 1 else 1 if value else 2] for value in values]
        title, name = PERSONALIZED[spec.category][0], _TRAITS.get(spec.category, _MOTION)
        yield _Criterion(title, name, (verdicts[0], verdicts[1]), (values[0], values[1]))


def seen(each: View) -> str:
    """Describe what a sample shows and which demands of the caption it misses, if any."""
    missed = [_demand(each.spec, key) for key, met in each.met.items() if not met]
    return each.shown + (_MISSES + ", ".join(missed) if missed else "")


def _demand(spec: Spec, key: str) -> str:
    """Shorten a constraint: ``"1 color red"`` becomes ``"color 1"``, the color of the first object."""
    number = key[0] if key[0].isdigit() and len(spec.nouns) > 1 else ""
    kind = kind_of(key)
    word = "place" if kind == spec.relation else "absence" if kind == "no" else kind
    return f"{word} {number}".rstrip()
