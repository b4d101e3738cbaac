"""Signs of reward hacking: the reward rises while what nobody optimizes falls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexgym.runs.known_metrics import OUTSIDE, OWN_NAMES

REWARDS = ("reward/win_rate_vs_reference", "reward/mean")
"""Metrics in which the reward that is optimized rises, the first that a run has."""
WATCHED = ("eval/accuracy", "eval/audit", "eval/diversity")
"""Metrics of held-out samples that should not fall, besides other rewards of theirs and the monitors."""
_MONITORS = "monitor/"

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Sign:
    """A metric that fell while the reward rose; as text it is a sentence.

    Attributes:
        metric: its name.
        since: iteration of its best value.
        best: the best value.
        last: the last value.
    """

    metric: str
    since: int
    best: float
    last: float

    def __str__(self) -> str:
        fall = f"fell from {self.best:.3g} at iteration {self.since} to {self.last:.3g}"
        return f"{self.metric} {fall}, while the reward rose."


def signs_of_hacking(rows: Sequence[Mapping[str, Any]], *, patience: int, drop: float) -> list[Sign]:
    """Compare the curve of the reward with those of held-out metrics and monitors.

    A metric is suspicious if its last ``patience`` values all lie below its best one before them by more than the
    share ``drop``, while the reward since then is higher than it was.

    Args:
        rows: of ``metrics.jsonl``, up to now.
        patience: number of values in a row; of monitors, which every iteration has, as many tenths of the run.
        drop: share of the best value.

    Returns:
        One for each suspicious metric.
    """
    curves = {name: _curve(rows, name) for row in rows for name in row if _is_watched(name)}
    reward = next((curve for name in REWARDS if (curve := _curve(rows, name))), [])
    found = []
    for name, curve in curves.items():
        smooth = _tenths(curve) if name.startswith(_MONITORS) else curve
        fall = _fall(smooth, patience=patience, drop=drop)
        if fall is not None and _rose(reward, fall[0]):
            found.append(Sign(name, *fall))
    return found


def _is_watched(name: str) -> bool:
    """Return whether a metric is a monitor, a reward of held-out samples, or one of `WATCHED`."""
    group, _, own = name.partition("/")
    held_out = group == "eval" and (own.startswith(f"{OUTSIDE}/") or ("/" not in own and own not in OWN_NAMES["eval"]))
    return held_out or name in WATCHED or name.startswith(_MONITORS)


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> Curve:
    return [(int(row["iteration"]), float(row[name])) for row in rows if row.get(name) is not None]


def _tenths(curve: Curve) -> Curve:
    """Average a curve over ten parts, each at its last iteration."""
    parts = [part for part in np.array_split(np.arange(len(curve)), 10) if len(part)]
    return [(curve[part[-1]][0], float(np.mean([curve[index][1] for index in part]))) for part in parts]


def _fall(curve: Curve, *, patience: int, drop: float) -> tuple[int, float, float] | None:
    """Return the best value with its iteration and the last one, where the curve has fallen for long enough."""
    if len(curve) <= patience:
        return None
    since, best = max(curve[:-patience], key=lambda point: point[1])
    recent = [value for _, value in curve[-patience:]]
    return (since, best, recent[-1]) if max(recent) < best - drop * abs(best) else None


def _rose(reward: Curve, since: int) -> bool:
    """Return whether the reward is higher now than around an iteration, as means over a tenth of its values."""
    size = max(1, len(reward) // 10)
    before = [value for iteration, value in reward if iteration <= since][-size:] or [value for _, value in reward[:1]]
    return bool(reward) and float(np.mean([value for _, value in reward[-size:]])) > float(np.mean(before))
