"""Metrics that several kinds of runs report, each with the look that it has everywhere, and names from outside.

Rewards, judges and their servers name metrics of their own. Such a name never replaces a metric of FlexGym: it is
written under `OUTSIDE` where it is one of `OWN_NAMES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from flexgym.core.errors import ConfigError
from flexgym.core.metrics import Max, Mean, Metric
from flexgym.core.text import one_line
from flexgym.judge.agreement import agreement_summary

V = TypeVar("V")

OWN_NAMES: Mapping[str, frozenset[str]] = {
    "reward": frozenset(
        ("mean", "std_within_group", "dead_groups", "unscored_share", "failures", "win_rate_vs_reference")
    ),
    "judge": frozenset(agreement_summary(())),
    "eval": frozenset(("accuracy", "accuracy_low", "accuracy_high", "audit", "verifier_score", "diversity")),
    "monitor": frozenset(),
}
"""Names that FlexGym itself writes, whether or not a run has a value for them, by the part before the slash."""

BY_CATEGORY = {"eval": "accuracy"}
"""Metrics that FlexGym also writes for each category of prompts, as ``eval/accuracy/counting``, by the first part."""

OUTSIDE = "own"
"""Prefix of a name from outside that FlexGym writes itself: a term ``mean`` becomes ``reward/own/mean``."""

REWARD = Mean(label="reward", format=".3f", panel="headline", priority=0)
"""Look of ``reward/mean``, the mean reward of all samples of an iteration."""
ACCURACY = Mean(label="verified accuracy", format=".3f", panel="headline", priority=1, sparse=True)
"""Look of ``eval/accuracy``, the share of held-out samples in which the verifier finds no fault."""
INTERVAL = {
    "low": Mean(label="accuracy from", format=".3f", priority=0, sparse=True),
    "high": Mean(label="to", format=".3f", priority=1, sparse=True),
}
"""Look of ``eval/accuracy_low`` and ``eval/accuracy_high``, the ends of its 95% interval."""
AUDIT = Mean(label="audited accuracy", format=".3f", priority=2, sparse=True)
"""Look of ``eval/audit``, the same share by the independent verifier of the small world."""


def outside_name(prefix: str, name: str) -> str:
    """Return the name under which a metric is written whose name comes from a reward, a judge or a server.

    Different names stay different, and none is one of `OWN_NAMES`.

    Args:
        prefix: part before the slash, one of the keys of `OWN_NAMES`.
        name: as given; what cannot be shown is escaped, and only the first 200 characters count.

    Returns:
        The name after the prefix, in nearly all cases ``name`` itself.
    """
    shown = one_line(name) or "unnamed"
    taken = shown in OWN_NAMES[prefix] or shown.partition("/")[0] in (OUTSIDE, BY_CATEGORY.get(prefix))
    return f"{OUTSIDE}/{shown}" if taken else shown


def outside_metrics(prefix: str, values: Mapping[str, V]) -> dict[str, V]:
    """Return metrics that are named outside of FlexGym by their full names, see `outside_name`."""
    return {f"{prefix}/{outside_name(prefix, name)}": value for name, value in values.items()}


def merged(*parts: Mapping[str, V]) -> dict[str, V]:
    """Return the metrics of all parts of a row.

    Raises:
        ConfigError: if two parts hold a metric of the same name, of which one would be lost.
    """
    row: dict[str, V] = {}
    for part in parts:
        twice = sorted(row.keys() & part.keys())
        if twice:
            raise ConfigError(f"metric {twice[0]!r} is written by two parts of an iteration: rename one of them")
        row |= part
    return row


def phase_seconds(label: str, seconds: Any) -> Metric:
    """Make the seconds that a phase took of an iteration; the slowest learner counts.

    Args:
        label: of the phase, such as ``"rollout"``.
        seconds: a number.
    """
    priority = {"rollout": 0, "data": 0, "reward": 1, "update": 2}.get(label, 3)
    return Max(seconds, label=label, unit="s", panel="time", priority=priority)


def iteration_seconds(seconds: Any) -> Metric:
    """Make the seconds that a whole iteration took."""
    return Max(seconds, label="time", unit="s", panel="duration")
