"""What the readers of replies in plain text share: length, thoughts, refusals, and how distrust becomes a failure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from flexgym.judge.parser import MAX_CHARACTERS
from flexgym.judge.protocol import FailureKind, JudgeFailure

_THOUGHT = re.compile(r"[\s\ufeff]*<think(?:ing)?>", re.IGNORECASE)
_END_OF_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
# Without an opening tag, one in a repeated caption must not count: there, no line break or tag follows.
_LONE_END_OF_THOUGHT = re.compile(_END_OF_THOUGHT.pattern + r"(?=\s*(?:\n|<|\Z))", re.IGNORECASE)
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
        line = " ".join(str(failure).split())
        return JudgeFailure(failure.kind, line if len(line) <= _MAX_DETAIL else line[: _MAX_DETAIL - 3] + "...")


def split_thoughts(text: str) -> tuple[str, str]:
    """The thoughts of a reply and what follows them; the opening tag may be missing, as it can be part of the prompt.

    Raises:
        UntrustedError: the thoughts never end.
    """
    opened = _THOUGHT.match(text)
    end = (_END_OF_THOUGHT if opened else _LONE_END_OF_THOUGHT).search(text)
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
