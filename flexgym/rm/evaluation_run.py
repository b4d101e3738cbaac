"""Run an evaluation from data files to a report, as the command does."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flexgym.commands.judge_options import JudgeOptions
from flexgym.data.reading import ReadOptions
from flexgym.judge.protocol import Judge
from flexgym.rm.benchmarks import BenchmarkRows, find_benchmark
from flexgym.rm.evaluation import Evaluation, EvaluationOptions
from flexgym.rm.evaluation_examples import WrongExamples
from flexgym.rm.evaluation_figures import Summary, summarize
from flexgym.rm.evaluation_report import REPORT, TITLES, cell, prepare_folder, recorded, write_report


class EvaluationRun:
    """Evaluation of a judge on the files of a benchmark.

    Args:
        files: files of the benchmark.
        out: folder of the report.
        benchmark: name of the benchmark, see `flexgym.rm.benchmarks.BENCHMARKS`.
        orders: orders in which each pair is judged, see `flexgym.data.ORDERS`.
        media: folder of images and videos; None uses the folder of each file.
        batch: number of pairs that are judged at once.

    Raises:
        UnknownNameError: if there is no such benchmark or orders; the message suggests the nearest name.
        ConfigError: if the batch is below 1.
        DataError: if a file is missing, or given twice.
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
            judge: the judge to evaluate.
            asked: options of the judge, recorded in the report.

        Returns:
            The figures.

        Raises:
            ConfigError: if a report already exists, or the judge does not support the candidates.
            DataError: if a file is unreadable, too many rows are bad, or none is good.
        """
        folder = prepare_folder(self._out)
        options = dataclasses.replace(self._options, num_frames=asked.inputs.num_frames)
        examples = WrongExamples()
        evaluation = Evaluation(judge, options, on_pair=examples.add)
        results = recorded(evaluation.results(self._rows), folder)
        summary = summarize(results, ties=self._benchmark.ties)
        examples.write(folder)
        unusable = dict(evaluation.unusable)
        write_report(folder, summary, self._settings(asked) | ({"unusable pairs": unusable} if unusable else {}))
        return summary

    def lines(self, summary: Summary) -> list[str]:
        """Return the lines that the command prints at the end."""
        figures = [
            f"{TITLES[name]}: {cell(summary.overall, name)}"
            for name in TITLES
            if getattr(summary.overall, name) is not None
        ]
        return [self._rows.report.describe(), *figures, f"Report: {self._out / REPORT}"]

    def _settings(self, asked: JudgeOptions) -> dict[str, Any]:
        return {
            "judge": list(asked.judge),
            "dialect": asked.dialect,
            "backend": asked.backend or "automatic",
            "prompt template": str(asked.prompt_template or "built-in"),
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
