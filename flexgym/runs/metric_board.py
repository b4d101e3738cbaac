"""The metrics of a run as the display shows them: which there are, their latest values and their curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from flexgym.core.metrics import MISSING, Metric, Panel, finite


@dataclass(frozen=True)
class Entry:
    """One metric as it is shown.

    Attributes:
        name: such as ``"policy/ratio_mean"``.
        metric: its kind and look.
        value: that of the last iteration, and of a sparse metric the last one measured; None where there is none.
        curve: iteration and value of all its measurements so far; empty for metrics without a curve.
    """

    name: str
    metric: Metric
    value: float | None
    curve: Sequence[tuple[int, float]] = ()

    @property
    def label(self) -> str:
        """Short name of the metric."""
        return self.metric.label or self.name

    @property
    def text(self) -> str:
        """The value with its unit; a dash where there is none."""
        return MISSING if self.value is None else self.metric.text(self.value)

    @property
    def group(self) -> str:
        """Begin of the name, which it shares with the metrics beside which it is shown."""
        return self.name.partition("/")[0] if "/" in self.name else ""


class MetricBoard:
    """Keeps what is known of the metrics of a run and arranges it for the display.

    Args:
        known: metrics that are shown from the start, by name, with or without values.
    """

    def __init__(self, known: Mapping[str, Metric]) -> None:
        self.iteration = 0
        self._metrics = {name: metric.with_value(math.nan) for name, metric in known.items()}
        self._row: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._curves: dict[str, list[tuple[int, float]]] = {}

    def take(self, row: Mapping[str, Any]) -> None:
        """Take in the row of an iteration.

        Args:
            row: ``iteration``, and metrics or numbers by name. Numbers whose metric is not known are not shown.
        """
        self._metrics |= {name: value.with_value(math.nan) for name, value in row.items() if isinstance(value, Metric)}
        self._row = {name: number for name, value in row.items() if (number := finite(value)) is not None}
        self._last |= self._row
        self.iteration = int(self._row.get("iteration", self.iteration))
        for name, number in self._row.items():
            self._curves.setdefault(name, []).append((self.iteration, number))

    def panel(self, panel: Panel) -> list[Entry]:
        """Return the metrics of one panel by priority."""
        chosen = [(name, metric) for name, metric in self._metrics.items() if metric.panel == panel]
        return [self._entry(name, metric) for name, metric in sorted(chosen, key=lambda pair: pair[1].priority)]

    def groups(self) -> list[list[Entry]]:
        """Return the metrics of the panel ``"values"``, those whose names begin alike together."""
        entries = self.panel("values")
        order = list(dict.fromkeys(entry.group for entry in entries))
        together = sorted(entries, key=lambda entry: order.index(entry.group))
        return [list(group) for _, group in groupby(together, key=lambda entry: entry.group)]

    def duration(self) -> Entry | None:
        """Return the seconds of the last iteration, where a metric measures them."""
        return next(iter(self.panel("duration")), None)

    def is_due(self, entry: Entry) -> bool:
        """Return whether the last iteration should have measured a metric, or has."""
        return not entry.metric.sparse or entry.name in self._row

    def _entry(self, name: str, metric: Metric) -> Entry:
        values = self._last if metric.sparse else self._row
        curve = self._curves.get(name, ()) if metric.panel == "headline" else ()
        return Entry(name, metric, value=values.get(name), curve=curve)
