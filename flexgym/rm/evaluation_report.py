"""Write an evaluation to a folder: a report as Markdown and as JSON, and the results of each pair."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flexgym.core.errors import ConfigError
from flexgym.core.files import open_writing, write_atomic
from flexgym.core.intervals import CONFIDENCE
from flexgym.core.metrics import without_nan
from flexgym.rm.evaluation_figures import Figures, PairResult, Share, Summary

REPORT = "report.md"
FIGURES = "report.json"
PAIRS_SAID = "pairs.jsonl"

TITLES = {
    "accuracy": "accuracy, failures wrong",
    "accuracy_dropped": "accuracy, failures dropped",
    "strict": "strict",
    "tie_aware": "tie-aware",
    "accuracy_with_ties": "accuracy with ties",
    "accuracy_with_leads": "accuracy with ties by points",
    "order_consistency": "same in both orders",
    "first_position_rate": "first position",
    "failure_share": "failed",
}
"""Headings of the figures, by the field names of `Figures`."""


def prepare_folder(folder: Path) -> Path:
    """Create the folder of a report.

    Raises:
        ConfigError: if it already contains a report, or cannot be created.
    """
    if (folder / FIGURES).exists():
        raise ConfigError(f"{folder} already contains a report: choose another folder, or remove this one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot create the folder of the report: {error.strerror}") from error
    return folder


def recorded(results: Iterable[PairResult], folder: Path) -> Iterator[PairResult]:
    """Pass results through, and write each one to the file `PAIRS_SAID` as it arrives."""
    with open_writing(folder / PAIRS_SAID) as file:
        for result in results:
            file.write(json.dumps(result.to_row()).encode() + b"\n")
            file.flush()
            yield result


def write_report(folder: Path, summary: Summary, settings: Mapping[str, Any]) -> None:
    """Write the report as Markdown and as JSON.

    Args:
        folder: folder from `prepare_folder`.
        summary: the figures.
        settings: settings of the evaluation, such as judge, date and files; plain values by name.
    """
    figures = without_nan({"settings": dict(settings), "confidence": CONFIDENCE, **dataclasses.asdict(summary)})
    write_atomic(folder / REPORT, markdown(summary, settings).encode())
    write_atomic(folder / FIGURES, (json.dumps(figures, indent=2, allow_nan=False) + "\n").encode())


def markdown(summary: Summary, settings: Mapping[str, Any]) -> str:
    """Format the report as Markdown.

    Args:
        summary: the figures.
        settings: settings of the evaluation, see `write_report`.
    """
    shown = {"overall": summary.overall, **{_plain(name): found for name, found in summary.categories.items()}}
    names = [name for name in TITLES if getattr(summary.overall, name) is not None]
    heads = ["", "pairs", "ties", "judgments", *(TITLES[name] for name in names)]
    rows = [
        [name, *map(str, (found.pairs, found.ties, found.judgements)), *(cell(found, each) for each in names)]
        for name, found in shown.items()
    ]
    parts = ["# Evaluation of a judge", _table(["setting", "value"], [[k, _plain(v)] for k, v in settings.items()])]
    parts += ["## Figures", _table(heads, rows), _FOOTNOTE]
    if summary.overall.failures:
        kinds = [[kind, f"{value:.2%}"] for kind, value in summary.overall.failures.items()]
        parts += ["## Failures", _table(["kind", "share of the judgments"], kinds)]
    return "\n\n".join(parts) + "\n"


_FOOTNOTE = (
    f"Brackets are {CONFIDENCE:.0%} confidence intervals over pairs: Wilson's if pairs count fully or not at all or are"
    " all equal, otherwise a percentile bootstrap. Accuracy is over pairs whose label is not a tie, in all orders. With"
    " ties, labels may be ties, and two orders with different winners count as a tie; by points, a lead within a"
    " threshold counts as a tie, where the threshold is the best one for these pairs. Strict counts a pair as right"
    " only if all orders name the labeled winner; tie-aware counts half a pair where the judge is undecided."
)


def cell(found: Figures, name: str) -> str:
    """Format a figure with its interval, such as ``81.0% [73.1%, 87.0%]``, or as a dash if it is missing."""
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
    """Format a value for a table cell, with all Markdown characters escaped."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(f"\\{letter}" if letter in "\\|`*_<>[]" else letter for letter in " ".join(text.split()))
