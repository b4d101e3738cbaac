"""An evaluation as a folder: a Markdown report, the same as JSON, and what was said about each pair."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flexgym.core.errors import ConfigError
from flexgym.core.files import write_atomic
from flexgym.rm.evaluation_figures import CONFIDENCE, Figures, PairResult, Share, Summary

REPORT = "report.md"
FIGURES = "report.json"
PAIRS_SAID = "pairs.jsonl"

TITLES = {
    "accuracy": "accuracy, failures wrong",
    "accuracy_dropped": "accuracy, failures dropped",
    "accuracy_with_ties": "accuracy with ties",
    "accuracy_with_leads": "accuracy with ties by points",
    "order_consistency": "same in both orders",
    "first_position_rate": "first position",
    "failure_share": "failed",
}
"""Headings of the figures, by the names of `Figures`."""


def prepare_folder(folder: Path) -> Path:
    """Make the folder of a report.

    Raises:
        ConfigError: a report is there already, or the folder cannot be made.
    """
    if (folder / FIGURES).exists():
        raise ConfigError(f"{folder} holds a report already: name another folder, or remove this one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: the folder of the report cannot be made: {error.strerror}") from error
    return folder


def recorded(results: Iterable[PairResult], folder: Path) -> Iterator[PairResult]:
    """Pass results on, and write each of them to `PAIRS_SAID` as it comes."""
    with (folder / PAIRS_SAID).open("w", encoding="utf-8") as file:
        for result in results:
            file.write(json.dumps(result.to_row()) + "\n")
            file.flush()
            yield result


def write_report(folder: Path, summary: Summary, settings: Mapping[str, Any]) -> None:
    """Write both reports.

    Args:
        folder: see `prepare_folder`.
        summary: the figures.
        settings: what was evaluated and how, such as judge, date and files; plain values by name.
    """
    figures = _without_nan({"settings": dict(settings), "confidence": CONFIDENCE, **dataclasses.asdict(summary)})
    write_atomic(folder / REPORT, markdown(summary, settings).encode())
    write_atomic(folder / FIGURES, (json.dumps(figures, indent=2, allow_nan=False) + "\n").encode())


def markdown(summary: Summary, settings: Mapping[str, Any]) -> str:
    """The report as Markdown.

    Args:
        summary: the figures.
        settings: see `write_report`.
    """
    shown = {"overall": summary.overall, **{_plain(name): found for name, found in summary.categories.items()}}
    names = [name for name in TITLES if getattr(summary.overall, name) is not None]
    heads = ["", "pairs", "ties", "judgements", *(TITLES[name] for name in names)]
    rows = [
        [name, *map(str, (found.pairs, found.ties, found.judgements)), *(cell(found, each) for each in names)]
        for name, found in shown.items()
    ]
    parts = ["# Evaluation of a judge", _table(["setting", "value"], [[k, _plain(v)] for k, v in settings.items()])]
    parts += ["## Figures", _table(heads, rows), _FOOTNOTE]
    if summary.overall.failures:
        kinds = [[kind, f"{value:.2%}"] for kind, value in summary.overall.failures.items()]
        parts += ["## Failures", _table(["kind", "share of the judgements"], kinds)]
    return "\n\n".join(parts) + "\n"


_FOOTNOTE = (
    f"Brackets hold intervals at {CONFIDENCE:.0%} over pairs: Wilson's where pairs count as a whole or are all alike,"
    " else a percentile bootstrap. Accuracy is over pairs whose label is no tie, in all orders asked. With ties, the"
    " label may be a tie, and two orders that differ say tie; by points, a lead within the threshold that is best for"
    " these pairs does."
)


def cell(found: Figures, name: str) -> str:
    """A figure with its interval as text, such as ``81.0% [73.1%, 87.0%]``; a dash where there is none."""
    share: Share | float | None = getattr(found, name)
    if isinstance(share, float):
        return f"{share:.1%}"
    if share is None or not share.pairs:
        return "-"
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: Any) -> str:
    """A value in one cell of a table, where no bar or mark of its own can break it."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(f"\\{letter}" if letter in "\\|`*_<>[]" else letter for letter in " ".join(text.split()))


def _without_nan(value: Any) -> Any:
    """With null for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
