"""What a public format is: how one of its rows becomes one of ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from flexgym.rm.data.problems import RowError, row_error
from flexgym.rm.data.reading import AnyRow
from flexgym.rm.data.schema import Row

UNLABELLED = "unlabelled"
"""Why rows are left out that nobody has judged."""


@dataclass(frozen=True)
class LeftOut:
    """A row that a format leaves out on purpose; it is counted, and is no bad row.

    Attributes:
        reason: one word or two.
    """

    reason: str


def _as_they_come(rows: Iterable[Row]) -> Iterator[Row]:
    return iter(rows)


@dataclass(frozen=True)
class Format:
    """A public format.

    Attributes:
        name: by which it is asked for.
        about: one line: what it holds, and where its media lie.
        read: makes a row of one row of the format, its media by the names that stand there; raises `RowError`.
        finish: makes the rows that are written of all that were read, such as pairs of rated samples; one by one, and
            as they come by default.
    """

    name: str
    about: str
    read: Callable[[Mapping[str, Any]], Row | LeftOut]
    finish: Callable[[Iterable[Row]], Iterator[Row]] = _as_they_come


def make(schema: type[AnyRow], values: Mapping[str, Any]) -> AnyRow:
    """A row of ours.

    Raises:
        RowError: the values break a rule of the schema.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise row_error(error) from None


def need(values: Mapping[str, Any], *names: str) -> Any:
    """The value under the first of several names that is there.

    Raises:
        RowError: none of them is, or it is null.
    """
    for name in names:
        if values.get(name) is not None:
            return values[name]
    raise RowError("missing_key", f"the key {' or '.join(map(repr, names))} is missing")


def both(values: Mapping[str, Any], first: str, second: str) -> tuple[Any, Any]:
    """The values of both sides of a pair.

    Raises:
        RowError: one of them is missing, or both are.
    """
    missing = [name for name in (first, second) if values.get(name) in (None, "", [])]
    if len(missing) == 1:
        raise RowError("one_side", f"expected two candidates, and {missing[0]!r} is missing")
    if missing:
        raise RowError("missing_key", f"the keys {first!r} and {second!r} are missing")
    return values[first], values[second]


def number(values: Mapping[str, Any], name: str) -> float | None:
    """A finite number; None where there is none.

    Raises:
        RowError: something else stands there.
    """
    value = values.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise RowError("wrong_type", f"{name}: expected a number, got {value!r:.80}")
    return float(value)


def higher(first: float, second: float) -> Literal[0, 1] | None:
    """The side with more points: 0, 1, or None where they are even."""
    if math.isclose(first, second, rel_tol=0.0, abs_tol=1e-9):
        return None
    return 0 if first > second else 1
