"""What a person watches while a run goes on: a live panel in a terminal, one line per iteration elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flexgym.runs.interrupt import write_notice

REWARD = "reward/mean"
ACCURACY = "eval/verifier_accuracy"
LOG_RATIO = "policy/max_abs_log_ratio"
RATIO = "policy/ratio_mean"
CLIPPED = "policy/clip_share"
ITERATION_S = "time/iteration_s"
PHASES = {"rollout": "time/rollout_s", "reward": "time/reward_s", "update": "time/update_s"}

_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = {"rollout": "cyan", "reward": "magenta", "update": "green", "other": "bright_black"}
_SPARK_WIDTH = 14
_WIDE = 70  # columns inside the panel from which the curves fit beside the values
_RECENT = 10
_NONE = "–"


class TrainingDisplay:
    """Shows the metrics of a run; use as a context manager and call `update` after each iteration."""

    def __init__(
        self,
        total: int,
        *,
        title: str,
        console: Console | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing shows before entering.

        Args:
            total: the iteration at which the run ends.
            title: what runs, such as ``"Pref-GRPO, runs/shapes"``.
            console: where to; standard output by default.
            history: rows of an earlier part of the run, for the curves and the base value.
            clock: seconds, rising.
        """
        self._total = total
        self._title = title
        self._console = console or Console()
        self._clock = clock
        self._live: Live | None = None
        self._phase = "starting"
        self._notice = ""
        self._iteration = 0
        self._row: dict[str, float] = {}
        self._names: set[str] = set()
        self._rewards: list[float] = []
        self._accuracies: list[tuple[int, float]] = []
        self._durations: list[float] = []
        self._last_update: float | None = None
        for row in history:
            self._take(row)

    @property
    def is_live(self) -> bool:
        """Whether the panel redraws itself in place."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def phase(self, name: str) -> None:
        """Say what the run does now, such as ``"rollout"``."""
        self._phase = name

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Take in the metrics of a finished iteration.

        Args:
            metrics: ``iteration`` and any of the names in this module; what is missing, None or NaN shows as a dash.
                What no metrics of the run ever name is left out, such as ratios of an algorithm without them.
        """
        now = self._clock()
        if self._last_update is not None:
            self._durations = [*self._durations, now - self._last_update][-_RECENT:]
        self._last_update = now
        self._take(metrics)
        if self._live is not None:
            self._live.refresh()
        else:
            self._say(self._line(metrics))

    def note(self, text: str) -> None:
        """Write a line that stays, above the panel where there is one."""
        self._say(text)

    def announce(self, text: str) -> None:
        """Show ``text`` instead of the footer; safe inside a signal handler, for `GracefulInterrupt`."""
        self._notice = text
        if self._live is None:
            write_notice(text)

    def seconds_left(self) -> float | None:
        """Estimate from the last iterations; None before the first one has ended."""
        pace = self._pace()
        if pace is None:
            return None
        since = self._clock() - self._last_update if self._last_update is not None else 0.0
        return max(0.0, (self._total - self._iteration) * pace - min(since, pace))

    def __enter__(self) -> TrainingDisplay:
        self._last_update = None
        if self.is_live:
            self._live = Live(console=self._console, get_renderable=lambda: self, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._phase = "finished" if kind is None and self._iteration >= self._total else "stopped"
            self._notice = ""
            self._live.stop()
            self._live = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The panel, for rich."""
        width = options.max_width - 4
        values, times = self._values(width), self._times(width)
        body = Group(self._progress(), Text(), values, Text(), *times, Text(), self._footer())
        yield Panel(
            body, title=f"[bold]{escape(self._title)}[/]", title_align="left", border_style="blue", padding=(0, 1)
        )
        if self._live is not None:
            # The cursor then rests below the panel: the terminal's ^C would otherwise wrap from the panel's corner and
            # shift the next drawing by a line.
            yield Text()

    def _take(self, metrics: Mapping[str, Any]) -> None:
        row = {name: number for name, value in metrics.items() if (number := _number(value)) is not None}
        self._row = row
        self._names |= metrics.keys()
        self._iteration = int(row.get("iteration", self._iteration))
        if REWARD in row:
            self._rewards.append(row[REWARD])
        if ACCURACY in row:
            self._accuracies.append((self._iteration, row[ACCURACY]))

    def _pace(self) -> float | None:
        """Seconds per iteration: as measured between updates, else as the metrics say."""
        if self._durations:
            return sum(self._durations) / len(self._durations)
        return self._row.get(ITERATION_S)

    def _progress(self) -> Table:
        left = self.seconds_left()
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        share = f"{100 * self._iteration / self._total:.0f}%" if self._total > 0 else ""
        remaining = f"{format_duration(left)} left" if left is not None else "time left unknown"
        if self._iteration >= self._total:
            remaining = "done"
        bar = ProgressBar(
            total=max(1, self._total), completed=self._iteration, complete_style="blue", finished_style="green"
        )
        grid.add_row(f"iteration [bold]{self._iteration}[/]/{self._total}", bar, f"{share}  [bold]{remaining}[/]")
        return grid

    def _values(self, width: int) -> Table:
        accuracies = [value for _, value in self._accuracies]
        curves = width >= _WIDE
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bright_black", no_wrap=True)
        grid.add_column(style="bold", justify="right", no_wrap=True)
        if curves:
            grid.add_column(no_wrap=True, min_width=_SPARK_WIDTH)
        grid.add_column()
        rows = [
            ("reward", _fixed(self._row.get(REWARD)), Text(sparkline(self._rewards), "cyan"), self._reward_change()),
            ("verified accuracy", _fixed(_last(accuracies)), Text(sparkline(accuracies), "green"), self._gain()),
        ]
        if LOG_RATIO in self._names:
            ratios = f"ratio mean {_fixed(self._row.get(RATIO), 4)}   clipped {_percent(self._row.get(CLIPPED))}"
            rows.append(("max |log ratio|", _scientific(self._row.get(LOG_RATIO)), Text(), Text(ratios)))
        for name, value, curve, detail in rows:
            grid.add_row(name, value, *([curve] if curves else []), detail)
        return grid

    def _reward_change(self) -> Text:
        if len(self._rewards) < 2:
            return Text()
        window = min(_RECENT, len(self._rewards) // 2)
        first, last = self._rewards[:window], self._rewards[-window:]
        return Text(f"{sum(last) / window - sum(first) / window:+.3f} since the start")

    def _gain(self) -> Text:
        if not self._accuracies:
            return Text("not evaluated yet", "bright_black")
        (_, base), (iteration, latest) = self._accuracies[0], self._accuracies[-1]
        if len(self._accuracies) == 1:
            return Text(f"at iteration {iteration}")
        style = "green" if latest > base else "yellow"
        return Text.assemble((f"{latest - base:+.3f}", style), f" over {base:.3f} (iteration {iteration})")

    def _times(self, width: int) -> list[Text]:
        total = self._row.get(ITERATION_S)
        parts = {name: self._row[key] for name, key in PHASES.items() if key in self._row}
        if not parts:
            return [Text("no iteration has ended yet", "bright_black")]
        total = max(total or 0.0, sum(parts.values()))
        parts["other"] = total - sum(parts.values())
        legend = Text()
        legend.append("time ", "bright_black")
        legend.append(_seconds(total), "bold")
        for name, value in parts.items():
            legend.append("  ■ ", _COLOURS[name])
            legend.append(f"{name} {_seconds(value)}")
        return [_stacked(parts, max(8, width)), legend]

    def _footer(self) -> Text | Table:
        if self._notice:
            return Text(self._notice, "bold yellow")
        grid = Table.grid(expand=True)
        grid.add_column()
        grid.add_column(justify="right", style="bright_black")
        running = self._live is not None and self._phase not in ("finished", "stopped")
        grid.add_row(f"[bright_black]now[/] {escape(self._phase)}", "Ctrl-C saves and stops" if running else "")
        return grid

    def _line(self, metrics: Mapping[str, Any]) -> str:
        row = self._row
        parts = [f"iteration {self._iteration}/{self._total}", f"reward {_fixed(row.get(REWARD))}"]
        if _number(metrics.get(ACCURACY)) is not None:
            parts.append(f"verified {_fixed(row.get(ACCURACY))}")
        if LOG_RATIO in self._names:
            parts.append(f"max|log ratio| {_scientific(row.get(LOG_RATIO))}")
            parts.append(f"ratio {_fixed(row.get(RATIO), 4)}")
            parts.append(f"clipped {_percent(row.get(CLIPPED))}")
        parts += [f"{name} {_seconds(row[key])}" for name, key in PHASES.items() if key in row]
        left = self.seconds_left()
        if left is not None and self._iteration < self._total:
            parts.append(f"left {format_duration(left)}")
        return "  ".join(parts)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def sparkline(values: Sequence[float], width: int = _SPARK_WIDTH) -> str:
    """A curve in block characters, from the least value (lowest block) to the greatest.

    Args:
        values: any number; more than ``width`` are averaged in equal parts.
        width: most characters.

    Returns:
        At most ``width`` characters; the middle block where all values are equal.
    """
    if len(values) > width:
        edges = [round(index * len(values) / width) for index in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    if not values:
        return ""
    low, high = min(values), max(values)
    if high == low:
        return _BARS[3] * len(values)
    return "".join(_BARS[round((value - low) / (high - low) * 7)] for value in values)


def format_duration(seconds: float) -> str:
    """Seconds as ``45 s``, ``3:05 min`` or ``2:05 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _number(value: Any) -> float | None:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _last(values: Sequence[float]) -> float | None:
    return values[-1] if values else None


def _fixed(value: float | None, digits: int = 3) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f}%"


def _scientific(value: float | None) -> str:
    if value is None:
        return _NONE
    return "0" if value == 0 else f"{value:.1e}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 99.95 else f"{value:.0f} s"


def _stacked(parts: Mapping[str, float], width: int) -> Text:
    """A bar whose stretches stand to each other as ``parts``; cuts are rounded so that the width is exact."""
    total = sum(parts.values()) or 1.0
    bar = Text(no_wrap=True)
    done, drawn = 0.0, 0
    for name, value in parts.items():
        done += value
        end = round(width * done / total)
        bar.append("━" * (end - drawn), _COLOURS[name])
        drawn = end
    return bar
