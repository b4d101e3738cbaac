"""Draw curves as SVG for a page: colors are variables of its style sheet, and no text of a run is in the drawing."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flexgym.core.errors import ConfigError
from flexgym.report.grouping import Band, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_COLORS = 7
"""Number of colors, and of dash patterns with them, that the style sheet has for groups."""
# Placeholder colors, which the drawing replaces by the CSS variables --series-0 and so on, --ink and --rule.
_SERIES = [f"#0100{index:02x}" for index in range(NUM_COLORS)]
_INK, _RULE, _ALARM = "#020001", "#020002", "#020003"
_VARIABLES = {
    **{color: f"var(--series-{index})" for index, color in enumerate(_SERIES)},
    _INK: "var(--ink)",
    _RULE: "var(--rule)",
    _ALARM: "var(--alarm)",
}
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (3, 1)),
    (0, (8, 3)),
    (0, (1, 2.5)),
)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "path.simplify": True,
}
_HEAD = re.compile(r"^.*?(?=<svg)", re.S)
_METADATA = re.compile(r"<metadata>.*?</metadata>\s*", re.S)
_NAMES = re.compile(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)')
_PATH = re.compile(r'\bd="[^"]*"')
_DIGITS = re.compile(r"(\d\.\d)\d+")
_OWN_STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>\s*", re.S)
_FONT = re.compile(r"font: ([\d.]+px) [^;\"]*")


@dataclass(frozen=True)
class Series:
    """A curve of a group in a figure.

    Attributes:
        color: index of the group, from which color and dash pattern follow.
        band: mean and interval.
    """

    color: int
    band: Band


def draw_curves(
    series: Sequence[Series], key: str, *, marks: Sequence[int] = (), size: tuple[float, float] = (4.1, 2.2)
) -> str:
    """Draw curves with their intervals over the iterations.

    Args:
        series: the curves.
        key: distinguishes the ids of this drawing from those of others on the page; letters and digits.
        marks: iterations with a vertical line, such as those of an alarm.
        size: width and height in inches.

    Returns:
        An ``svg`` element.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("a report needs matplotlib: pip install 'flexgym[report]'") from error
    with rc_context({**_STYLE, "svg.hashsalt": key}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        for each in series:
            _draw(axes, each)
        for iteration in marks:
            axes.axvline(iteration, color=_ALARM, linewidth=1.0, linestyle=(0, (2, 2)))
        axes.grid(alpha=0.6, linewidth=0.5)
        axes.locator_params(axis="both", nbins=5)
        axes.tick_params(length=0)
        buffer = io.StringIO()
        empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    return _for_page(buffer.getvalue(), key)


def _draw(axes: Axes, series: Series) -> None:
    band, index = shortened(series.band), series.color % NUM_COLORS
    color, dashes = _SERIES[index], _DASHES[index]
    if band.runs > 1:
        axes.fill_between(band.iterations, band.low, band.high, color=color, alpha=0.18, linewidth=0)
    marker = "o" if len(band.iterations) < 2 else ""
    axes.plot(band.iterations, band.mean, color=color, linestyle=dashes, linewidth=1.6, marker=marker, markersize=4)


def _for_page(svg: str, key: str) -> str:
    """Return a drawing without prolog, with ids of its own, with variables for colors, and as wide as its place."""
    svg = _METADATA.sub("", _HEAD.sub("", svg, count=1))
    svg = _NAMES.sub(f"{key}-", svg)
    svg = _FONT.sub(r"font: \1 sans-serif", svg)
    svg = _PATH.sub(lambda match: _DIGITS.sub(r"\1", match[0]), _OWN_STYLE.sub("", svg))
    svg = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", svg, count=2)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
