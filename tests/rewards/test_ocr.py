from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexgym import rewards
from flexgym.core.errors import ConfigError
from flexgym.rewards.known import sign
from flexgym.rewards.ocr import asked_text, edit_distance, likeness
from flexgym.types import Prompt, SampleGroup


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("abc", "abc", 0)],
)
def test_edit_distance_by_hand(first, second, distance):
    assert edit_distance(first, second) == distance


def slow_distance(a, b):
    """The recursion as it stands in textbooks."""
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return slow_distance(a[1:], b[1:])
    return 1 + min(slow_distance(a[1:], b), slow_distance(a, b[1:]), slow_distance(a[1:], b[1:]))


@given(st.text("ab\u00e9", max_size=5), st.text("ab\u00e9", max_size=5))
def test_edit_distance_is_that_of_textbooks(first, second):
    assert edit_distance(first, second) == slow_distance(first, second)


def test_likeness_by_hand():
    assert likeness("Open today", "we are OPENTODAY until 5") == 1.0
    assert likeness("open", "oven") == 0.75
    assert likeness("open", "") == 0.0
    assert likeness("ab", "completely other words") == 0.0


def test_the_text_that_is_asked_for():
    assert asked_text(Prompt('a sign that says "Open" and "closed"')) == "Open"
    assert asked_text(Prompt("a sign \u201cOpen\u201d")) == "Open"
    assert asked_text(Prompt('a sign "Open"', {"text": "shut"})) == "shut"
    for bad in (Prompt("a cat"), Prompt('a sign "  "'), Prompt('""')):
        with pytest.raises(ConfigError, match="double quotation marks"):
            asked_text(bad)


@pytest.fixture(scope="module")
def reward():
    pytest.importorskip("rapidocr")
    return rewards.make("ocr")


@pytest.mark.slow
def test_text_is_read_from_pictures(reward):
    samples = np.stack([sign("Open today"), sign("Fish 42"), sign("")])
    found = reward.guarded([SampleGroup(Prompt('a sign that says "Open today"'), samples)])[0].rewards
    assert found[0] >= 1 - 1 / 9  # at most one letter is misread
    assert found[1] < 0.3
    assert found[2] == 0.0
    video = np.stack([np.stack([sign("Fish 42"), sign("")])])
    assert reward.guarded([SampleGroup(Prompt('"Fish 42"'), video)])[0].rewards[0] == pytest.approx(0.5)


def test_a_prompt_without_text_is_a_failure(reward):
    assert reward.guarded([SampleGroup(Prompt("a cat"), sign("x")[None])])[0].failures == {"ocr": 1}
