"""Parse pair replies of UnifiedReward (arXiv 2503.05236) 1.x and 2.0: a sentence, or one score per axis and candidate.

The rules are those of `flexgym.judge.parser`: formatting and explanations are ignored, and a winner is never guessed. A
reply that finds both candidates equally good is a failure of the kind ``tie``, which counts half a win for each.
"""

from __future__ import annotations

import re
from collections import defaultdict

from flexgym.judge.assessment import Label
from flexgym.judge.axes import Axis, axis_label
from flexgym.judge.numbers import read_number
from flexgym.judge.protocol import JudgeFailure
from flexgym.judge.reply import UntrustedError, nothing_found, quoted, read_reply, split_thoughts
from flexgym.judge.statement import stated_winner, states_tie
from flexgym.judge.verdict import TOP_SCORE, Verdict, VerdictDimension

PAIR_AXES = tuple(
    Axis(name.lower(), f"{name} Score", lowest=0.0, highest=1.0) for name in ("Alignment", "Coherence", "Style")
)
"""Axes of UnifiedReward 2.0's pair scores, for images and for videos."""

_SUM_TOLERANCE = 0.011  # scores are rounded to two decimals
_TAGS = re.compile(r"</?\s{0,9}answer\s{0,9}>|<\|[^|<>]{1,30}\|>", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!\u3002])\s|[\n;]")
_ECHO = re.compile(r"\b(?:image|video)\s{0,3}(?:1\s{0,3}[/|]\s{0,3}2|2\s{0,3}[/|]\s{0,3}1)(?!\d)", re.IGNORECASE)
_SIDE = re.compile(
    r"\b(image|video)[\s_#*]{0,4}([12])(?![^\W_])[\s*_]{0,4}(?:[:=\uff1a]|is\b)?[\s*_`]{0,4}", re.IGNORECASE
)
_PLACEHOLDER = re.compile(r"[\[<({]{0,3}\s{0,3}[xy](?!\w)", re.IGNORECASE)


def parse_rank(text: str | None, finish_reason: str = "stop") -> Verdict | JudgeFailure:
    """Parse a reply that names the better candidate in a sentence, such as ``Image 1 is better.``.

    Args:
        text: the reply; None is treated as empty.
        finish_reason: ``"length"`` if the reply was truncated. A sentence that is complete by then is kept.

    Returns:
        The verdict, without dimensions, or a `JudgeFailure`. Never raises.
    """
    return read_reply(_read_rank, text, finish_reason)


def parse_pair_scores(text: str | None, finish_reason: str = "stop") -> Verdict | JudgeFailure:
    """Parse a reply with a score of each candidate per axis, which sum to 1; the higher total wins.

    An axis whose scores are not numbers, out of range or do not sum to 1 is set aside and counted.

    Args:
        text: the reply, with lines such as ``Image 1: 0.7`` under ``Alignment Score:``; None is treated as empty.
        finish_reason: ``"length"`` if the reply was truncated. Scores that are complete by then are kept.

    Returns:
        The verdict, with the scores times 10, or a `JudgeFailure`. Never raises.
    """
    return read_reply(_read_scores, text, finish_reason)


def _read_rank(text: str, cut_off: bool) -> Verdict:
    answer = _TAGS.sub("\n", split_thoughts(text)[1])
    sentences = _SENTENCE_END.split(answer)
    if cut_off:
        sentences = sentences[:-1]  # which may continue
    stated = [stated_winner(sentence, compared=True) for sentence in sentences]
    winners: list[Label] = [winner for winner in stated if winner is not None]
    tie = any(map(states_tie, sentences))
    if len({winner[-1] for winner in winners}) + tie > 1:
        raise UntrustedError("contradictory", f"the reply names different winners: {quoted(answer)}")
    if tie:
        raise UntrustedError("tie", "the judge finds both equally good")
    if winners:
        return Verdict(winners[0])
    if _ECHO.search(answer):
        raise UntrustedError("echoed_template", "the reply repeats the template instead of choosing a winner")
    raise nothing_found("a sentence such as 'Image 1 is better.'", answer, cut_off=cut_off)


def _read_scores(text: str, cut_off: bool) -> Verdict:
    answer = split_thoughts(text)[1]
    if cut_off:
        answer = answer[: answer.rfind("\n") + 1]  # the last line may lack digits
    blocks = _blocks(answer)
    if not any(blocks.values()):
        raise nothing_found(f"'{PAIR_AXES[0].label}: Image 1: 0.7'", answer, cut_off=cut_off)
    if missing := [axis.label for axis in PAIR_AXES if not blocks[axis]]:
        raise UntrustedError("truncated" if cut_off else "invalid", f"expected {missing[0]!r}, got no such line")
    dims = [dim for dim in (_dimension(axis, blocks[axis], cut_off=cut_off) for axis in PAIR_AXES) if dim]
    if not dims:
        raise UntrustedError("invalid", "expected scores from 0 to 1 that sum to 1, got none on any axis")
    verdict = Verdict(_label(answer, "1"), tuple(dims), len(PAIR_AXES) - len(dims))
    if verdict.score_side is None:
        raise UntrustedError("tie", "the scores of both sum to the same")
    return Verdict(_label(answer, str(verdict.score_side + 1)), verdict.dims, verdict.left_out)


def _blocks(text: str) -> dict[Axis, list[str]]:
    """Return the texts under the labels of each axis, up to the next label."""
    labels = sorted(
        ((match.start(), match.end(), axis) for axis in PAIR_AXES for match in axis_label(axis).finditer(text)),
        key=lambda label: label[0],
    )
    ends = [*(start for start, _, _ in labels), len(text)][1:]
    blocks: dict[Axis, list[str]] = {axis: [] for axis in PAIR_AXES}
    for (_, start, axis), end in zip(labels, ends, strict=True):
        blocks[axis].append(text[start:end])
    return blocks


def _dimension(axis: Axis, blocks: list[str], *, cut_off: bool) -> VerdictDimension | None:
    """Return the scores of an axis; None if they are odd and therefore set aside."""
    stated: defaultdict[str, set[float | None]] = defaultdict(set)
    for block in blocks:
        for label in _SIDE.finditer(block):
            stated[label[2]].add(_score(axis, block[label.end() :]))
    if cut_off and len(stated) < 2:
        raise UntrustedError("truncated", f"{axis.label}: the reply ends before both scores are given")
    for side, values in stated.items():
        if len(values - {None}) > 1:
            raise UntrustedError("contradictory", f"{axis.label}: candidate {side} has more than one score")
    first, second = (next(iter(stated[side]), None) if len(stated[side]) == 1 else None for side in "12")
    if first is None or second is None or abs(first + second - axis.highest) > _SUM_TOLERANCE:
        return None
    return VerdictDimension(axis.name, TOP_SCORE * first, TOP_SCORE * second)


def _score(axis: Axis, text: str) -> float | None:
    if _PLACEHOLDER.match(text):
        raise UntrustedError("echoed_template", f"{axis.label}: the reply repeats the template instead of a number")
    number = read_number(text)
    if number is None or number.scale not in (None, axis.highest) or not axis.lowest <= number.value <= axis.highest:
        return None
    return number.value


def _label(answer: str, side: str) -> Label:
    """Return the label of a candidate in the words of the reply."""
    found = _SIDE.search(answer)
    return f"{found[1].capitalize() if found else 'Image'} {side}"  # type: ignore[return-value]
