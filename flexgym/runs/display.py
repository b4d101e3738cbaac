"""The progress of a run for people: a live panel in a terminal, one line per iteration elsewhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flexgym.core.metrics import Max, Metric
from flexgym.core.outputs import drop_lost_outputs, write_error_line
from flexgym.core.terminal import terminal
from flexgym.runs.metric_board import Entry, MetricBoard

_BARS = "▁▂▃▄▅▆▇█"
_PHASE_COLORS = ("cyan", "magenta", "green", "yellow", "blue")
_OTHER_COLOR = "bright_black"
_CURVE_COLORS = ("cyan", "green", "magenta", "yellow")
_SPARK_WIDTH = 14
_WIDE = 70  # columns inside the panel from which the curves fit beside the values
_RECENT = 10
_SECONDS = Max(unit="s")


class TrainingDisplay:
    """Shows the metrics of a run; use as a context manager and call `update` after each iteration.

    Which metrics it shows, where, and how they are written follows from the metrics themselves, see
    `flexgym.core.metrics.Metric`.
    """

    def __init__(
        self,
        total: int,
        *,
        title: str,
        console: Console | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        known: Mapping[str, Metric] | None = None,
        deadline: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing shows before entering.

        Args:
            total: the iteration at which the run ends.
            title: what runs, such as ``"Pref-GRPO, runs/shapes"``.
            console: where to; standard output by default.
            history: rows of an earlier part of the run, for the curves and the base values.
            known: metrics of the history, and others that are shown before they are measured, by name.
            deadline: time of ``clock`` at which the run ends at the latest.
            clock: seconds, rising.
        """
        self._total = total
        self._title = title
        self._console = console or terminal()
        self._deadline = deadline
        self._clock = clock
        self._live: Live | None = None
        self._phase = "starting"
        self._notice = ""
        self._board = MetricBoard(known or {})
        self._durations: list[float] = []
        self._last_update: float | None = None
        for row in history:
            self._board.take(row)

    @property
    def is_live(self) -> bool:
        """True if the panel redraws itself in place."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def phase(self, name: str) -> None:
        """Say what the run does now, such as ``"rollout"``."""
        self._phase = name

    def update(self, row: Mapping[str, Any]) -> None:
        """Take in the metrics of a finished iteration.

        Args:
            row: ``iteration``, and metrics by name. A value that is missing, None or NaN shows as a dash. Plain numbers
                are shown where ``known`` or an earlier row holds their metric.
        """
        now = self._clock()
        if self._last_update is not None:
            self._durations = [*self._durations, now - self._last_update][-_RECENT:]
        self._last_update = now
        self._board.take(row)
        if self._live is not None:
            with _surviving_outputs():
                self._live.refresh()
        else:
            self._say(self._line())

    def note(self, text: str) -> None:
        """Write a line that stays, above the panel where there is one."""
        self._say(text)

    def announce(self, text: str) -> None:
        """Show ``text`` instead of the footer; safe inside a signal handler, for `GracefulInterrupt`."""
        self._notice = text
        if self._live is None:
            write_error_line(text)

    def seconds_left(self) -> float | None:
        """Estimate from the last iterations, at most until the deadline; None before the first one has ended."""
        pace, now = self._pace(), self._clock()
        if pace is None:
            return None
        since = now - self._last_update if self._last_update is not None else 0.0
        left = (self._total - self._board.iteration) * pace - min(since, pace)
        return max(0.0, min(left, self._deadline - now))

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
            self._phase = "finished" if kind is None and self._board.iteration >= self._total else "stopped"
            self._notice = ""
            with _surviving_outputs():
                self._live.stop()
            self._live = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the panel at the width of the console."""
        width = options.max_width - 4
        values, times = self._values(width), self._times(width)
        body = Group(self._progress(), Text(), values, Text(), *times, Text(), self._footer())
        title = Text(self._title, "bold")
        yield Panel(body, title=title, title_align="left", border_style="blue", padding=(0, 1))
        if self._live is not None:
            # The cursor then stays below the panel: the terminal's ^C would otherwise wrap from the panel's corner and
            # shift the next drawing by a line.
            yield Text()

    def _pace(self) -> float | None:
        """Return seconds per iteration: as measured between updates, else as the metrics say."""
        if self._durations:
            return sum(self._durations) / len(self._durations)
        duration = self._board.duration()
        return duration.value if duration else None

    def _progress(self) -> Table:
        left, iteration = self.seconds_left(), self._board.iteration
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        share = f"{100 * iteration / self._total:.0f}%" if self._total > 0 else ""
        remaining = f"{format_duration(left)} left" if left is not None else "time left unknown"
        if iteration >= self._total:
            remaining = "done"
        bar = ProgressBar(total=max(1, self._total), completed=iteration, complete_style="blue", finished_style="green")
        # No markup here: while a note is printed, the panel is drawn without it.
        done = Text.assemble("iteration ", (str(iteration), "bold"), f"/{self._total}")
        grid.add_row(done, bar, Text.assemble(f"{share}  ", (remaining, "bold")))
        return grid

    def _values(self, width: int) -> Table:
        """Render the headline metrics with their curves, then one line for each group of other metrics."""
        curves = width >= _WIDE
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bright_black", no_wrap=True)
        grid.add_column(style="bold", justify="right", no_wrap=True)
        if curves:
            grid.add_column(no_wrap=True, min_width=_SPARK_WIDTH)
        grid.add_column()
        for number, entry in enumerate(self._board.panel("headline")):
            over_time = entry.metric.over_time
            curve = Text(
                sparkline([value for _, value in entry.curve], merge=over_time), _cycled(_CURVE_COLORS, number)
            )
            grid.add_row(Text(entry.label), Text(entry.text), *([curve] if curves else []), _change(entry))
        for first, *others in self._board.groups():
            detail = _SideBySide([Text(f"{entry.label} {entry.text}") for entry in others], gap=3)
            grid.add_row(Text(first.label), Text(first.text), *([Text()] if curves else []), detail)
        return grid

    def _times(self, width: int) -> list[RenderableType]:
        parts = [
            (entry.label, entry.value, _cycled(_PHASE_COLORS, entry.metric.priority))
            for entry in self._board.panel("time")
            if entry.value is not None
        ]
        duration = self._board.duration()
        whole = duration.value if duration else None
        if not parts and whole is None:
            return [Text("no iteration has ended yet", "bright_black")]
        spent = sum(seconds for _, seconds, _ in parts)
        total = max(whole or 0.0, spent)
        parts.append(("other", total - spent, _OTHER_COLOR))
        legend = [Text.assemble(("time ", "bright_black"), (_SECONDS.text(total), "bold"))]
        legend += [Text.assemble(("■ ", color), f"{label} {_SECONDS.text(seconds)}") for label, seconds, color in parts]
        bar = _stacked([(seconds, color) for _, seconds, color in parts], max(8, width))
        return [bar, _SideBySide(legend, gap=2)]

    def _footer(self) -> Text | Table:
        if self._notice:
            return Text(self._notice, "bold yellow")
        grid = Table.grid(expand=True)
        grid.add_column()
        grid.add_column(justify="right", style="bright_black")
        running = self._live is not None and self._phase not in ("finished", "stopped")
        phase = Text.assemble(("now ", "bright_black"), self._phase)
        grid.add_row(phase, "Ctrl-C saves and stops" if running else "")
        return grid

    def _line(self) -> str:
        shown = [*self._board.panel("headline"), *(entry for group in self._board.groups() for entry in group)]
        parts = [f"iteration {self._board.iteration}/{self._total}"]
        parts += [f"{entry.label} {entry.text}" for entry in shown if self._board.is_due(entry)]
        parts += [f"{entry.label} {entry.text}" for entry in self._board.panel("time") if entry.value is not None]
        left = self.seconds_left()
        if left is not None and self._board.iteration < self._total:
            parts.append(f"left {format_duration(left)}")
        return "  ".join(parts)

    def _say(self, text: str) -> None:
        say(text, self._console)


def say(text: str, console: Console | None = None) -> None:
    """Write a line as it is; a closed terminal or a full disk under the output is no error.

    Args:
        text: the line.
        console: where to; standard output by default.
    """
    with _surviving_outputs():
        (console or terminal()).print(text, soft_wrap=True)


@contextlib.contextmanager
def _surviving_outputs() -> Iterator[None]:
    """Let a run survive its output, which may end before it does."""
    drop_lost_outputs()
    try:
        yield
    except (OSError, SystemExit):  # Rich exits where a pipe breaks
        drop_lost_outputs()


class _SideBySide:
    """Texts in a row, which breaks between two of them where the width ends.

    Args:
        texts: without line breaks.
        gap: spaces between two.
    """

    def __init__(self, texts: Sequence[Text], *, gap: int) -> None:
        self._texts, self._gap = texts, gap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the rows at the width of the panel."""
        line = Text()
        for text in self._texts:
            if line and line.cell_len + self._gap + text.cell_len > options.max_width:
                yield line
                line = Text()
            line.append(" " * self._gap if line else "")
            line.append_text(text)
        yield line

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the widths of the widest text and of all in one row."""
        widths = [text.cell_len for text in self._texts] or [0]
        return Measurement(max(widths), sum(widths) + self._gap * (len(widths) - 1)).with_maximum(options.max_width)


def sparkline(
    values: Sequence[float],
    width: int = _SPARK_WIDTH,
    *,
    merge: Callable[[Sequence[float]], float] = Metric.over_time,
) -> str:
    """Draw a curve in block characters, from the least value (lowest block) to the greatest.

    Args:
        values: any number; more than ``width`` are merged in equal parts.
        width: most characters.
        merge: makes one value of those of a part; their mean by default.

    Returns:
        At most ``width`` characters; the middle block where all values are equal.
    """
    if len(values) > width:
        edges = [round(index * len(values) / width) for index in range(width + 1)]
        values = [merge(values[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    if not values:
        return ""
    low, high = min(values), max(values)
    if high == low:
        return _BARS[3] * len(values)
    return "".join(_BARS[round((value - low) / (high - low) * 7)] for value in values)


def format_duration(seconds: float) -> str:
    """Write seconds as ``45 s``, ``3:05 min`` or ``2:05 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _change(entry: Entry) -> Text:
    """Say how a headline metric has changed: over its first measurement if it is sparse, else since the start."""
    if entry.metric.sparse:
        return _change_over_base(entry)
    values = [value for _, value in entry.curve]
    if len(values) < 2:
        return Text()
    window, merge = min(_RECENT, len(values) // 2), entry.metric.over_time
    return Text(f"{entry.metric.text(merge(values[-window:]) - merge(values[:window]), signed=True)} since the start")


def _change_over_base(entry: Entry) -> Text:
    if not entry.curve:
        return Text("not evaluated yet", "bright_black")
    (_, base), (iteration, latest) = entry.curve[0], entry.curve[-1]
    if len(entry.curve) == 1:
        return Text(f"at iteration {iteration}")
    style = "green" if latest > base else "yellow"
    change = entry.metric.text(latest - base, signed=True)
    return Text.assemble((change, style), f" over {entry.metric.text(base)} (iteration {iteration})")


def _cycled(colors: Sequence[str], number: int) -> str:
    return colors[number % len(colors)]


def _stacked(parts: Sequence[tuple[float, str]], width: int) -> Text:
    """Draw a bar of parts, each a size and a color; cuts are rounded so that the width is exact."""
    total = sum(size for size, _ in parts) or 1.0
    bar = Text(no_wrap=True)
    done, drawn = 0.0, 0
    for size, color in parts:
        done += size
        end = round(width * done / total)
        bar.append("━" * (end - drawn), color)
        drawn = end
    return bar
