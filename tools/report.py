"""Figures against their limits, and the table that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.tables import table


@dataclass(frozen=True)
class Figure:
    """One measured rule.

    Attributes:
        name: the measured quantity, with its unit.
        value: the measurement.
        limit: the largest allowed value, or the smallest if ``floor``; None for a figure that is only reported.
        offenders: ``file:line`` and a name for everything behind a broken limit.
        floor: True if ``limit`` is a lower bound.
    """

    name: str
    value: float
    limit: int | None = None
    offenders: tuple[str, ...] = ()
    floor: bool = False

    @property
    def held(self) -> bool:
        """True if the value is within the limit."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.floor else self.value <= self.limit

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Cells of the table: name, value, limit, verdict."""
        if self.limit is None:
            return self.name, f"{self.value:.4g}", "", ""
        verdict = "ok" if self.held else "UNDER" if self.floor else "OVER"
        return self.name, f"{self.value:.4g}", f"{'>=' if self.floor else '<='} {self.limit}", verdict


def report(figures: Sequence[Figure]) -> str:
    """Return the table of ``figures``, followed by the offenders of each broken limit."""
    lines = [table(("rule", "value", "limit", ""), [figure.row for figure in figures])]
    for figure in figures:
        if not figure.held:
            lines += ["", f"{figure.name}:", *(f"  {offender}" for offender in figure.offenders)]
    return "\n".join(lines)
