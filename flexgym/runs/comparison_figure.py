"""Figure of a comparison: each reward's own curve, and verifier, diversity and cost of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flexgym.core.errors import ConfigError
from flexgym.runs.comparison import AGAINST_REFERENCE, DIVERSITY, VERIFIER, ComparedRun, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, distinguishable with any kind of color vision; its yellow is too pale for lines.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_ROW_OF_OWN = 4  # panels beside each other at most


def draw_comparison(runs: Sequence[ComparedRun], path: str | Path) -> None:
    """Draw a panel for each reward's own curve, and below them verifier, diversity and cost of all.

    Thin lines are seeds, the thick one is their mean over the iterations that all of them have.

    Args:
        runs: of all rewards and seeds.
        path: file to write; its suffix selects the format, such as ``.png`` or ``.svg``.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib: pip install 'flexgym[report]'") from error
    labels = list(dict.fromkeys(run.label for run in runs))
    colors = {label: _COLORS[index % len(_COLORS)] for index, label in enumerate(labels)}
    columns = min(len(labels), _ROW_OF_OWN)
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(11.0, 2.4 * rows + 3.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.4 * rows, 3.2])
    upper, lower = parts
    for index, label in enumerate(labels):
        mine = [run for run in runs if run.label == label]
        _draw_own(upper.add_subplot(rows, columns, index + 1), label, mine, color=colors[label])
    verifier, diversity, cost = lower.subplots(1, 3)
    for axes, metric, title in (
        (verifier, VERIFIER, "held-out accuracy (verifier)"),
        (diversity, DIVERSITY, "diversity within the group"),
    ):
        for label in labels:
            _draw_curves(axes, [run.curve(metric) for run in runs if run.label == label], colors[label], label=label)
        _finish(axes, title)
    _draw_cost(cost, runs, colors)
    lower.legend(*verifier.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


def _draw_own(axes: Axes, label: str, runs: Sequence[ComparedRun], *, color: str) -> None:
    """Draw the reward's own curve, in its own scale."""
    against = any(run.own_name == AGAINST_REFERENCE for run in runs)
    _draw_curves(axes, [run.curve(run.own_name) for run in runs], color, label=label)
    _finish(axes, label)
    axes.set_ylabel("wins against the start" if against else "mean reward")


def _draw_curves(axes: Axes, curves: Sequence[Curve], color: str, *, label: str) -> None:
    drawn = [dict(curve) for curve in curves if curve]
    for curve in drawn:
        axes.plot(list(curve), list(curve.values()), color=color, linewidth=0.8, alpha=0.4)
    shared = sorted(set.intersection(*map(set, drawn))) if drawn else []
    means = [float(np.mean([curve[iteration] for curve in drawn])) for iteration in shared]
    axes.plot(shared, means, color=color, linewidth=2.0, label=label)


def _draw_cost(axes: Axes, runs: Sequence[ComparedRun], colors: Mapping[str, str]) -> None:
    """Draw the seconds of an iteration, and below them those in which the reward was at work."""
    for place, label in enumerate(colors):
        found = [run.figures() for run in runs if run.label == label]
        axes.barh(place - 0.2, _mean(found, "iteration_s"), 0.38, color=colors[label])
        axes.barh(place + 0.2, _mean(found, "reward_s"), 0.38, color=colors[label], alpha=0.45)
    axes.set_yticks(range(len(colors)), list(colors))
    axes.invert_yaxis()
    axes.set_title("seconds: iteration, below it the reward", fontsize=10)
    axes.grid(axis="x", alpha=0.3)


def _mean(found: Sequence[Mapping[str, Any]], name: str) -> float:
    values = [figures[name] for figures in found if figures[name] is not None]
    return float(np.mean(values)) if values else 0.0


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("iteration")
    axes.grid(alpha=0.3)
