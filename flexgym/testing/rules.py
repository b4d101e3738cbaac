"""Rules as tests: a failing method under `rule` reports the broken rule, the expected and the actual result."""

from __future__ import annotations

import functools
import unittest
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch

_Kit = TypeVar("_Kit")
_LONGEST = 300


class BrokenRuleError(AssertionError):
    """Expected and actual result of a broken rule, to which `rule` adds the name."""

    def __init__(self, expected: str, got: Any) -> None:
        super().__init__(f"expected {expected}, got {str(got)[:_LONGEST]}")


def expect(holds: bool, expected: str, got: Any) -> None:
    """Raise an error unless a condition holds.

    Raises:
        BrokenRuleError: the message has both descriptions.
    """
    if not holds:
        raise BrokenRuleError(expected, got)


def expect_same(ours: Any, theirs: Any, expected: str, *, tolerance: float = 0.0) -> None:
    """Raise an error if two nested values differ in keys, types, shapes or numbers; NaN equals NaN.

    Args:
        ours: actual value.
        theirs: expected value.
        expected: description of the expected value.
        tolerance: relative and absolute tolerance of numbers; 0 for bit equality.

    Raises:
        BrokenRuleError: the message has the first difference.
    """
    found = difference(ours, theirs, tolerance=tolerance)
    if found:
        raise BrokenRuleError(expected, found)


class _Checking:
    """Context in which a rule is checked: any exception breaks it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, unittest.SkipTest):
            return
        message = f"expected no exception, got {type(error).__name__}: {error}"[:_LONGEST]
        message = str(error) if isinstance(error, BrokenRuleError) else message
        raise AssertionError(f"broken rule: {self.name}: {message}") from error


def rule(name: str) -> Callable[[Callable[[_Kit], None]], Callable[[_Kit], None]]:
    """Decorate a test method as a rule.

    Args:
        name: short form of the rule, which starts the message of each failure. An exception is a failure as well.
    """

    def decorate(test: Callable[[_Kit], None]) -> Callable[[_Kit], None]:
        @functools.wraps(test)
        def checked(self: _Kit) -> None:
            with _Checking(name):
                test(self)

        checked.rule = name  # type: ignore[attr-defined]
        return checked

    return decorate


def broken_rules(kit: type) -> dict[str, str]:
    """Check all rules without pytest.

    Args:
        kit: subclass of one of the kits with its own `make`.

    Returns:
        Message of each broken rule by the name of its test; empty if all hold. Rules that do not apply are omitted.
    """
    broken = {}
    for name in dir(kit):
        if not (name.startswith("test_") and hasattr(getattr(kit, name), "rule")):
            continue
        try:
            getattr(kit(), name)()
        except unittest.SkipTest:
            continue
        except AssertionError as error:
            broken[name] = str(error)
    return broken


def difference(ours: Any, theirs: Any, *, tolerance: float = 0.0, place: str = "") -> str:
    """Describe the first difference of two nested values; empty if there is none."""
    where = f" at {place}" if place else ""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        if ours.keys() != theirs.keys():
            return f"other keys{where}: {sorted(ours.keys() ^ theirs.keys())}"
        parts = [(f"{place}[{key!r}]", ours[key], theirs[key]) for key in ours]
    elif isinstance(ours, tuple | list) and isinstance(theirs, tuple | list):
        if len(ours) != len(theirs):
            return f"{len(ours)} in place of {len(theirs)} entries{where}"
        parts = [(f"{place}[{index}]", *pair) for index, pair in enumerate(zip(ours, theirs, strict=True))]
    else:
        return _difference_of_leaves(ours, theirs, tolerance, where=where)
    found = (difference(mine, other, tolerance=tolerance, place=inner) for inner, mine, other in parts)
    return next((each for each in found if each), "")


def _difference_of_leaves(ours: Any, theirs: Any, tolerance: float, *, where: str) -> str:
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        ours, theirs = ours.detach().float().numpy(), theirs.detach().float().numpy()
    numbers = (np.ndarray, np.generic, float, int)
    if not (isinstance(ours, numbers) and isinstance(theirs, numbers)):
        return "" if type(ours) is type(theirs) and ours == theirs else f"{ours!r} in place of {theirs!r}{where}"
    mine, other = np.asarray(ours), np.asarray(theirs)
    if mine.dtype != other.dtype or mine.shape != other.shape:
        return f"{mine.dtype} {list(mine.shape)} in place of {other.dtype} {list(other.shape)}{where}"
    if mine.dtype == object:
        return difference(
            list(mine.ravel()), list(other.ravel()), tolerance=tolerance, place=where.removeprefix(" at ")
        )
    return _difference_of_numbers(mine, other, tolerance, where=where)


def _difference_of_numbers(mine: np.ndarray, other: np.ndarray, tolerance: float, *, where: str) -> str:
    close = mine == other
    if np.issubdtype(mine.dtype, np.floating):
        close = np.isclose(mine, other, rtol=tolerance, atol=tolerance, equal_nan=True) if tolerance else close
        close = close | (np.isnan(mine) & np.isnan(other))
    if close.all():
        return ""
    index = tuple(int(at) for at in np.argwhere(~close)[0])
    count = int((~close).sum())
    return f"{mine[index]} in place of {other[index]}{where}, and {count} of {close.size} numbers differ"
