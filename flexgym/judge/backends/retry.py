"""Decide whether and when to retry a failed request."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 15.0
LONGEST_RETRY_AFTER_S = 60.0


class TransientError(Exception):
    """Raised for a failed attempt that is worth retrying: connection lost, server busy or broken.

    Args:
        message: description of the failure and where it occurred.
        retry_after: time that the server asks to wait before a retry, in seconds; 0 if it does not.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def is_transient(status: int) -> bool:
    """Return True if an HTTP status is worth a retry: too many requests (429), or a server error (5xx)."""
    return status == 429 or status >= 500


def backoff(attempt: int, rng: random.Random) -> float:
    """Return the time to wait after a failed attempt, in seconds; ``attempt`` counts from 0.

    The backoff is exponential with full jitter: uniform between 0 and a bound that doubles each time, so requests that
    failed together do not retry together (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
    """
    return rng.uniform(0.0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt, 30)))


def retry_after(value: str | None, *, now: datetime | None = None) -> float:
    """Parse the ``Retry-After`` header to seconds, 0 to 60; 0 if the header is missing or invalid.

    Args:
        value: untrusted header value: whole seconds or an HTTP date.
        now: reference time for dates; the current time if None.
    """
    if value is None:
        return 0.0
    if value.strip().isascii() and value.strip().isdigit():
        return min(float(value), LONGEST_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    # A date with the zone -0000 is parsed without a time zone.
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)
