"""Trajectory judges: which of two right assessments of one pair reasons better."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from flexgym.core.errors import ConfigError
from flexgym.judge.assessment import Assessment, Dimension
from flexgym.judge.backends.base import ChatRequest, Decoding, Reply
from flexgym.judge.parser import parse_assessment
from flexgym.judge.protocol import JudgeFailure, Outcome
from flexgym.rm.replies import Asker, Query, oracle_text

_TEXT = """You are shown the two candidates that a reviewer had to compare, and two reviews of them, \
which agree on the winner.
Both candidates were made for this caption: {caption}

Say which review reasons better. Look at the pictures yourself and weigh, in this order:
1. Grounding: what it says about each candidate can be seen in the pictures, and nothing is made up.
2. Fit: its criteria are those that matter for this very caption.
3. Agreement: scores, the winners of categories and the overall winner follow from one another.
Neither length nor the order of the two reviews counts.

Review 1: {first}

Review 2: {second}

Explain your choice in a few sentences. End with one line of its own, either "Better: 1" or "Better: 2"."""

_ANSWER = re.compile(r"^[\s*_#>]*better[\s*_]*:[\s*_]*(?:review\s*)?([12])[\s*_.]*$", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NEAR = 0.1
_EVEN = 1e-6


@dataclass(frozen=True, eq=False)
class Contest:
    """Two right assessments of one pair.

    Attributes:
        query: the pair, and the pictures that were shown.
        replies: both as they were written.
        outcomes: both as they were read.
    """

    query: Query
    replies: tuple[str, str]
    outcomes: tuple[Outcome, Outcome]


class TrajectoryJudge(Protocol):
    """Whoever says which of two assessments reasons better."""

    def better(self, contests: Sequence[Contest]) -> list[int | None]:
        """For each contest 0 for the first, 1 for the second, None where neither can be said to be better."""
        ...


class RulesTrajectoryJudge:
    """Rules for the small world, which hold an assessment against what the verifier reads off the pixels.

    Four figures of `reasoning_worth` are averaged. Equal averages leave a contest undecided.
    """

    def better(self, contests: Sequence[Contest]) -> list[int | None]:
        """See `TrajectoryJudge.better`.

        Raises:
            ConfigError: a caption or a sample of another world, or a judgement without categories.
        """
        return [self._better(contest) for contest in contests]

    @staticmethod
    def _better(contest: Contest) -> int | None:
        truth = _truth(contest)
        first, second = (_average(outcome, truth) for outcome in contest.outcomes)
        if abs(first - second) < _EVEN:
            return None
        return 0 if first > second else 1


class TeacherTrajectoryJudge:
    """A vision-language model that sees pictures and both assessments, and is asked in both orders.

    A contest in which the two answers name different assessments, or in which one cannot be read, stays undecided.

    Args:
        asker: the model, with the file that keeps its replies.
        decoding: greedy by default.
    """

    def __init__(self, asker: Asker, decoding: Decoding | None = None) -> None:
        self._asker = asker
        self._decoding = decoding or Decoding()

    def better(self, contests: Sequence[Contest]) -> list[int | None]:
        """See `TrajectoryJudge.better`."""
        queries = [_question(contest, order) for contest in contests for order in ((0, 1), (1, 0))]
        named = [_named(reply) for reply in self._asker.ask(queries, self._decoding)]
        # Asked the other way round, the second review is the first assessment.
        answers = zip(named[::2], named[1::2], strict=True)
        return [one if one is not None and other == 1 - one else None for one, other in answers]


def reasoning_worth(told: Assessment, truth: Assessment) -> dict[str, float]:
    """How well an assessment of the small world reasons.

    Args:
        told: by a judge.
        truth: what the oracle says about the same pair in the same order.

    Returns:
        Four figures from 0 to 1. ``grounding``: over the sub-dimensions, how much of the evidence about the first and
        the second candidate and of the sign of the scores is what the pixels show; one that the caption does not call
        for shows nothing. ``fit``: share of the oracle's criteria that are named under the right category, those of
        the category made for the caption counted half of all. ``agreement``: mean of the share of categories whose
        scores do not contradict their winner, and of whether most categories go with the overall winner.
        ``variety``: share of the sub-dimensions that repeat no other of their category.
    """
    known = dict(_criteria(truth))
    named = [key for key, _ in _criteria(told)]
    grounding = [_grounding(dim, known.get(key)) for key, dim in _criteria(told)]
    personal = {(category.name, dim.name) for category in truth.personalised for dim in category.dims}
    fits = [_share(part, named) for part in (personal, known.keys() - personal) if part]
    majority = told.majority_side in (None, told.side)
    return {
        "grounding": sum(grounding) / len(grounding),
        "fit": sum(fits) / len(fits),
        "agreement": (told.agreement + majority) / 2,
        "variety": len(set(named)) / len(named),
    }


def _share(wanted: set[tuple[str, str]], named: Sequence[tuple[str, str]]) -> float:
    return len(wanted.intersection(named)) / len(wanted)


def _average(outcome: Outcome, truth: Assessment) -> float:
    if not isinstance(outcome, Assessment):
        raise ConfigError(
            "trajectory judge 'rules': expected assessments with categories, which the dialect flex has; name a"
            " teacher as trajectory judge for any other"
        )
    return math.fsum(reasoning_worth(outcome, truth).values()) / 4


def _truth(contest: Contest) -> Assessment:
    advice = "name a teacher as trajectory judge for other data than the small world's"
    try:
        truth = parse_assessment(oracle_text(contest.query.pair))
    except ValueError as error:
        raise ConfigError(f"trajectory judge 'rules': {error}; {advice}") from error
    assert isinstance(truth, Assessment), "the oracle keeps to the format"
    return truth


def _criteria(assessment: Assessment) -> Iterator[tuple[tuple[str, str], Dimension]]:
    for category in assessment.categories:
        for dim in category.dims:
            yield (category.name, dim.name), dim


def _grounding(told: Dimension, truth: Dimension | None) -> float:
    if truth is None:
        return 0.0
    evidence = _says(told.reason_1, truth.reason_1) + _says(told.reason_2, truth.reason_2)
    return (evidence + (_sign(told) == _sign(truth))) / 3


def _says(told: str, truth: str) -> bool:
    """Whether a reason says what is so: the same words and counts, and measures that are near."""
    if _NUMBER.sub("#", told) != _NUMBER.sub("#", truth):
        return False
    numbers = zip(_NUMBER.findall(told), _NUMBER.findall(truth), strict=True)
    return all(abs(float(one) - float(other)) <= _NEAR for one, other in numbers)


def _sign(dim: Dimension) -> int:
    return (dim.score_1 > dim.score_2) - (dim.score_1 < dim.score_2)


def _question(contest: Contest, order: tuple[int, int]) -> Query:
    told = {
        "caption": contest.query.pair.prompt,
        **dict(zip(("first", "second"), (contest.replies[at] for at in order), strict=True)),
    }
    # In one pass, so that braces in a caption or a review mean nothing.
    text = re.sub(r"\{(caption|first|second)\}", lambda place: _quoted(told[place[1]]), _TEXT)
    return Query(contest.query.pair, ChatRequest(contest.query.request.pictures, text))


def _quoted(text: str) -> str:
    """A text as a JSON string; a tokenizer would take ``<|im_end|>`` in it for the end of the message."""
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("<", "\\u003c")


def _named(reply: Reply | JudgeFailure) -> int | None:
    """The review that an answer names, counted from 0; None for none or for both."""
    if isinstance(reply, JudgeFailure) or reply.finish_reason == "length":
        return None
    named = set(_ANSWER.findall(reply.text))
    return int(named.pop()) - 1 if len(named) == 1 else None
