"""When a request that failed is sent again, and after how long."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 15.0
LONGEST_RETRY_AFTER_S = 60.0


class TransientError(Exception):
    """An attempt failed in a way that another one may not: connection lost, server busy or broken.

    Args:
        message: what happened, where.
        retry_after: seconds for which the server asks to be left alone; 0 for none.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def is_transient(status: int) -> bool:
    """Whether an HTTP status is worth another attempt: too many requests, or an error on the server's side."""
    return status == 429 or status >= 500


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds to wait after the failed attempt number ``attempt``, counted from 0.

    Exponential with full jitter: uniform between 0 and a bound that doubles each time, so that requests which failed
    together do not return together (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
    """
    return rng.uniform(0.0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt, 30)))


def retry_after(value: str | None, *, now: datetime | None = None) -> float:
    """Seconds that the header ``Retry-After`` asks for, 0 to 60; 0 where it is missing or makes no sense.

    Args:
        value: of the header, untrusted: whole seconds or an HTTP date.
        now: for dates; the time of the call when None.
    """
    if value is None:
        return 0.0
    if value.strip().isascii() and value.strip().isdigit():
        return min(float(value), LONGEST_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    # A date with the zone -0000 comes without one.
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)
