"""Limits on the share of failed judgments, above which a run stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from flexgym.core.errors import ConfigError, JudgeFailureShareError
from flexgym.judge.protocol import JudgeFailure

FEWEST_FOR_SHARE = 16
"""Minimum number of judgments in a call for the limit to apply; below it, one bad reply is already a large share."""


def check_failure_limit(limit: float) -> None:
    """Check that a limit on the failure share is between 0 and 1.

    Raises:
        ConfigError: if it is not.
    """
    if not 0.0 <= limit <= 1.0:
        raise ConfigError(f"max_failure_share must lie between 0 and 1, got {limit}")


def count_failures(outcomes: Sequence[Any]) -> dict[str, int]:
    """Count failed judgments by kind, omitting kinds that did not occur."""
    return dict(Counter(outcome.kind for outcome in outcomes if isinstance(outcome, JudgeFailure)))


def check_failure_share(outcomes: Sequence[Any], limit: float) -> None:
    """Raise an error if too many judgments of a call failed; ties are no failures here.

    Args:
        outcomes: all judgments of the call; calls with fewer than `FEWEST_FOR_SHARE` always pass.
        limit: largest allowed share of failures, 0 to 1.

    Raises:
        JudgeFailureShareError: if the limit is exceeded; the message counts failures by kind and quotes an example.
    """
    failures = [outcome for outcome in outcomes if isinstance(outcome, JudgeFailure) and outcome.kind != "tie"]
    if len(outcomes) < FEWEST_FOR_SHARE or len(failures) <= limit * len(outcomes):
        return
    kinds = Counter(failure.kind for failure in failures).most_common()
    example = next(failure for failure in failures if failure.kind == kinds[0][0])
    raise JudgeFailureShareError(
        f"{len(failures)} of {len(outcomes)} judgments failed, more than the {limit:.0%} allowed by max_failure_share:"
        f" {', '.join(f'{count} {kind}' for kind, count in kinds)}. Example of {example.kind}: {example.detail}."
        " Fix the judge, or raise max_failure_share if this failure rate is expected."
    )
