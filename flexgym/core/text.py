"""Text from outside, such as prompts, replies, file names and messages of servers: made safe to show, and checked."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

_EXCERPT_LENGTH = 200
_UNUSUAL = re.compile(r"[^ -~\n\t]")
# Letters and marks that are drawn as nothing, so that two different texts look alike.
_INVISIBLE = frozenset(
    [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE0E)]
    + [*range(0xE0100, 0xE01F0)]
)


def printable(text: str) -> str:
    r"""Return text that cannot do anything to a terminal, nor look like other text.

    Letters, digits, marks, punctuation, symbols, spaces, tabs and line breaks stay. Everything else is written as an
    escape such as ``\x1b``: control characters with the escape sequences that they begin, carriage returns, characters
    that reorder text or are invisible, and halves of surrogate pairs.

    Args:
        text: from anywhere.
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNUSUAL.sub(_shown, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Return the first 200 characters of ``text`` on one line and `printable`, for a log or an error message."""
    return printable(" ".join(text[: 2 * _EXCERPT_LENGTH].split())[:_EXCERPT_LENGTH])


def is_whole(text: str) -> bool:
    """Return True for text without halves of surrogate pairs, which are no characters and cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def halves_of_pairs(value: Any) -> Iterator[str]:
    """Yield the texts that are not whole, see `is_whole`.

    Args:
        value: of texts, mappings (keys count), lists and tuples at any depth; other values have no texts.
    """
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            if not is_whole(each):
                yield each
        elif isinstance(each, Mapping):
            left += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple):
            left += each


class PlainLogger(logging.LoggerAdapter[logging.Logger]):
    """Logger whose messages are `printable`, whichever handler writes them and wherever.

    Args:
        name: name of the logger.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a message with its arguments filled in."""
        if self.isEnabledFor(level):
            text = str(msg) % args if args else str(msg)
            self.logger.log(level, "%s", printable(text), **{"stacklevel": 2, **kwargs})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Return message and options unchanged."""
        return msg, kwargs


def printable_records(factory: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """Wrap a factory of log records so that the messages of all libraries are `printable`.

    Args:
        factory: as `logging.getLogRecordFactory` returns it.
    """

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # a message that does not fit its arguments, which the handler reports
            return record
        if printable(text) != text:
            record.msg, record.args = printable(text), None
        return record

    return make


def _shown(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable() and ord(character) not in _INVISIBLE:
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode()
