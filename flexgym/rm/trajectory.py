"""Trajectory judges: decide which of two right assessments of the same pair has the better reasoning."""

from __future__ import annotations

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
from flexgym.judge.template import quoted
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
        query: the pair and the images that were shown.
        replies: text of both assessments.
        outcomes: both assessments as parsed.
    """

    query: Query
    replies: tuple[str, str]
    outcomes: tuple[Outcome, Outcome]


class TrajectoryJudge(Protocol):
    """Interface of anything that decides which of two assessments has the better reasoning."""

    def better(self, contests: Sequence[Contest]) -> list[int | None]:
        """Return for each contest 0 if the first is better, 1 if the second is, None if neither clearly is."""
        ...


class RulesTrajectoryJudge:
    """Rules for the small world, which compare an assessment with what the verifier reads from the pixels.

    The four figures of `reasoning_worth` are averaged. Equal averages leave a contest undecided.
    """

    def better(self, contests: Sequence[Contest]) -> list[int | None]:
        """Compare the reasoning by rules, see `TrajectoryJudge.better`.

        Raises:
            ConfigError: if a caption or sample is not from the small world, or an assessment has no categories.
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
    """Vision-language model that sees the images and both assessments, and is queried in both orders.

    A contest is undecided if the two answers name different assessments, or one of them cannot be parsed.

    Args:
        asker: the model, with the file that stores its replies.
        decoding: decoding settings; greedy by default.
    """

    def __init__(self, asker: Asker, decoding: Decoding | None = None) -> None:
        self._asker = asker
        self._decoding = decoding or Decoding()

    def better(self, contests: Sequence[Contest]) -> list[int | None]:
        """Query the model about the reasoning, see `TrajectoryJudge.better`."""
        queries = [_question(contest, order) for contest in contests for order in ((0, 1), (1, 0))]
        named = [_named(reply) for reply in self._asker.ask(queries, self._decoding)]
        # In the reverse order, the second review is the first assessment.
        answers = zip(named[::2], named[1::2], strict=True)
        return [one if one is not None and other == 1 - one else None for one, other in answers]


def reasoning_worth(assessment: Assessment, truth: Assessment) -> dict[str, float]:
    """Measure how well an assessment of the small world reasons.

    Args:
        assessment: assessment of a judge.
        truth: assessment of the same pair in the same order by the oracle.

    Returns:
        Four figures from 0 to 1. ``grounding``: mean over sub-dimensions of how many of three things match the pixels:
        the evidence about the first candidate, that about the second, and the sign of the scores; 0 for a sub-dimension
        that the caption does not call for. ``fit``: share of the oracle's criteria that are named under the right
        category, where those of the category made for the caption count half in total. ``agreement``: mean of the share
        of categories whose scores do not contradict their winner, and of 1 if most categories agree with the overall
        winner, else 0. ``variety``: share of sub-dimensions that do not repeat another of their category.
    """
    known = dict(_criteria(truth))
    named = [key for key, _ in _criteria(assessment)]
    grounding = [_grounding(dim, known.get(key)) for key, dim in _criteria(assessment)]
    personal = {(category.name, dim.name) for category in truth.personalized for dim in category.dims}
    fits = [_share(part, named) for part in (personal, known.keys() - personal) if part]
    majority = assessment.majority_side in (None, assessment.side)
    return {
        "grounding": sum(grounding) / len(grounding),
        "fit": sum(fits) / len(fits),
        "agreement": (assessment.agreement + majority) / 2,
        "variety": len(set(named)) / len(named),
    }


def _share(wanted: set[tuple[str, str]], named: Sequence[tuple[str, str]]) -> float:
    return len(wanted.intersection(named)) / len(wanted)


def _average(outcome: Outcome, truth: Assessment) -> float:
    if not isinstance(outcome, Assessment):
        raise ConfigError(
            "trajectory judge 'rules': expected assessments with categories, which only the dialect flex has; name a"
            " teacher as trajectory judge for other dialects"
        )
    return math.fsum(reasoning_worth(outcome, truth).values()) / 4


def _truth(contest: Contest) -> Assessment:
    advice = "name a teacher as trajectory judge for data from outside the small world"
    try:
        truth = parse_assessment(oracle_text(contest.query.pair))
    except ValueError as error:
        raise ConfigError(f"trajectory judge 'rules': {error}; {advice}") from error
    assert isinstance(truth, Assessment), "the oracle always follows the format"
    return truth


def _criteria(assessment: Assessment) -> Iterator[tuple[tuple[str, str], Dimension]]:
    for category in assessment.categories:
        for dim in category.dims:
            yield (category.name, dim.name), dim


def _grounding(stated: Dimension, truth: Dimension | None) -> float:
    if truth is None:
        return 0.0
    evidence = _matches(stated.reason_1, truth.reason_1) + _matches(stated.reason_2, truth.reason_2)
    return (evidence + (_sign(stated) == _sign(truth))) / 3


def _matches(stated: str, truth: str) -> bool:
    """Return True if a reason agrees with the truth: the same words, and numbers that are equal or close."""
    if _NUMBER.sub("#", stated) != _NUMBER.sub("#", truth):
        return False
    numbers = zip(_NUMBER.findall(stated), _NUMBER.findall(truth), strict=True)
    return all(abs(float(one) - float(other)) <= _NEAR for one, other in numbers)


def _sign(dim: Dimension) -> int:
    return (dim.score_1 > dim.score_2) - (dim.score_1 < dim.score_2)


def _question(contest: Contest, order: tuple[int, int]) -> Query:
    values = {
        "caption": contest.query.pair.prompt,
        **dict(zip(("first", "second"), (contest.replies[at] for at in order), strict=True)),
    }
    # Substitute all placeholders in one pass, so that braces in a caption or review have no meaning.
    text = re.sub(r"\{(caption|first|second)\}", lambda place: quoted(values[place[1]]), _TEXT)
    return Query(contest.query.pair, ChatRequest(contest.query.request.pictures, text))


def _named(reply: Reply | JudgeFailure) -> int | None:
    """Return the review that an answer names, counted from 0; None if it names none or both."""
    if isinstance(reply, JudgeFailure) or reply.finish_reason == "length":
        return None
    named = set(_ANSWER.findall(reply.text))
    return int(named.pop()) - 1 if len(named) == 1 else None
