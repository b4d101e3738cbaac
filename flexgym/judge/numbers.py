"""Numbers in replies: one grammar for all parsers. A number that could also mean another one is not read.

What may follow a number is listed, so one that is cut at an unknown sign, such as a decimal comma, a decimal point of
another script, an exponent or a fraction, is never taken for a shorter number.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_LONGEST = 200
# Digits of any script, since `float` reads them all.
_NUMBER = re.compile(r"[-+]?\d{1,30}(?:\.\d{1,30})?")
_SCALE = re.compile(r"[ \t*_]{0,4}[(\[]?[ \t]{0,3}(?:/|out[ \t]{1,3}of)[ \t*_]{0,4}(\d{1,3}(?:\.0)?)", re.IGNORECASE)
_CLOSING = re.compile(r"[*_`\"'\u2019\u201d)\]}]{0,9}")
_LINE_END = re.compile(r"[\r\n\x85\u2028\u2029]")
_STOPS = ".,;:!?\u2026\u3001\u3002\uff0c\uff1a\uff1b\uff01\uff1f|"
_DASHES = "-\u2013\u2014"
_OPENING = "([<{\"'`\u2018\u201c#*_"
_CONTINUED = re.compile(
    r"(?:to|or|and|point|out[ \t]{1,3}of|through|plus|minus|over|times|x)[ \t*_]{1,4}(?:\S)", re.IGNORECASE
)
_HALF = re.compile(r"and[ \t]{1,4}(?:a|one)[ \t]{1,4}(?:half|quarter|third)|point[ \t]{1,4}\w", re.IGNORECASE)


@dataclass(frozen=True)
class StatedNumber:
    """Number at the beginning of a text.

    Attributes:
        value: the number.
        scale: the number after ``/`` or ``out of``; None if there is none.
        end: position behind the number and its scale.
    """

    value: float
    scale: float | None
    end: int


def read_number(text: str, *, in_prose: bool = False) -> StatedNumber | None:
    """Read the number at the beginning of a text.

    Args:
        text: the text; only its first 200 characters are looked at.
        in_prose: accept any prose after the number, such as ``9/10 - 2 cats``. Use it only where the scale is required,
            since the scale already ends the number.

    Returns:
        The number, or None if there is none, or if it could also mean another one, such as in ``4,5``, ``1e1``,
        ``4 to 5`` or ``4\u00bd``.
    """
    text = text[:_LONGEST]
    number = _NUMBER.match(text)
    if number is None or not _one_script(number[0]):
        return None
    scale = _SCALE.match(text, number.end())
    end = scale.end() if scale else number.end()
    if not (_unbroken(text[end:]) if in_prose and scale else _ends(text[end:])):
        return None
    return StatedNumber(float(number[0]), float(scale[1]) if scale else None, end)


def _one_script(number: str) -> bool:
    digits = [character for character in number if character.isdigit()]
    return len({ord(digit) - unicodedata.decimal(digit) for digit in digits}) == 1


def _unbroken(rest: str) -> bool:
    """Return True unless the number continues directly, such as in ``10.5`` or ``10th``."""
    if not rest or rest[0].isspace():
        return True
    if rest[0] in _STOPS:
        return not _numeric(rest[1:2])
    return not (_numeric(rest[0]) or rest[0].isalpha() or rest[0] in "%\u066b\u066c\uff0e\u00b7\u02d9")


def _ends(rest: str) -> bool:
    """Return True if the remaining line cannot be a part of the number."""
    line = _LINE_END.split(rest, maxsplit=1)[0]
    following = line[_CLOSING.match(line).end() :]  # type: ignore[union-attr] # matches the empty string
    if not following.strip():
        return True
    if following[0].isspace():
        return _begins_prose(following.lstrip())
    return not following[0].isalpha() and _begins_prose(following)


def _begins_prose(text: str) -> bool:
    """Return True if a text begins with words, or with signs that lead to words, and not with a further number."""
    if text[0] in _STOPS or text[0] in _DASHES:
        after = text.lstrip(text[0]).strip(" \t*_`\"'\u2019\u201d)")
        return text[: -len(after) or None].strip() != "" and (not after or (_is_word(after[0]) or after[0] in _OPENING))
    if text[0] in _OPENING:
        return True
    if _is_word(text[0]):
        continued = _CONTINUED.match(text)
        return not (_HALF.match(text) or (continued and _numeric(continued[0][-1])))
    return unicodedata.category(text[0]) == "So"


def _is_word(character: str) -> bool:
    return (character.isalpha() and not _numeric(character)) or unicodedata.category(character) == "So"


def _numeric(character: str) -> bool:
    return character.isnumeric()
