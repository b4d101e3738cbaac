from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexgym.judge.backends.retry import LONGEST_PAUSE_S, LONGEST_RETRY_AFTER_S, backoff, is_transient, retry_after

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0.0),
        ("3", 3.0),
        (" 3 ", 3.0),
        ("0", 0.0),
        ("9" * 400, LONGEST_RETRY_AFTER_S),
        ("-5", 0.0),
        ("nan", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("٣", 0.0),
        ("Fri, 20 Nov 2026 12:00:09 GMT", 9.0),
        ("Fri, 20 Nov 2026 12:00:09 -0000", 9.0),
        ("Fri, 20 Nov 2026 13:00:09 +0100", 9.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 20 Nov 2026 18:00:00 GMT", LONGEST_RETRY_AFTER_S),
        ("Fri, 20 Nov 99999999999999999999 12:00:00 GMT", 0.0),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after(value, now=NOON) == seconds


@given(st.text())
def test_retry_after_survives_anything(value):
    assert 0.0 <= retry_after(value) <= LONGEST_RETRY_AFTER_S


def test_pauses_double_up_to_a_bound_and_start_anywhere_below():
    rng = random.Random(0)
    for attempt, bound in ((0, 0.25), (1, 0.5), (4, 4.0), (6, LONGEST_PAUSE_S), (10**6, LONGEST_PAUSE_S)):
        pauses = [backoff(attempt, rng) for _ in range(2000)]
        assert 0.0 <= min(pauses) < 0.01 * bound
        assert 0.99 * bound < max(pauses) <= bound
        assert sum(pauses) / len(pauses) == pytest.approx(bound / 2, rel=0.05)


def test_which_statuses_are_tried_again():
    tried = [status for status in (200, 301, 400, 401, 404, 408, 422, 429, 500, 502, 503, 599) if is_transient(status)]
    assert tried == [429, 500, 502, 503, 599]
