"""Metrics that several kinds of runs report, each with the look that it has everywhere."""

from __future__ import annotations

from typing import Any

from flexgym.core.metrics import Max, Mean, Metric

REWARD = Mean(label="reward", format=".3f", panel="headline", priority=0)
"""Look of ``reward/mean``, the mean reward of all samples of an iteration."""
ACCURACY = Mean(label="verified accuracy", format=".3f", panel="headline", priority=1, sparse=True)
"""Look of ``eval/verifier_accuracy``, the share of held-out samples in which the verifier finds no fault."""


def phase_seconds(label: str, seconds: Any) -> Metric:
    """Make the seconds that a phase took of an iteration; the slowest learner counts.

    Args:
        label: of the phase, such as ``"rollout"``.
        seconds: a number.
    """
    priority = {"rollout": 0, "reward": 1, "update": 2}.get(label, 3)
    return Max(seconds, label=label, unit="s", panel="time", priority=priority)


def iteration_seconds(seconds: Any) -> Metric:
    """Make the seconds that a whole iteration took."""
    return Max(seconds, label="time", unit="s", panel="duration")
