"""Answers to the questions of `research.questions`, as Markdown tables over the seeds of each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flexgym.benchmark.results import Point, first_gain
from flexgym.core.intervals import student_quantile

GAIN = 0.20
"""Gain of accuracy whose samples and seconds are compared."""
JOB_GAIN, JOB_MINUTES = 0.30, 7.0
"""Gain of the default job, and the minutes in which every seed has to reach it."""
COLLAPSE = 0.10
"""Fall below the best accuracy of a run from which it counts as collapsed."""
_NORM, _PENALTY = "policy/gradient_norm", "penalty/reference"
_CURVE = ("iteration", "seconds", "samples", "accuracy", "diversity", "audit")
_QUARTERS = (0.25, 0.5, 0.75, 1.0)
_NONE = "–"


@dataclass(frozen=True)
class Trained:
    """A run of a row.

    Attributes:
        arm: name of the row.
        seed: seed of the run.
        curve: verifications, with seconds of training alone.
        waited: the same, with seconds that include verification.
        rows: all metrics.
        finished: whether the run is finished.
    """

    arm: str
    seed: int
    curve: Sequence[Point]
    waited: Sequence[Point]
    rows: Sequence[Mapping[str, Any]]
    finished: bool

    @property
    def best(self) -> float:
        """Highest accuracy of the run."""
        return max(point.accuracy for point in self.curve)

    @property
    def end(self) -> float:
        """Accuracy at the end."""
        return self.curve[-1].accuracy

    @property
    def minutes_to_job_gain(self) -> float | None:
        """Minutes, verification included, to the gain of the default job; None if it never came."""
        gained = first_gain(self.waited, JOB_GAIN)
        return None if gained is None else gained[0] / 60.0

    def values(self, metric: str) -> list[float]:
        """Return the values of a metric, where it was measured."""
        return [float(row[metric]) for row in self.rows if row.get(metric) is not None]

    def accuracy_at(self, seconds: float) -> float:
        """Return the accuracy after seconds of waiting, on a straight line between two verifications."""
        times, values = zip(*((point.seconds, point.accuracy) for point in self.waited), strict=True)
        return float(np.interp(seconds, times, values))

    def figures(self) -> dict[str, Any]:
        """Return everything that the tables show of the run, as plain values."""
        gained = first_gain(self.curve, GAIN)
        return {
            **{"row": self.arm, "seed": self.seed, "finished": self.finished},
            **{"before": self.curve[0].accuracy, "best": self.best, "end": self.end},
            "seconds_to_gain": gained and gained[0],
            "samples_to_gain": gained and gained[1],
            "minutes_to_job_gain": self.minutes_to_job_gain,
            "largest_gradient_norm": max(self.values(_NORM), default=None),
            "curve": [
                {name: value for name, value in asdict(point).items() if name in _CURVE} | {"waited": late.seconds}
                for point, late in zip(self.curve, self.waited, strict=True)
            ],
        }


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half of its 95% interval by Student's t; infinite for a single value."""
    if len(values) < 2:
        return float(np.mean(values)), math.inf
    half = student_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)), half


def cell(values: Sequence[float], digits: int = 3) -> str:
    """Write the mean over seeds with its interval."""
    if not values:
        return _NONE
    mean, half = mean_and_half(values)
    return f"{mean:,.{digits}f}" + (f" ± {half:,.{digits}f}" if half < math.inf else "")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _by_arm(runs: Sequence[Trained]) -> dict[str, list[Trained]]:
    return {arm: [run for run in runs if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)}


def reuse(runs: Sequence[Trained]) -> str:
    """Compare samples and seconds to the gain with one pass and with two."""
    rows, samples = [], dict[str, dict[int, float]]()
    for arm, own in _by_arm(runs).items():
        gained = {run.seed: both for run in own if (both := first_gain(run.curve, GAIN))}
        samples[arm] = {seed: found for seed, (_, found) in gained.items()}
        figures = [cell([both[index] for both in gained.values()], digits=0) for index in (1, 0)]
        rows.append([arm, f"{len(gained)} of {len(own)}", *figures, cell([run.end for run in own])])
    header = ("row, passes", "reached", f"samples to +{GAIN:.2f}", f"seconds to +{GAIN:.2f}", "accuracy at the end")
    return "\n".join([_table(header, rows), "", *_savings(samples)])


def _savings(samples: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Say for each algorithm what share of the samples two passes need, over seeds that reached the gain with both."""
    lines = []
    for arm, twice in samples.items():
        once = samples.get(f"{arm.removesuffix('_2')}_1", {})
        ratios = [found / once[seed] for seed, found in twice.items() if arm.endswith("_2") and seed in once]
        if ratios:
            lines.append(
                f"- {arm.removesuffix('_2')}: two passes need {cell(ratios, digits=2)} times the samples of one"
            )
    return lines


def stability(runs: Sequence[Trained]) -> str:
    """Show for every run the best accuracy and that at the end, and whether any seed collapses."""
    rows = [
        [
            *(run.arm, str(run.seed), f"{run.best:.3f}", f"{run.end:.3f}"),
            f"{max(run.values(_NORM), default=math.nan):.2f}",
            f"{(run.values(_PENALTY) or [math.nan])[-1]:.2f}",
        ]
        for run in runs
    ]
    header = ("row", "seed", "best accuracy", "at the end", "largest gradient norm", "KL at the end")
    verdicts = [f"- {arm}: {_stable(own)}" for arm, own in _by_arm(runs).items()]
    return "\n".join([_table(header, rows), "", *verdicts])


def _stable(runs: Sequence[Trained]) -> str:
    fallen = [run.seed for run in runs if run.end < run.best - COLLAPSE]
    largest = max(run.best - run.end for run in runs)
    what = f"collapses in {len(fallen)} of {len(runs)} seeds" if fallen else f"stable in {len(runs)} seeds"
    return f"{what}; the largest fall from the best accuracy is {largest:.3f}, from {COLLAPSE:.2f} on it counts"


def default_job(runs: Sequence[Trained]) -> str:
    """Show the minutes of every seed to the gain of the default job, and whether all keep to the limit."""
    minutes = {run.seed: run.minutes_to_job_gain for run in runs}
    rows = [
        [str(run.seed), _number(minutes[run.seed]), f"{run.end - run.curve[0].accuracy:+.3f}", f"{run.end:.3f}"]
        for run in runs
    ]
    reached = [found for found in minutes.values() if found is not None]
    rows.append(["mean", cell(reached, digits=2), "", cell([run.end for run in runs])])
    holds = len(reached) == len(runs) and max(reached) <= JOB_MINUTES
    header = ("seed", f"minutes to +{JOB_GAIN:.2f}", "gain at the end", "accuracy at the end")
    verdict = f"- +{JOB_GAIN:.2f} in at most {JOB_MINUTES:.0f} minutes {'holds' if holds else 'does not hold'}"
    note = "Minutes include verification, not the start of the process; between two verifications lies a straight line."
    return "\n".join([_table(header, rows), "", f"{verdict}: {len(reached)} of {len(runs)} seeds reach it. {note}"])


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"


def tournaments(runs: Sequence[Trained]) -> str:
    """Compare learning curves at equal minutes, at the quarters of the shortest run."""
    seconds = min(run.waited[-1].seconds for run in runs)
    places = [share * seconds for share in _QUARTERS]
    rows = [
        [
            arm,
            *(cell([run.accuracy_at(place) for run in own]) for place in places),
            cell([float(run.curve[-1].samples) for run in own], digits=0),
        ]
        for arm, own in _by_arm(runs).items()
    ]
    header = ("schedule", *(f"at {place / 60.0:.1f} min" for place in places), "samples at the end")
    return _table(header, rows)


Answer = Callable[[Sequence[Trained]], str]
ANSWERS: Mapping[str, tuple[str, Answer]] = {
    "reuse": ("Two passes over a rollout", reuse),
    "stability": ("DiffusionNFT where matching collapsed", stability),
    "default_job": ("Minutes of the default job", default_job),
    "tournaments": ("Comparisons of a tournament at equal minutes", tournaments),
}
"""Title and table of every question by its name."""
