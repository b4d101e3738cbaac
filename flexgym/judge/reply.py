"""What the readers of replies share: length, thoughts, refusals, and how distrust becomes a failure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from flexgym.judge.protocol import FailureKind, JudgeFailure

MAX_CHARACTERS = 65_536
"""Replies end at 4,096 tokens, some 20,000 characters; three times that is no honest reply."""

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
    """Why a reply is refused; `read_reply` turns it into a failure, so no caller of a parser sees it.

    Attributes:
        kind: of the failure.
    """

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def read_reply(
    read: Callable[[str, bool], _Read], text: str | None, finish_reason: str = "stop"
) -> _Read | JudgeFailure:
    """Read a reply of honest length.

    Args:
        read: takes the text and whether it was cut off; raises `UntrustedError` for what it refuses.
        text: the reply; None stands for an empty one.
        finish_reason: ``"length"`` for a reply that was cut off.

    Returns:
        What was read, or the failure.
    """
    text = text or ""
    try:
        if len(text) > MAX_CHARACTERS:
            raise UntrustedError("unparsable", f"expected at most {MAX_CHARACTERS} characters, got {len(text)}")
        # A reply can hold half of a surrogate pair, which no file can.
        return read(text.encode("utf-8", "replace").decode(), finish_reason == "length")
    except UntrustedError as failure:
        kind, detail = failure.kind, str(failure)
    except RecursionError:
        kind, detail = "unparsable", "the reply is nested too deeply"
    line = " ".join(detail.split())
    return JudgeFailure(kind, line if len(line) <= _MAX_DETAIL else line[: _MAX_DETAIL - 3] + "...")


def split_thoughts(text: str, *, answers_begin_with: str = "<") -> tuple[str, str]:
    """The thoughts of a reply and what follows them; the opening tag may be missing, as it can be part of the prompt.

    Args:
        text: the reply.
        answers_begin_with: the characters of which one follows a closing tag that stands alone, unless a line break or
            nothing does; a closing tag in a repeated caption, which other words follow, then ends no thoughts.

    Raises:
        UntrustedError: the thoughts never end.
    """
    opened = _THOUGHT.match(text)
    lone = rf"{_END_OF_THOUGHT.pattern}(?=\s*(?:\n|[{re.escape(answers_begin_with)}]|\Z))"
    end = _END_OF_THOUGHT.search(text) if opened else re.search(lone, text, re.IGNORECASE)
    if opened and not end:
        raise UntrustedError("truncated", "the thoughts never end")
    if not end:
        return "", text
    return text[opened.end() if opened else 0 : end.start()], text[end.end() :]


def nothing_found(expected: str, answer: str, *, cut_off: bool) -> UntrustedError:
    """The error about an answer that does not hold what was asked for.

    Args:
        expected: what that is, in words.
        answer: what the judge wrote after its thoughts.
        cut_off: whether the reply was.
    """
    if is_refusal(answer):
        return UntrustedError("refused", f"the judge declined: {quoted(answer)}")
    if cut_off:
        return UntrustedError("truncated", f"the reply ends before {expected}: {quoted(answer[-40:])}")
    if not answer.strip():
        return UntrustedError("unparsable", "the reply holds no text")
    return UntrustedError("unparsable", f"expected {expected}, got {quoted(answer)}")


def is_refusal(text: str) -> bool:
    """Whether a text begins as one that declines does."""
    return _REFUSAL.match(text) is not None


def quoted(text: str) -> str:
    """The beginning of a text in quotation marks, without characters that cannot be printed."""
    return repr(text.strip()[: _MAX_DETAIL // 2])
