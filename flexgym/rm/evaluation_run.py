"""One evaluation from files to a report, as the command runs it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flexgym.judge.command_options import JudgeOptions
from flexgym.judge.protocol import Judge
from flexgym.rm.benchmarks import BenchmarkRows, find_benchmark
from flexgym.rm.data.reading import ReadOptions
from flexgym.rm.evaluation import Evaluation, EvaluationOptions
from flexgym.rm.evaluation_figures import Summary, summarise
from flexgym.rm.evaluation_report import REPORT, TITLES, cell, prepare_folder, recorded, write_report


class EvaluationRun:
    """A judge on the files of a benchmark.

    Args:
        files: of the benchmark.
        out: the folder of the report.
        benchmark: its name, see `flexgym.rm.benchmarks.BENCHMARKS`.
        orders: see `flexgym.rm.data.ORDERS`.
        media: folder of images and videos; that of each file when None.
        batch: pairs that are asked at a time.

    Raises:
        UnknownNameError: no such benchmark or orders; the message holds the nearest one.
        ConfigError: no positive batch.
        DataError: a file is missing, or given twice.
    """

    def __init__(
        self, files: list[Path], out: Path, *, benchmark: str, orders: str, media: Path | None, batch: int
    ) -> None:
        self._benchmark = find_benchmark(benchmark)
        self._options = EvaluationOptions(orders=orders, ties=self._benchmark.ties, batch=batch)
        self._rows = BenchmarkRows(self._benchmark, files, ReadOptions(folder=media))
        self._out = out

    def write(self, judge: Judge, asked: JudgeOptions) -> Summary:
        """Judge all pairs and write the report.

        Args:
            judge: who is asked.
            asked: what the report says about the judge.

        Returns:
            The figures.

        Raises:
            ConfigError: a report is there already, or candidates that this judge cannot compare.
            DataError: a file is broken as a whole, too many rows are bad, or none is good.
        """
        folder = prepare_folder(self._out)
        options = dataclasses.replace(self._options, num_frames=asked.inputs.num_frames)
        evaluation = Evaluation(judge, options)
        results = recorded(evaluation.results(self._rows), folder)
        summary = summarise(results, ties=self._benchmark.ties)
        unusable = dict(evaluation.unusable)
        write_report(folder, summary, self._settings(asked) | ({"unusable pairs": unusable} if unusable else {}))
        return summary

    def lines(self, summary: Summary) -> list[str]:
        """What a person is told at the end."""
        told = [
            f"{TITLES[name]}: {cell(summary.overall, name)}"
            for name in TITLES
            if getattr(summary.overall, name) is not None
        ]
        return [self._rows.report.describe(), *told, f"Report: {self._out / REPORT}"]

    def _settings(self, asked: JudgeOptions) -> dict[str, Any]:
        return {
            "judge": list(asked.judge),
            "dialect": asked.dialect,
            "backend": asked.backend or "what fits",
            "prompt template": str(asked.prompt_template or "the dialect's own"),
            "benchmark": self._benchmark.name,
            "headline": self._benchmark.headline,
            "ties": self._benchmark.ties,
            "files": [str(path) for path in self._rows.files],
            "rows": self._rows.report.describe(),
            "orders": self._options.orders,
            "seed": self._options.seed,
            "frames of a video": asked.inputs.num_frames,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "flexgym": version("flexgym"),
        }
