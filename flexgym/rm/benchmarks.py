"""Public benchmarks of judges, read from files on disk: how their rows become pairs, and how each counts ties.

Nothing is downloaded. Each benchmark is an entry in `BENCHMARKS` with a function that converts its rows.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from flexgym.core.errors import unknown_name
from flexgym.core.json_text import parse_json
from flexgym.data.convert.base import LeftOut, both, make, need
from flexgym.data.problems import DataError, DataReport, Place, RowError, Tally
from flexgym.data.raw import data_files, read_raw
from flexgym.data.raw_row import RawRow
from flexgym.data.reading import ReadOptions, checked_media, media_folder, raw_values
from flexgym.data.schema import PreferencePair, Side
from flexgym.rm.evaluation_figures import TieRule

PAIRS = "pairs"
"""Name of FlexGym's own preference pairs, accepted wherever a benchmark is named."""

_MAX_DOCUMENT = 2**28
_LETTERS: Mapping[str, Side] = {"A": 0, "B": 1, "same": None}
_VOTES: Mapping[str, Side] = {"leftvote": 0, "rightvote": 1, "tievote": None, "bothbad_vote": None}
_BETTER: Mapping[str, Side] = {"Video 1 better": 0, "Video 2 better": 1, "Same": None, "Hard to judge": None}


@dataclass(frozen=True)
class Benchmark:
    """Definition of a benchmark.

    Attributes:
        name: name used to select the benchmark.
        about: one-line description of the content and its files.
        read: function that converts one row to a pair, with media names as in the source; raises `RowError`.
        ties: how tied labels are counted.
        headline: the figure of `flexgym.rm.evaluation_figures.Figures` that is reported in publications.
        raw: function that reads the raw rows of a file.
    """

    name: str
    about: str
    read: Callable[[Mapping[str, Any]], PreferencePair | LeftOut]
    ties: TieRule = "left_out"
    headline: str = "accuracy"
    raw: Callable[[Path], Iterator[RawRow]] = field(default=read_raw)


def read_csv(path: Path) -> Iterator[RawRow]:
    """Read the rows of a CSV file with a header; other files are read by `read_raw`.

    Raises:
        DataError: if the file cannot be read as CSV in UTF-8.
    """
    if path.suffix.lower() != ".csv":
        yield from read_raw(path)
        return
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, values in enumerate(csv.DictReader(file), start=1):
                yield RawRow(Place(path, number, "row"), number - 1, {str(key): cell for key, cell in values.items()})
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as CSV after row {number}: {error}") from None


def read_document(path: Path) -> Iterator[RawRow]:
    """Read the elements of the list ``pairs`` in a JSON object; other files are read by `read_raw`.

    Raises:
        DataError: if the document is invalid, has no such list, or is larger than 256 MiB.
    """
    if path.suffix.lower() != ".json":
        yield from read_raw(path)
        return
    if path.stat().st_size > _MAX_DOCUMENT:
        raise DataError(f"{path}: expected a JSON document of at most {_MAX_DOCUMENT} bytes; split it")
    try:
        document = parse_json(path.read_bytes(), nan=True)
    except ValueError as error:
        raise DataError(f"{path}: expected a JSON document: {error}") from None
    rows = document.get("pairs") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a JSON object with the list 'pairs', got {type(document).__name__}")
    for number, values in enumerate(rows, start=1):
        place = Place(path, number, "row")
        if isinstance(values, dict):
            yield RawRow(place, number - 1, values)
        else:
            problem = RowError("wrong_type", f"expected a JSON object, got {type(values).__name__}")
            yield RawRow(place, number - 1, problem=problem)


def _labeled(values: Mapping[str, Any], key: str, labels: Mapping[str, Side]) -> Side:
    label = need(values, key)
    if label not in labels:
        raise RowError("invalid", f"{key}: expected one of {', '.join(map(repr, labels))}, got {label!r:.80}")
    return labels[label]


def _about(source: str, values: Mapping[str, Any], category: str = "category") -> dict[str, Any]:
    """Return the id, source and category of a benchmark row, as far as known."""
    name = next((values[key] for key in ("id", "pair_id", "idx") if values.get(key) is not None), None)
    kind = values.get(category)
    return {"source": source, "id": name, "category": kind if isinstance(kind, str) and kind else None}


def _genai_bench(values: Mapping[str, Any], *, kind: str) -> PreferencePair:
    """Convert a row with ``prompt``, ``left_image``, ``right_image`` (or videos), ``vote_type``."""
    first, second = both(values, f"left_{kind}", f"right_{kind}")
    winner = _labeled(values, "vote_type", _VOTES)
    pair = {"prompt": need(values, "prompt"), "kind": kind, "first": first, "second": second, "winner": winner}
    return make(PreferencePair, pair | _about("GenAI-Bench", values))


def _mmrb2(values: Mapping[str, Any]) -> PreferencePair | LeftOut:
    """Convert a row with ``prompt_content, response_a, response_b, chosen``; only text-to-image rows are supported."""
    prompt = _contents(need(values, "prompt_content"), "prompt_content")
    if any(kind != "text" for kind, _ in prompt):
        return LeftOut("prompt with images")
    shown = []
    for key in ("response_a", "response_b"):
        response = need(values, key)
        content = need(response, "response_content") if isinstance(response, dict) else response
        images = [value for kind, value in _contents(content, key) if kind == "image"]
        if len(images) != 1:
            return LeftOut("response that is not one image")
        shown.append(images[0])
    winner = _labeled(values, "chosen", {"A": 0, "B": 1})
    text = "\n".join(str(value) for _, value in prompt)
    pair = {"prompt": text, "kind": "image", "first": shown[0], "second": shown[1], "winner": winner}
    return make(PreferencePair, pair | _about("MMRB2", values, "prompt_source"))


def _contents(value: Any, key: str) -> list[tuple[str, Any]]:
    """Parse a list of pairs of kind and value, such as ``["text", "a cat"]``."""
    fits = isinstance(value, list) and all(isinstance(part, list) and len(part) == 2 for part in value)
    if not fits:
        raise RowError("wrong_type", f'{key}: expected a list such as [["text", "a cat"]], got {value!r:.80}')
    return [(str(kind), content) for kind, content in value]


def _mj_bench_video(values: Mapping[str, Any]) -> PreferencePair | LeftOut:
    """Convert a row with ``caption, video_0_path, video_1_path, overall_preference``, with aspects if present.

    Labels count videos from 1, paths from 0. ``category_preference`` gives the aspects.
    """
    if values.get("discard") is True:
        return LeftOut("discarded by its authors")
    first, second = both(values, "video_0_path", "video_1_path")
    by_aspect = values.get("category_preference") or {}
    if not isinstance(by_aspect, Mapping):
        raise RowError("wrong_type", f"category_preference: expected labels by aspect, got {by_aspect!r:.80}")
    aspects = {name: _labeled(by_aspect, name, _BETTER) for name, label in by_aspect.items() if label}
    pair = {"prompt": need(values, "caption"), "kind": "video", "first": first, "second": second}
    labels = {"winner": _labeled(values, "overall_preference", _BETTER), "aspects": aspects}
    return make(PreferencePair, pair | labels | _about("MJ-Bench-Video", values))


def _videogen_rewardbench(values: Mapping[str, Any]) -> PreferencePair:
    """Convert a row with ``prompt, path_A, path_B, VQ, MQ, TA, Overall``."""
    first, second = both(values, "path_A", "path_B")
    aspects = {name: _labeled(values, name, _LETTERS) for name in ("VQ", "MQ", "TA") if values.get(name)}
    pair = {"prompt": need(values, "prompt"), "kind": "video", "first": first, "second": second}
    labels = {"winner": _labeled(values, "Overall", _LETTERS), "aspects": aspects}
    return make(PreferencePair, pair | labels | _about("VideoGen-RewardBench", values))


BENCHMARKS: dict[str, Benchmark] = {
    known.name: known
    for known in (
        Benchmark(
            "genai_bench_image",
            "GenAI-Bench (TIGER-Lab), image_generation: Parquet or JSON Lines; both kinds of tie are labels",
            partial(_genai_bench, kind="image"),
            ties="scored",
        ),
        Benchmark(
            "genai_bench_video",
            "GenAI-Bench (TIGER-Lab), video_generation: Parquet or JSON Lines; both kinds of tie are labels",
            partial(_genai_bench, kind="video"),
            ties="scored",
        ),
        Benchmark(
            "mmrb2",
            "Multimodal RewardBench 2 (arXiv 2512.16899), text to image: t2i.json next to its images; no ties",
            _mmrb2,
            ties="refused",
            headline="accuracy_dropped",
            raw=read_document,
        ),
        Benchmark(
            "mj_bench_video",
            "MJ-Bench-Video (arXiv 2502.01719): test.json next to its videos; tied labels are left out; an undecided"
            " judge is wrong (strict) or half right (tie-aware)",
            _mj_bench_video,
            headline="strict",
        ),
        Benchmark(
            "videogen_rewardbench",
            "VideoGen-RewardBench (arXiv 2501.13918): CSV next to its videos; reported with and without ties",
            _videogen_rewardbench,
            ties="scored",
            raw=read_csv,
        ),
        Benchmark(
            PAIRS,
            "FlexGym's own preference pairs: JSON Lines or Parquet; ties are left out",
            partial(make, PreferencePair),
        ),
    )
}
"""Benchmarks by name."""


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark with the given name.

    Raises:
        UnknownNameError: if there is none; the message suggests the nearest name.
    """
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


class BenchmarkRows:
    """Stream of the pairs of a benchmark; bad rows are counted, and too many of them raise an error.

    Args:
        benchmark: the benchmark.
        paths: its files.
        options: where media are, how they are checked, and how bad rows are handled.

    Raises:
        DataError: if a file is missing, or given twice.
    """

    def __init__(self, benchmark: Benchmark, paths: list[Path], options: ReadOptions | None = None) -> None:
        self.benchmark, self.files = benchmark, data_files(paths)
        self._options = options or ReadOptions()
        self._tally: Tally | None = None

    @property
    def report(self) -> DataReport:
        """Return the counts of the last pass, up to its current position."""
        return self._tally.report if self._tally else DataReport()

    def __iter__(self) -> Iterator[PreferencePair]:
        """Iterate over the pairs, with absolute paths of their media.

        Raises:
            DataError: if a file is unreadable, too many rows are bad, or none is good.
        """
        with Tally(self._options.bad, ", ".join(map(str, self.files))) as tally:
            self._tally = tally
            for path in self.files:
                yield from self._rows_of(path, tally)
            tally.finish()

    def _rows_of(self, path: Path, tally: Tally) -> Iterator[PreferencePair]:
        folder = media_folder(path, self._options)
        for raw in self.benchmark.raw(path):
            try:
                row = self.benchmark.read(raw_values(raw))
                if not isinstance(row, LeftOut):
                    row = checked_media(row, folder, self._options.check)
            except RowError as problem:
                tally.set_aside(raw.place, problem, raw.line if raw.values is None else raw.values)
                continue
            if isinstance(row, LeftOut):
                tally.skip(row.reason)
                continue
            tally.add_good()
            yield row
