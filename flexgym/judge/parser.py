"""Reading a judge's reply: tolerant of form, strict about content."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, get_args

import json_repair
from pydantic import ValidationError

from flexgym.judge.assessment import Assessment
from flexgym.judge.protocol import FailureKind, JudgeFailure, Outcome

MAX_CHARACTERS = 65_536
"""Replies end at 4,096 tokens, some 20,000 characters; three times that is no honest reply and costs time to repair."""

_END_OF_THOUGHT = "</think>"
_WINNER_KEY = re.compile(r"""["']winner["']\s*:""", re.IGNORECASE)
_NEEDED_KEYS = ("winner", "categories")
_OBJECT_START = re.compile(r"""\{\s*["'\u201c]""")
_MAX_STARTS = 8
# Repair takes time that grows with the square of the broken marks: minutes for a reply that fell into a loop. An honest
# one has some 25 objects and 500 quotation marks.
_MAX_BRACKETS = 200
_MAX_QUOTES = 1500
_DECODER = json.JSONDecoder()
# Where one reply breaks several rules, the first of these names it.
_PRIORITY: tuple[FailureKind, ...] = ("echoed_label", "two_winners", "no_winner", "score_sum", "schema")


def parse_assessment(text: str | None) -> Outcome:
    """Read the assessment out of a judge's reply.

    Clean JSON is read as it is. Otherwise thoughts, fences and prose around the object are cut off, broken syntax
    is repaired and the case of keys and labels is ignored. A repair never supplies a verdict: the text is cut at its
    last closing brace first, so a reply that was cut off before its winner stays without one.

    Args:
        text: the reply; None stands for an empty one.

    Returns:
        The assessment, or a `JudgeFailure` that says why the reply cannot be trusted. Nothing is raised.
    """
    if text is None or not text.strip():
        return JudgeFailure("empty", "the reply holds no text")
    if len(text) > MAX_CHARACTERS:
        return JudgeFailure("oversized", f"expected at most {MAX_CHARACTERS} characters, got {len(text)}")
    answer = text.rpartition(_END_OF_THOUGHT)[2]
    if answer.count('"winner"') == 1:
        # What fails here is looked at again below, which repairs it or finds out what is wrong.
        with contextlib.suppress(ValueError, RecursionError):
            return Assessment.model_validate(json.loads(answer))
    return _parse_tolerantly(answer)


def _parse_tolerantly(text: str) -> Outcome:
    # Of a repeated key the last would silently win, and of two objects the first.
    verdicts = len(_WINNER_KEY.findall(text))
    if verdicts > 1:
        return JudgeFailure("ambiguous", f"expected one overall winner, got {verdicts}")
    try:
        data = _find_object(text)
    except (ValueError, RecursionError) as error:
        return JudgeFailure("no_json", f"the reply cannot be read as JSON: {type(error).__name__}")
    if not isinstance(data, dict):
        return JudgeFailure("no_json", f"expected a JSON object in the reply, got {type(data).__name__}")
    try:
        return Assessment.model_validate(_with_plain_keys(data))
    except ValidationError as error:
        return _failure(error)
    except RecursionError:
        return JudgeFailure("schema", "the reply is nested too deeply")


def _find_object(text: str) -> Any:
    """The first JSON object in ``text`` that looks like an assessment, repaired if need be; None without an object."""
    end = text.rfind("}") + 1
    starts = [match.start() for match in _OBJECT_START.finditer(text, 0, end)][:_MAX_STARTS]
    if not starts:
        return None
    for start in starts:
        try:
            data, _ = _DECODER.raw_decode(text, start)
        except ValueError:
            continue
        if isinstance(data, dict) and not set(_NEEDED_KEYS).isdisjoint(map(_plain_key, data)):
            return data
    excerpt = text[starts[0] : end]
    return json_repair.loads(excerpt, skip_json_loads=True) if _worth_repair(excerpt) else None


def _worth_repair(excerpt: str) -> bool:
    lower = excerpt.lower()
    return (
        all(key in lower for key in _NEEDED_KEYS)
        and sum(map(lower.count, "{[")) <= _MAX_BRACKETS
        and sum(map(lower.count, "\"'\u201c\u201d")) <= _MAX_QUOTES
    )


def _with_plain_keys(data: Any) -> Any:
    if isinstance(data, dict):
        return {_plain_key(key): _with_plain_keys(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_plain_keys(value) for value in data]
    return data


def _plain_key(key: str) -> str:
    return re.sub(r"[\s-]+", "_", key.strip().lower())


def _failure(error: ValidationError) -> JudgeFailure:
    """The failure that names the gravest of the broken rules."""
    broken: dict[FailureKind, str] = {}
    for item in error.errors(include_url=False, include_context=False):
        place = ".".join(map(str, item["loc"])) or "reply"
        broken.setdefault(_kind(item["type"], item["loc"]), f"{place}: {item['msg']}")
    kind = next(kind for kind in _PRIORITY if kind in broken)
    return JudgeFailure(kind, broken[kind])


def _kind(error_type: str, place: tuple[int | str, ...]) -> FailureKind:
    if error_type == "missing" and place and place[-1] in ("winner", "cat_winner"):
        return "no_winner"
    return error_type if error_type in get_args(FailureKind) else "schema"  # type: ignore[return-value]
