"""Helpers of the reply parsers: length limit, reasoning blocks, refusals, and conversion of errors to failures."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from flexgym.judge.protocol import FailureKind, JudgeFailure

MAX_CHARACTERS = 65_536
"""Maximum length of a reply. Replies are limited to 4,096 tokens, about 20,000 characters; this is three times that."""

_THOUGHT = re.compile(r"[\s\ufeff]*<think(?:ing)?>", re.IGNORECASE)
_END_OF_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_REFUSAL = re.compile(
    r"[^\d]{0,60}?(?:\b(?:sorry|apolog\w+|as an ai|(?:unable|not able|not possible) to"
    r"|(?:i|we) (?:can ?not|can['\u2019]t|won['\u2019]t|will not|(?:must |have to )?decline))\b|抱歉|对不起|无法)",
    re.IGNORECASE,
)
_MAX_DETAIL = 200
_Read = TypeVar("_Read")


class UntrustedError(Exception):
    """Error for a reply that cannot be trusted; `read_reply` converts it to a `JudgeFailure`, so callers never see it.

    Attributes:
        kind: kind of the failure.
    """

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def read_reply(
    read: Callable[[str, bool], _Read], text: str | None, finish_reason: str = "stop"
) -> _Read | JudgeFailure:
    """Parse a reply and convert parsing errors to failures.

    Args:
        read: parser that takes the text and whether it was truncated; raises `UntrustedError` to reject the reply.
        text: the reply; None is treated as empty.
        finish_reason: ``"length"`` if the reply was truncated.

    Returns:
        The result of ``read``, or a `JudgeFailure` if the reply is too long, nested too deeply or rejected.
    """
    text = text or ""
    try:
        if len(text) > MAX_CHARACTERS:
            raise UntrustedError("unparsable", f"expected at most {MAX_CHARACTERS} characters, got {len(text)}")
        # A reply can contain a lone surrogate, which cannot be encoded as UTF-8.
        return read(text.encode("utf-8", "replace").decode(), finish_reason == "length")
    except UntrustedError as failure:
        kind, detail = failure.kind, str(failure)
    except RecursionError:
        kind, detail = "unparsable", "the reply is nested too deeply"
    line = " ".join(detail.split())
    return JudgeFailure(kind, line if len(line) <= _MAX_DETAIL else line[: _MAX_DETAIL - 3] + "...")


def split_thoughts(text: str, *, answers_begin_with: str = "<") -> tuple[str, str]:
    """Split a reply into its reasoning and the answer after it.

    The opening tag may be missing, since it can be part of the prompt.

    Args:
        text: the reply.
        answers_begin_with: characters with which an answer can begin. Without an opening tag, a closing tag counts only
            if one of these, a line break or the end follows, so that a closing tag inside a repeated caption does not
            count.

    Returns:
        The reasoning (empty if there is none) and the remaining text.

    Raises:
        UntrustedError: if the reasoning is opened but never closed.
    """
    opened = _THOUGHT.match(text)
    lone = rf"{_END_OF_THOUGHT.pattern}(?=\s*(?:\n|[{re.escape(answers_begin_with)}]|\Z))"
    end = _END_OF_THOUGHT.search(text) if opened else re.search(lone, text, re.IGNORECASE)
    if opened and not end:
        raise UntrustedError("truncated", "the reasoning never ends")
    if not end:
        return "", text
    return text[opened.end() if opened else 0 : end.start()], text[end.end() :]


def nothing_found(expected: str, answer: str, *, cut_off: bool) -> UntrustedError:
    """Create the error for an answer that does not contain what was asked for.

    Args:
        expected: description of what was asked for.
        answer: the text after the reasoning.
        cut_off: True if the reply was truncated.
    """
    if is_refusal(answer):
        return UntrustedError("refused", f"the judge declined: {quoted(answer)}")
    if cut_off:
        return UntrustedError("truncated", f"the reply ends before {expected}: {quoted(answer[-40:])}")
    if not answer.strip():
        return UntrustedError("unparsable", "the reply contains no text")
    return UntrustedError("unparsable", f"expected {expected}, got {quoted(answer)}")


def is_refusal(text: str) -> bool:
    """Return True if the text starts like a refusal."""
    return _REFUSAL.match(text) is not None


def quoted(text: str) -> str:
    """Return the beginning of a text in quotation marks, with unprintable characters escaped."""
    return repr(text.strip()[: _MAX_DETAIL // 2])
