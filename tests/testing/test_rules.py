from __future__ import annotations

import unittest

import numpy as np
import pytest

from flexgym.testing.rules import broken_rules, difference, expect, rule


class Kit:
    """Three rules, of which one holds, one is broken and one does not apply."""

    @rule("two is even")
    def test_holds(self):
        expect(2 % 2 == 0, "an even number", 2)

    @rule("three is even")
    def test_is_broken(self):
        expect(3 % 2 == 0, "an even number", 3)

    @rule("one over zero is a number")
    def test_raises(self):
        _ = 1 / 0

    @rule("videos play")
    def test_does_not_apply(self):
        raise unittest.SkipTest("images only")


def test_a_failure_names_the_rule_what_was_expected_and_what_came():
    Kit().test_holds()
    with pytest.raises(AssertionError, match="^broken rule: three is even: expected an even number, got 3$"):
        Kit().test_is_broken()
    assert broken_rules(Kit) == {
        "test_is_broken": "broken rule: three is even: expected an even number, got 3",
        "test_raises": "broken rule: one over zero is a number: expected no exception, got ZeroDivisionError: "
        "division by zero",
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        ({"a": [1, 2.5]}, {"a": [1, 2.5]}, ""),
        (np.float32([1, np.nan]), np.float32([1, np.nan]), ""),
        (np.float32([1, 2]), np.float32([1, 3]), "2.0 in place of 3.0, and 1 of 2 numbers differ"),
        (np.float32([1]), np.float64([1]), "float32 [1] in place of float64 [1]"),
        ({"a": 1}, {"b": 1}, "other keys: ['a', 'b']"),
        ({"a": (1, "x")}, {"a": (1, "y")}, "'x' in place of 'y' at ['a'][1]"),
        ([1], [1, 2], "1 in place of 2 entries"),
        (
            np.array([{"a": 1}, None]),
            np.array([{"a": 2}, None]),
            "1 in place of 2 at [0]['a'], and 1 of 1 numbers differ",
        ),
        (True, "yes", "True in place of 'yes'"),
    ],
)
def test_where_two_values_differ_first(ours, theirs, found):
    assert difference(ours, theirs) == found


def test_tolerance_is_for_numbers():
    assert difference(np.float32([1.0]), np.float32([1.0001]), tolerance=1e-3) == ""
    assert difference(np.float32([1.0]), np.float32([1.01]), tolerance=1e-3) != ""
    assert difference(np.float32([np.inf]), np.float32([np.inf]), tolerance=1e-3) == ""
