"""Findings as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from flexgym.core.terminal import terminal
from flexgym.doctor.findings import Finding

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def show(findings: Sequence[Finding]) -> None:
    """Print findings, one line each, with the advice below, and the number of problems and warnings.

    Args:
        findings: in the order in which they are printed.
    """
    console = terminal()
    for finding in findings:
        line = Text.assemble((f"{finding.level:<8}", _STYLES[finding.level]), f"{finding.check:<9} {finding.what}")
        console.print(line, soft_wrap=True)
        if finding.advice:
            console.print(f"{'':<17} {finding.advice}", soft_wrap=True)
    counts = {level: sum(finding.level == level for finding in findings) for level in ("problem", "warning")}
    said = [f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts.items()]
    console.print(", ".join(said), soft_wrap=True)
