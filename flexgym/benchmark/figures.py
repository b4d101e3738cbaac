"""Learning curves and rankings of a benchmark as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from flexgym.benchmark.results import Point
from flexgym.benchmark.statistics import Interval, mean_interval
from flexgym.core.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Two of Okabe and Ito's colors, distinguishable with any kind of color vision, and grays.
_MINE, _BASE, _OTHERS, _GRID = "#0072B2", "#D55E00", "#c8c8c8", "#e4e4e4"
_COLUMNS = 4  # panels beside each other at most
_POINTS = 60
Axis = Literal["seconds", "samples"]


@dataclass(frozen=True, eq=False)
class MeanCurve:
    """The mean of the learning curves of an algorithm, with its interval.

    Attributes:
        places: points on the horizontal axis, ``[T]``.
        mean: mean over the runs at each, ``[T]``.
        low: lower bound of its interval.
        high: upper bound of its interval.
    """

    places: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def mean_curve(curves: Sequence[Sequence[Point]], axis: Axis) -> MeanCurve | None:
    """Return the mean of learning curves with its interval, on the range that all of them cover.

    Args:
        curves: one of each run.
        axis: horizontal axis, on which values between two verifications lie on a straight line.

    Returns:
        None without a curve of two points.
    """
    drawn = [curve for curve in curves if len(curve) > 1]
    if not drawn:
        return None
    places = np.linspace(0.0, min(float(getattr(curve[-1], axis)) for curve in drawn), _POINTS)
    values = [np.interp(places, [getattr(p, axis) for p in curve], [p.accuracy for p in curve]) for curve in drawn]
    return MeanCurve(places, *mean_interval(np.array(values)))


def curves_svg(
    curves: Mapping[str, Sequence[Sequence[Point]]], axis: Axis, *, baseline: str | None, titles: Mapping[str, str]
) -> str:
    """Draw a panel for each algorithm with mean and interval, before the means of all others.

    Args:
        curves: those of the runs by algorithm.
        axis: horizontal axis.
        baseline: algorithm that every panel shows in color.
        titles: titles of the algorithms.

    Returns:
        An SVG element.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    found = {name: drawn for name, each in curves.items() if (drawn := mean_curve(each, axis)) is not None}
    columns = min(max(len(found), 1), _COLUMNS)
    rows = -(-max(len(found), 1) // columns)
    figure = _figure(2.9 * columns, 2.1 * rows + 0.3)
    panels: Any = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for panel in list(panels.flat)[len(found) :]:
        panel.set_axis_off()
    for panel, name in zip(panels.flat, found, strict=False):
        for other, curve in found.items():
            if other != name:
                base = other == baseline
                panel.plot(curve.places, curve.mean, color=_BASE if base else _OTHERS, linewidth=1.4 if base else 0.8)
        mine = found[name]
        panel.fill_between(mine.places, mine.low, mine.high, color=_MINE, alpha=0.25, linewidth=0)
        panel.plot(mine.places, mine.mean, color=_MINE, linewidth=2.0)
        panel.set_title(_plain(titles.get(name, name)), fontsize=9)
        panel.grid(color=_GRID)
    figure.supxlabel("seconds of training" if axis == "seconds" else "samples", fontsize=9)
    figure.supylabel("accuracy on validation prompts", fontsize=9)
    return _svg(figure)


def ranking_svg(intervals: Mapping[str, Interval], *, base: float | None, titles: Mapping[str, str]) -> str:
    """Draw the interval of each algorithm on a line of its own.

    Args:
        intervals: by algorithm, from the first place on.
        base: accuracy before training, drawn as a line.
        titles: titles of the algorithms.

    Returns:
        An SVG element.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure = _figure(8.0, 0.27 * len(intervals) + 0.8)
    axes: Axes = figure.subplots()
    for place, interval in enumerate(intervals.values()):
        axes.plot([interval.low, interval.high], [place, place], color=_MINE, linewidth=5, alpha=0.35)
        axes.plot([interval.value], [place], "o", color=_MINE, markersize=5)
    if base is not None:
        axes.axvline(base, color=_BASE, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(intervals)), [_plain(titles.get(name, name)) for name in intervals], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("interquartile mean of accuracy, 95% interval; dashed: before training", fontsize=9)
    axes.grid(axis="x", color=_GRID)
    return _svg(figure)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib: pip install 'flexgym[compare]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _plain(text: str) -> str:
    """Return a text in which no dollar sign begins a formula."""
    return text.replace("$", r"\$")
