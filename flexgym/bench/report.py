"""Show the figures of a benchmark, and their ratios, at the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flexgym.bench.compare import Ratio
from flexgym.bench.result import BenchResult, Operator, PhaseFigures
from flexgym.core.metrics import MISSING
from flexgym.core.terminal import terminal
from flexgym.planning.devices import Device

_HEADINGS = ("samples/s", "from, to", "seconds", "of rate", "GiB", "planned")
_ASSUMED = Device.efficiency


def show(result: BenchResult) -> None:
    """Print the table of a benchmark, and what it says about the plan."""
    device = result.device
    table = Table("phase", title=f"{result.settings.get('recipe', '')} on {device.name}", box=SIMPLE_HEAD)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for phase in result.phases:
        table.add_row(phase.name, *_cells(result, phase))
    console = terminal()
    console.print(table)
    for line in _lines(result):
        console.print(line, soft_wrap=True)
    for part in dict.fromkeys(each.part for each in result.operators):
        console.print(_operators([each for each in result.operators if each.part == part], part))


def _cells(result: BenchResult, phase: PhaseFigures) -> list[str]:
    low, high = phase.spread
    return [
        f"{phase.samples_per_second:.4g}",
        f"{low:.3g}, {high:.3g}",
        f"{phase.median:.3g}",
        _number(result.share(phase), "{:.1%}".format),
        _number(phase.peak_gib, "{:.3f}".format),
        _number(phase.planned_gib, "{:.3f}".format),
    ]


def _number(value: float | None, shown: Callable[[float], str]) -> str:
    return MISSING if value is None else shown(value)


def _lines(result: BenchResult) -> list[str]:
    device, first = result.device, result.phases[0]
    rounds = len(first.seconds)
    return [
        f"100 % of the rate: {device.matrix_tflops:,.4g} x 10^12 operations per second, large products in"
        f" {device.dtype} on this device; `flexgym plan` assumes {_ASSUMED:.0%}",
        f"medians of {rounds} round{'' if rounds == 1 else 's'} of {first.samples} samples, after a warm-up of"
        f" {result.warm_up}; the judge is measured alone, and runs beside the rest in `iteration`",
        *_memory_lines(result),
    ]


def _memory_lines(result: BenchResult) -> list[str]:
    compared = [
        (phase.peak_gib / phase.planned_gib, phase.name)
        for phase in result.phases
        if phase.peak_gib and phase.planned_gib
    ]
    if not compared:
        return []
    furthest, name = max(compared, key=lambda each: abs(each[0] - 1.0))
    return [f"memory: the phase furthest from its plan, {name}, took {furthest:.2f} of it"]


def _operators(operators: Sequence[Operator], part: str) -> Table:
    table = Table("share", "seconds", "calls", "operator", title=f"slowest in the {part}", box=SIMPLE_HEAD)
    for each in operators:
        table.add_row(f"{each.share:.1%}", f"{each.seconds:.3g}", str(each.calls), each.name)
    return table


def show_comparison(compared: Sequence[Ratio], warnings: Sequence[str]) -> None:
    """Print ratios, and before them what is not the same.

    Args:
        compared: phases of two benchmarks.
        warnings: result of `flexgym.bench.compare.differences`.
    """
    console = terminal()
    for line in warnings:
        console.print(Text.assemble(("differs: ", "yellow"), line), soft_wrap=True)
    if warnings:
        console.print("The ratios below compare two different measurements: see the lines above.", soft_wrap=True)
    table = Table("phase", "A samples/s", "B samples/s", "B / A", "memory B / A", "", box=SIMPLE_HEAD)
    for each in compared:
        table.add_row(
            each.phase,
            f"{each.first:.4g}",
            f"{each.second:.4g}",
            f"{each.speed:.3f}",
            _number(each.memory, "{:.3f}".format),
            "rounds overlap" if each.overlap else "",
        )
    console.print(table)
