"""Parse verdicts from replies with reasoning and a one-line answer: tolerant of formatting, strict about content.

The rules are those of `flexgym.judge.parser`. The winner is content and is read only from the ``<answer>`` tag, never
from prose, totals or reasoning. Dimensions explain the winner; those without readable scores are dropped and counted.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from pydantic_core import PydanticCustomError

from flexgym.judge.assessment import Label
from flexgym.judge.numbers import read_number
from flexgym.judge.protocol import FailureKind, JudgeFailure
from flexgym.judge.reply import UntrustedError, is_refusal, nothing_found, quoted, read_reply, split_thoughts
from flexgym.judge.statement import read_winner
from flexgym.judge.verdict import TOP_SCORE, Verdict, VerdictDimension

# Repetitions that can overlap with their neighbors are bounded, so parsing a reply that fell into a loop stays fast.
_TAG = re.compile(r"<\s{0,9}(/?)\s{0,9}answer\s{0,9}>", re.IGNORECASE)
_TOTALS = re.compile(r"^[ \t*#_]{0,20}total\s{1,9}scores?\b", re.IGNORECASE | re.MULTILINE)
_HEADING = re.compile(r"^[ \t*#_]{0,20}\d{1,2}[.)][ \t*_]{0,9}([^\n:]{1,100}?)[ \t*_]{0,9}(?::|$)", re.MULTILINE)
# A dimension that the judge added has no number: its name stands alone on the line above its first score.
_NAME = re.compile(
    r"^[ \t*#_]{0,20}(?!(?:image|video)[\s_#*]{0,4}[12])\[?([^\W\d_][^\n:\[\]]{0,99}?)\]?[ \t*_]{0,9}:[ \t*_]{0,9}$"
    r"(?=\s{0,40}[ \t*_-]{0,20}(?:image|video)[\s_#*]{0,4}[12])",
    re.IGNORECASE | re.MULTILINE,
)
_LABEL = re.compile(r"\b(?:image|video)[\s_#*]{0,4}([12])(?![^\W_])[\s*_:]{0,4}\(?\s{0,3}(?=\d)", re.IGNORECASE)
_MAX_ANSWER = 200
_KINDS: dict[str, FailureKind] = {"echoed_template": "echoed_template", "contradictory": "contradictory"}


def parse_verdict(text: str | None, finish_reason: str = "stop") -> Verdict | JudgeFailure:
    """Parse a verdict from a judge's reply.

    Args:
        text: the reply, ``<think>...</think><answer>Image 1 is better</answer>``; None is treated as empty.
        finish_reason: ``"length"`` if the reply was truncated. A verdict that is complete by then is kept.

    Returns:
        The verdict, or a `JudgeFailure` that explains why the reply cannot be trusted. Never raises.
    """
    return read_reply(_read, text, finish_reason)


def _read(text: str, cut_off: bool) -> Verdict:
    thoughts, rest = split_thoughts(text)
    tags = list(_TAG.finditer(rest))
    winners = [_winner(answer) for answer in _answers(rest, tags)]
    if len({winner[-1] for winner in winners}) > 1:
        raise UntrustedError("contradictory", f"{len(winners)} answers that name different candidates")
    if not winners:
        raise _no_answer(rest, tags, cut_off)
    dims, left_out = _dimensions(thoughts or rest[: tags[0].start()])
    return Verdict(winners[0], dims, left_out)


def _answers(text: str, tags: list[re.Match[str]]) -> Iterator[str]:
    """Yield the text between each opening tag and the closing tag directly after it."""
    for opening, closing in itertools.pairwise(tags):
        if closing[1] and not opening[1]:
            yield text[opening.end() : closing.start()]


def _no_answer(text: str, tags: list[re.Match[str]], cut_off: bool) -> UntrustedError:
    if tags and not tags[-1][1]:
        return UntrustedError("truncated", f"the answer never ends: {quoted(text[tags[-1].start() :])}")
    return nothing_found("an <answer>", text, cut_off=cut_off)


def _winner(answer: str) -> Label:
    stated = answer.strip()
    if is_refusal(stated):
        raise UntrustedError("refused", f"the judge declined: {quoted(stated)}")
    if len(stated) > _MAX_ANSWER:
        raise UntrustedError("invalid", f"answer: expected one line, got {len(stated)} characters")
    try:
        return read_winner(stated)
    except PydanticCustomError as error:
        raise UntrustedError(_KINDS.get(error.type, "invalid"), f"answer: {error}: {quoted(stated)}") from error


def _dimensions(text: str) -> tuple[tuple[VerdictDimension, ...], int]:
    """Parse the dimensions that have a score for each candidate, and count those that do not."""
    totals = _TOTALS.search(text)
    body = text[: totals.start()] if totals else text
    read = [_dimension(heading[1], block) for heading, block in _parts(body, _headings(body))]
    dims = tuple(dim for dim in read if dim is not None)
    return dims, len(read) - len(dims)


def _headings(text: str) -> list[re.Match[str]]:
    """Return the headings of dimensions; one without a number counts only once the dimension before it is complete."""
    numbered = {match.start(): match for match in _HEADING.finditer(text)}
    found: list[re.Match[str]] = []
    for match in sorted([*numbered.values(), *_NAME.finditer(text)], key=lambda match: match.start()):
        if match.start() in numbered or (found and _is_complete(text[found[-1].end() : match.start()])):
            found.append(match)
    return found


def _is_complete(block: str) -> bool:
    return {side for side, _, _ in _scores(block)} == {"1", "2"}


def _scores(block: str) -> list[tuple[str, float, str]]:
    """Return side, score and the text up to the next score for each score out of 10 in a block."""
    numbers = [(label, read_number(block[label.end() :], in_prose=True)) for label in _LABEL.finditer(block)]
    found = [(label, number) for label, number in numbers if number and number.scale == TOP_SCORE]
    starts = [*(label.start() for label, _ in found), len(block)][1:]
    return [
        (label[1], number.value, block[label.end() + number.end : start])
        for (label, number), start in zip(found, starts, strict=True)
    ]


def _dimension(name: str, block: str) -> VerdictDimension | None:
    """Parse a dimension from the text under its heading; None if a score is missing, too high or ambiguous."""
    scores: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for side, score, rest in _scores(block):
        if scores.setdefault(side, score) != score or not 0 <= score <= TOP_SCORE:
            return None
        reasons.setdefault(side, rest.strip(" \t\n\r)*_-\u2013\u2014:;"))
    if len(scores) < 2:
        return None
    return VerdictDimension(name.strip(), scores["1"], scores["2"], reasons["1"], reasons["2"])


def _parts(text: str, found: list[re.Match[str]]) -> list[tuple[re.Match[str], str]]:
    """Return all matches, each with the text up to the next match."""
    ends = [*(match.start() for match in found), len(text)][1:]
    return [(match, text[match.end() : end]) for match, end in zip(found, ends, strict=True)]
