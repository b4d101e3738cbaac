"""Results of one recipe under several rewards, side by side: figures, a table, JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flexgym.runs.series import Outcome

VERIFIER, DIVERSITY = "eval/accuracy", "eval/diversity"
AGAINST_REFERENCE, MEAN = "reward/win_rate_vs_reference", "reward/mean"
_NONE = "–"
_COLUMNS = (
    *("reward", "seeds", "iterations", "own reward"),
    *("held-out accuracy", "diversity", "s per iteration", "s of the reward"),
)

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Change:
    """A figure at the start and at the end of a run: means over the first and the last tenth of its values."""

    before: float
    after: float

    @classmethod
    def of(cls, curve: Curve) -> Change | None:
        """Return the change over a curve; None for a curve without values."""
        values = [value for _, value in curve]
        edge = max(1, len(values) // 10)
        return cls(float(np.mean(values[:edge])), float(np.mean(values[-edge:]))) if values else None


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        label: what the reward is called in it.
        seed: of the run.
        rows: its metrics.
        outcome: how it ended.
        folder: the run folder; empty before it begins.
    """

    label: str
    seed: int
    rows: Sequence[Mapping[str, Any]]
    outcome: Outcome = Outcome()
    folder: str = ""

    def curve(self, name: str) -> Curve:
        """Return the values of a metric by iteration, where it was measured."""
        return [(row["iteration"], row[name]) for row in self.rows if row.get(name) is not None]

    @property
    def own_name(self) -> str:
        """Name of the metric in which the reward itself is logged.

        Win rates within a group average one half whatever the policy does, so for judges it is the win rate against
        the reference policy; for all others the mean reward of the rollouts.
        """
        return AGAINST_REFERENCE if self.curve(AGAINST_REFERENCE) else MEAN

    @property
    def iterations(self) -> int:
        """Number of finished iterations."""
        return int(self.rows[-1]["iteration"]) if self.rows else 0

    def figures(self) -> dict[str, Any]:
        """Return everything that is compared, as plain values; None where there is nothing yet.

        Seconds are medians over the iterations: ``iteration_s`` without verification, ``reward_s`` the time in which
        the reward was at work, alone or beside other phases.
        """
        changes = {"own": self.own_name, "verifier": VERIFIER, "diversity": DIVERSITY}
        found = {name: Change.of(self.curve(metric)) for name, metric in changes.items()}
        trained = [row for row in self.rows if row.get("time/iteration_s") is not None]
        unscored = [value for _, value in self.curve("reward/unscored_share")]
        return {
            "reward": self.label,
            "seed": self.seed,
            **asdict(self.outcome),
            "folder": self.folder,
            "iterations": self.iterations,
            "own_metric": self.own_name,
            **{name: None if change is None else asdict(change) for name, change in found.items()},
            "iteration_s": _median([row["time/iteration_s"] - (row.get("time/eval_s") or 0.0) for row in trained]),
            "reward_s": _median([row["time/reward_s"] for row in trained if row.get("time/reward_s") is not None]),
            "unscored_share": float(np.mean(unscored)) if unscored else None,
        }


def comparison_table(runs: Sequence[ComparedRun]) -> str:
    """Render a Markdown table with a row for each reward, and a list of runs that failed or lack scores.

    Figures are means over the seeds; with several, the least and the greatest at the end are in parentheses.

    Args:
        runs: of all rewards and seeds.
    """
    lines = [
        f"| {' | '.join(_COLUMNS)} |",
        "|---|---|---:|---|---|---|---:|---:|",
    ]
    for label in dict.fromkeys(run.label for run in runs):
        lines.append(_row(label, [run.figures() for run in runs if run.label == label]))
    remarks = [remark for run in runs if (remark := _remark(run))]
    return "\n".join([*lines, *(["", *remarks] if remarks else [])]) + "\n"


def _row(label: str, found: Sequence[Mapping[str, Any]]) -> str:
    iterations = sorted({figures["iterations"] for figures in found})
    cells = [
        label,
        ", ".join(str(figures["seed"]) for figures in found),
        str(iterations[0]) if len(iterations) == 1 else f"{iterations[0]} to {iterations[-1]}",
        _change([figures["own"] for figures in found]),
        _change([figures["verifier"] for figures in found]),
        _change([figures["diversity"] for figures in found]),
        _mean([figures["iteration_s"] for figures in found]),
        _mean([figures["reward_s"] for figures in found]),
    ]
    return f"| {' | '.join(cells)} |"


def _change(changes: Sequence[Mapping[str, float] | None]) -> str:
    there = [change for change in changes if change is not None]
    if not there:
        return _NONE
    before, after = ([change[name] for change in there] for name in ("before", "after"))
    spread = f" ({_number(min(after))} to {_number(max(after))})" if len(after) > 1 else ""
    return f"{_number(float(np.mean(before)))} → {_number(float(np.mean(after)))}{spread}"


def _mean(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    return f"{np.mean(there):.2f}" if there else _NONE


def _number(value: float) -> str:
    """Format with three decimals, or two significant digits below 0.01."""
    return f"{value:.3f}" if value == 0.0 or abs(value) >= 0.01 else f"{value:.2g}"


def _remark(run: ComparedRun) -> str:
    """Return a list entry for a run that failed or lacks scores; empty for others."""
    problem = run.outcome.problem
    if run.outcome.status == "finished":
        share = run.figures()["unscored_share"] or 0.0
        if share < 0.01:
            return ""
        problem = f"{share:.0%} of its samples could not be scored"
    return f"- {run.label}, seed {run.seed}: {run.outcome.status}{f', {problem}' if problem else ''}"


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
