"""Read pairs in batches and build the judge's request for each, for distillation and for DPO pairs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from flexgym.core.errors import ConfigError, check_names
from flexgym.data import ORDERS, PreferencePair, Question, ReadOptions, RowError, in_orders, read_rows
from flexgym.data.files import MAX_PICTURES
from flexgym.data.problems import row_error
from flexgym.judge.inputs import Inputs
from flexgym.rm.replies import Query, make_query

TIE = "tie"
"""Reason for skipping a pair without a winner."""


@dataclass(frozen=True)
class ItemOptions:
    """Selection of the pairs to send to a model, and settings for the queries.

    Attributes:
        files: JSON Lines or Parquet files of preference pairs.
        question: how the judge is queried; must be the same when the judge is used.
        inputs: how images are resized and encoded for the judge; the number of frames is that of ``question``.
        orders: orders in which each pair is sent, one of `flexgym.data.ORDERS`.
        seed: seed of the coin that decides which candidate is shown first, for ``orders="shuffled"``.
        batch: number of pairs that are in memory and processed at once.
        ties: also send pairs without a winner.
        read: how the files are read.

    Raises:
        ConfigError: if the batch is below 1, or there are more frames than a row may have.
        UnknownNameError: if there are no such orders.
    """

    files: Sequence[Path]
    question: Question = field(default_factory=Question)
    inputs: Inputs = field(default_factory=Inputs)
    orders: str = "shuffled"
    seed: int = 0
    batch: int = 64
    ties: bool = False
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        check_names("orders of pairs", [self.orders], ORDERS)
        if self.batch < 1:
            raise ConfigError(f"batch: expected at least 1, got {self.batch}")
        if 2 * self.question.num_frames > MAX_PICTURES:
            raise ConfigError(
                f"num_frames: expected at most {MAX_PICTURES // 2}, since a row has at most {MAX_PICTURES} images,"
                f" got {self.question.num_frames}"
            )


def batches(options: ItemOptions, left_out: Counter[str]) -> Iterator[list[Query]]:
    """Yield batches of queries for all pairs of the files, in order.

    Args:
        options: which pairs, and how.
        left_out: updated with the number of skipped pairs, by reason.

    Raises:
        DataError: if a file is missing or unreadable, or too many of its rows are bad.
    """
    rows = iter(read_rows(list(options.files), PreferencePair, options=options.read))
    while pairs := list(itertools.islice(rows, options.batch)):
        yield list(_queries(pairs, options, left_out))


def _queries(pairs: list[PreferencePair], options: ItemOptions, left_out: Counter[str]) -> Iterator[Query]:
    for pair in pairs:
        if pair.winner is None and not options.ties:
            left_out[TIE] += 1
            continue
        for shown in in_orders(pair, options.orders, options.seed):
            try:
                yield make_query(shown, options.question, options.inputs)
            except RowError as problem:
                left_out[problem.kind] += 1
            except ValidationError as error:
                left_out[row_error(error).kind] += 1


def share_line(name: str, part: int, whole: int) -> str:
    """Format a count with its percentage, such as ``kept: 30 (60.0%)``."""
    return f"{name}: {part:,} ({part / whole:.1%})" if whole else f"{name}: {part:,}"


def reason_lines(reasons: Mapping[str, int], whole: int) -> list[str]:
    """Format one indented line per reason, most frequent first."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return [f"  {share_line(name, number, whole)}" for name, number in ordered if number]
