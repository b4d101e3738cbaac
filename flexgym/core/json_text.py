"""JSON from outside: prompt files, data rows, checkpoints, requests and replies, read by one rule.

Nesting and numbers are bounded, strings hold whole characters, and no key occurs twice, so that what is accepted here
cannot fail later in a run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexgym.core.text import halves_of_pairs, is_whole, one_line

MAX_DEPTH = 100
"""Maximum number of lists and objects within each other."""

MAX_FILE_BYTES = 64 * 2**20
"""Maximum size of a JSON file that is read at once."""

MAX_CONFIG_BYTES = 2**20
"""Maximum size of a JSON file that holds settings alone."""

MAX_DIGITS = 300
"""Maximum number of digits of an integer, which then is finite as a float; tokenizers write 31 digits for no limit."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """Raised for text that is not JSON, or not within the bounds of this module."""


def parse_json(data: str | bytes, *, lenient: bool = False, nan: bool = False) -> Any:
    """Parse one JSON document.

    Args:
        data: text, or bytes in UTF-8 with or without a byte order mark.
        lenient: for replies of servers of others, in which most values do not matter: a number that is too large
            becomes infinity, ``NaN`` and ``Infinity`` are read, of a repeated key the last value counts, and half of a
            surrogate pair becomes U+FFFD.
        nan: read ``NaN`` and ``Infinity``, which Python writes and JSON does not have; for data rows, whose schemas
            reject them where they matter.

    Returns:
        dict, list, str, int (of at most 300 digits), float (finite unless ``lenient`` or ``nan``), bool or None.

    Raises:
        JsonError: for anything else; the message says what and where.
    """
    text = _decoded(data)
    try:
        value = (_LENIENT if lenient else ROW_DECODER if nan else _STRICT).decode(text)
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise _too_deep() from None
    return checked_value(value, text, lenient=lenient)


def checked_value(value: Any, text: str, *, lenient: bool = False) -> Any:
    """Check depth and strings of a value that `ROW_DECODER` or `parse_json` built.

    Args:
        value: the value.
        text: JSON text that it was built from; a glance at it saves most checks.
        lenient: replace halves of surrogate pairs rather than reject them.

    Raises:
        JsonError: if it is nested too deep, or a string is half of a surrogate pair.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise _too_deep()
    if not (_HALF.search(text) or not is_whole(text)):
        return value
    if lenient:
        return _whole(value)
    for string in halves_of_pairs(value):
        raise JsonError(f"half of a surrogate pair, which is no character, in {one_line(string)!r}")
    return value


def read_json_file(path: Path, *, max_bytes: int = MAX_FILE_BYTES, nan: bool = False) -> Any:
    """Read a file that holds one JSON document.

    Args:
        path: the file.
        max_bytes: size above which it is rejected.
        nan: read ``NaN`` and ``Infinity``, which Python writes, for instance in the settings of schedulers.

    Raises:
        JsonError: as for `parse_json`, or for a file that is too large.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise JsonError(f"expected at most {max_bytes} bytes")
    return parse_json(data, nan=nan)


def _decoded(data: str | bytes) -> str:
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonError(f"expected UTF-8 text, got other bytes at offset {error.start}") from None


def _too_deep() -> JsonError:
    return JsonError(f"nested more than {MAX_DEPTH} levels deep")


def _integer(text: str) -> int:
    digits = len(text.lstrip("-"))
    if digits > MAX_DIGITS:
        raise JsonError(f"a number of {digits} digits, expected at most {MAX_DIGITS}")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonError(f"the number {one_line(text)} is too large, expected a finite one")
    return value


def _lenient_integer(text: str) -> int | float:
    return int(text) if len(text) <= MAX_DIGITS else float(text)


def _no_constant(text: str) -> float:
    raise JsonError(f"{text} is not JSON, expected a number or null")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JsonError(f"the key {one_line(twice)!r} occurs twice in one object")
    return values


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inner(outer) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _inner(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _whole(value: Any) -> Any:
    """Replace halves of surrogate pairs at any depth."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole(key): _whole(inner) for key, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value


_LENIENT = json.JSONDecoder(parse_int=_lenient_integer)
ROW_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_float=_number)
"""Decoder for rows of documents that are read piece by piece; pass what it returns to `checked_value`."""
_STRICT = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_number, parse_constant=_no_constant
)
