"""Interface of public formats, and helpers to convert their rows to FlexGym rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from flexgym.data.problems import RowError, row_error
from flexgym.data.reading import AnyRow
from flexgym.data.schema import Row

UNLABELED = "unlabelled"
"""Reason for skipping rows without a label."""


@dataclass(frozen=True)
class LeftOut:
    """A row that a format skips on purpose; it is counted, but not as a bad row.

    Attributes:
        reason: short reason, such as ``"unlabelled"``.
    """

    reason: str


def _unchanged(rows: Iterable[Row]) -> Iterator[Row]:
    return iter(rows)


@dataclass(frozen=True)
class Format:
    """Definition of a public format.

    Attributes:
        name: name used to select the format.
        about: one-line description of the content and of where media are.
        read: function that converts one row of the format, with media names as in the source; raises `RowError`.
        finish: function that converts the stream of all converted rows to the rows to write, such as rated samples to
            pairs; unchanged by default.
    """

    name: str
    about: str
    read: Callable[[Mapping[str, Any]], Row | LeftOut]
    finish: Callable[[Iterable[Row]], Iterator[Row]] = _unchanged


def make(schema: type[AnyRow], values: Mapping[str, Any]) -> AnyRow:
    """Validate values and create a row.

    Raises:
        RowError: if the values break a rule of the schema.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise row_error(error) from None


def need(values: Mapping[str, Any], *names: str) -> Any:
    """Return the value of the first of several keys that is present.

    Raises:
        RowError: if all are missing or null.
    """
    for name in names:
        if values.get(name) is not None:
            return values[name]
    raise RowError("missing_key", f"the key {' or '.join(map(repr, names))} is missing")


def both(values: Mapping[str, Any], first: str, second: str) -> tuple[Any, Any]:
    """Return the values of both candidates of a pair.

    Raises:
        RowError: if one or both are missing.
    """
    missing = [name for name in (first, second) if values.get(name) in (None, "", [])]
    if len(missing) == 1:
        raise RowError("one_side", f"expected two candidates, but {missing[0]!r} is missing")
    if missing:
        raise RowError("missing_key", f"the keys {first!r} and {second!r} are missing")
    return values[first], values[second]


def number(values: Mapping[str, Any], name: str) -> float | None:
    """Return a finite number, or None if the value is missing or NaN.

    Raises:
        RowError: if the value is not a number.
    """
    value = values.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise RowError("wrong_type", f"{name}: expected a number, got {value!r:.80}")
    return float(value)


def higher(first: float, second: float) -> Literal[0, 1] | None:
    """Return the candidate with the higher score: 0, 1, or None for a tie."""
    if math.isclose(first, second, rel_tol=0.0, abs_tol=1e-9):
        return None
    return 0 if first > second else 1
