"""Rules as tests: a method under `rule` that fails says which rule was broken, what was expected and what came."""

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
    """What was expected and what came, until `rule` adds the name."""

    def __init__(self, expected: str, got: Any) -> None:
        super().__init__(f"expected {expected}, got {str(got)[:_LONGEST]}")


def expect(holds: bool, expected: str, got: Any) -> None:
    """Refuse what does not hold.

    Raises:
        BrokenRuleError: with both descriptions.
    """
    if not holds:
        raise BrokenRuleError(expected, got)


def expect_same(ours: Any, theirs: Any, expected: str, *, tolerance: float = 0.0) -> None:
    """Refuse two nested values that differ in keys, types, shapes or numbers; NaN equals NaN.

    Args:
        ours: what came.
        theirs: what it should be equal to.
        expected: in words.
        tolerance: of numbers, relative and absolute; 0 is equality to the bit.

    Raises:
        BrokenRuleError: naming the first place that differs.
    """
    found = difference(ours, theirs, tolerance=tolerance)
    if found:
        raise BrokenRuleError(expected, found)


class _Checking:
    """Within this context a rule is checked: whatever is raised breaks it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, unittest.SkipTest):
            return
        told = f"expected no exception, got {type(error).__name__}: {error}"[:_LONGEST]
        told = str(error) if isinstance(error, BrokenRuleError) else told
        raise AssertionError(f"broken rule: {self.name}: {told}") from error


def rule(name: str) -> Callable[[Callable[[_Kit], None]], Callable[[_Kit], None]]:
    """Decorator of a test method that makes a rule of it.

    Args:
        name: the rule in a few words; it begins the message of every failure. An exception is a failure, too.
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
        kit: a class that inherits from one of the kits and says how to make what is tested.

    Returns:
        The message of every broken rule, by the name of its test; empty when all hold. Rules that do not apply are left
        out.
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
    """Where two nested values differ first, in words; empty where they do not."""
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
