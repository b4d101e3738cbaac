"""Runs that differ only by their seed, as one group with curves and intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexgym.core.intervals import student_quantile
from flexgym.core.yaml_files import dump_yaml
from flexgym.report.reading import Run
from flexgym.runs.alarm import REWARDS

MAX_POINTS = 300
"""Number of points of a drawn curve; longer ones are averaged over neighboring iterations."""
_OWN = frozenset({"run.name", "run.root", "run.seed"})
_SEED = re.compile(r"[-_. ]?(?:seed[-_ ]?)?\d+$")


@dataclass(frozen=True)
class Band:
    """A curve over the runs of a group.

    Attributes:
        iterations: those that all runs with the metric have.
        mean: over the runs.
        low: lower end of the interval; that of `mean` for a single run.
        high: upper end of the interval.
        runs: number of runs.
    """

    iterations: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runs: int

    @property
    def last(self) -> tuple[float, float, float]:
        """Mean and interval at the last iteration."""
        return self.mean[-1], self.low[-1], self.high[-1]


@dataclass(frozen=True, eq=False)
class RunGroup:
    """Runs with the same settings and different seeds.

    Attributes:
        label: what the group is called.
        runs: at least one, in the order of their seeds.
        settings: those that the runs share, as text by dotted name.
    """

    label: str
    runs: tuple[Run, ...]
    settings: Mapping[str, str]

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics that any run has values of, in the order of their first row."""
        return list(dict.fromkeys(name for run in self.runs for row in run.rows for name in row))

    @property
    def reward_metric(self) -> str:
        """Name of the metric in which the optimized reward rises; empty if there is none."""
        return next((name for name in REWARDS if any(run.curve(name) for run in self.runs)), "")

    def band(self, name: str) -> Band | None:
        """Return mean and interval of a metric over the runs; None where none has it."""
        curves = [curve for run in self.runs if (curve := run.curve(name))]
        return band_of(curves) if curves else None


def band_of(curves: Sequence[Mapping[int, float]]) -> Band | None:
    """Return mean and interval of curves at the iterations that all of them have; None if there is no such iteration.

    With three runs or more, the interval is that of Student's t for the mean at the level of 95%. With two, where it
    would say nothing, it reaches from one run to the other.

    Args:
        curves: at least one, values by iteration.
    """
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not shared:
        return None
    values = np.array([[curve[iteration] for iteration in shared] for curve in curves])
    mean = values.mean(axis=0)
    low, high = values.min(axis=0), values.max(axis=0)
    if len(curves) > 2:
        half = student_quantile(len(curves) - 1) * values.std(axis=0, ddof=1) / math.sqrt(len(curves))
        low, high = mean - half, mean + half
    columns = [tuple(map(float, column)) for column in (mean, low, high)]
    return Band(tuple(shared), columns[0], columns[1], high=columns[2], runs=len(curves))


def shortened(band: Band, points: int = MAX_POINTS) -> Band:
    """Average a long curve over neighboring iterations, each part at its last iteration."""
    if len(band.iterations) <= points:
        return band
    parts = np.array_split(np.arange(len(band.iterations)), points)
    ends = tuple(band.iterations[part[-1]] for part in parts)
    columns = [
        tuple(float(np.mean([column[index] for index in part])) for part in parts)
        for column in (band.mean, band.low, band.high)
    ]
    return Band(ends, columns[0], columns[1], high=columns[2], runs=band.runs)


def grouped(runs: Sequence[Run]) -> list[RunGroup]:
    """Join runs whose settings differ only by ``run.seed``, and by name and root of their folders.

    Args:
        runs: in the order in which the groups shall be shown.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        settings = flat_settings(run.config)
        found.setdefault(repr(sorted(settings.items())) if settings else run.path.as_posix(), []).append(run)
    groups = []
    for members in found.values():
        ordered = tuple(sorted(members, key=lambda run: (str(run.seed), run.name)))
        groups.append(RunGroup(_label(ordered), ordered, flat_settings(ordered[0].config)))
    return _distinct(groups)


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return settings as text by dotted name, without what may differ between runs of one group."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat_settings(value, f"{name}.")
        elif name not in _OWN:
            found[name] = dump_yaml(value, flow=True).removesuffix("...\n").strip()
    return found


def differing_settings(groups: Sequence[RunGroup]) -> dict[str, list[str]]:
    """Return the settings in which groups differ: the value of each group by dotted name, a dash where it has none."""
    names = dict.fromkeys(name for group in groups for name in group.settings)
    values = {name: [group.settings.get(name, "–") for group in groups] for name in names}
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def _label(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    if len(runs) == 1:
        return names[0]
    stems = {_SEED.sub("", name) for name in names}
    return stems.pop() if len(stems) == 1 and stems != {""} else f"{names[0]} and {len(names) - 1} more"


def _distinct(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Number labels that occur twice, such as those of runs in different folders."""
    seen: dict[str, int] = {}
    named = []
    for group in groups:
        seen[group.label] = count = seen.get(group.label, 0) + 1
        named.append(group if count == 1 else RunGroup(f"{group.label} ({count})", group.runs, group.settings))
    return named
