"""When failed judgements become too many to go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from flexgym.core.errors import ConfigError, JudgeFailureShareError
from flexgym.judge.protocol import JudgeFailure

FEWEST_FOR_SHARE = 16
"""With fewer judgements in a call, one unlucky reply would already be a large share of failures."""


def check_failure_limit(limit: float) -> None:
    """Refuse a limit that is no share.

    Raises:
        ConfigError: below 0 or above 1.
    """
    if not 0.0 <= limit <= 1.0:
        raise ConfigError(f"max_failure_share must lie between 0 and 1, got {limit}")


def count_failures(outcomes: Sequence[Any]) -> dict[str, int]:
    """Number of failed judgements by kind; kinds without any are left out."""
    return dict(Counter(outcome.kind for outcome in outcomes if isinstance(outcome, JudgeFailure)))


def check_failure_share(outcomes: Sequence[Any], limit: float) -> None:
    """Stop where too many judgements of a call failed.

    Args:
        outcomes: all judgements of the call; fewer than `FEWEST_FOR_SHARE` never stop it.
        limit: the largest share of failures that is allowed, 0 to 1.

    Raises:
        JudgeFailureShareError: with the failures by kind and an example of the most frequent one.
    """
    failures = [outcome for outcome in outcomes if isinstance(outcome, JudgeFailure)]
    if len(outcomes) < FEWEST_FOR_SHARE or len(failures) <= limit * len(outcomes):
        return
    kinds = Counter(failure.kind for failure in failures).most_common()
    example = next(failure for failure in failures if failure.kind == kinds[0][0])
    raise JudgeFailureShareError(
        f"{len(failures)} of {len(outcomes)} judgements failed, more than max_failure_share {limit:.0%} allows:"
        f" {', '.join(f'{count} {kind}' for kind, count in kinds)}. One that is {example.kind}: {example.detail}."
        " Mend the judge before going on; set a higher max_failure_share where so many are expected."
    )
