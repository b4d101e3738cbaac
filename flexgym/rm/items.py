"""Pairs in bounded batches, each with its question: what distillation and the making of pairs begin with."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from flexgym.core.errors import ConfigError, check_names
from flexgym.judge.inputs import Inputs
from flexgym.rm.data import ORDERS, PreferencePair, Question, ReadOptions, RowError, in_orders, read_rows
from flexgym.rm.data.files import MAX_PICTURES
from flexgym.rm.data.problems import row_error
from flexgym.rm.replies import Query, make_query

TIE = "tie"
"""Why a pair without a winner is left out."""


@dataclass(frozen=True)
class ItemOptions:
    """Which pairs are asked about, and how.

    Attributes:
        files: of preference pairs, JSON Lines or Parquet.
        question: the same as when the judge is used.
        orders: in which each pair is asked about, one of `flexgym.rm.data.ORDERS`.
        seed: of the coin that decides which candidate stands first, for ``orders="shuffled"``.
        batch: pairs in memory and under way at once.
        ties: whether pairs without a winner are asked about, too.
        read: how the files are read.

    Raises:
        ConfigError: no positive batch, or more frames than a row may show.
        UnknownNameError: no such orders.
    """

    files: Sequence[Path]
    question: Question = field(default_factory=Question)
    orders: str = "shuffled"
    seed: int = 0
    batch: int = 64
    ties: bool = False
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        check_names("orders of pairs", [self.orders], ORDERS)
        if self.batch < 1:
            raise ConfigError(f"batch: expected at least 1 pair at a time, got {self.batch}")
        if 2 * self.question.num_frames > MAX_PICTURES:
            raise ConfigError(
                f"num_frames: expected at most {MAX_PICTURES // 2}, since a row shows {MAX_PICTURES} pictures at most,"
                f" got {self.question.num_frames}"
            )


def batches(options: ItemOptions, left_out: Counter[str]) -> Iterator[list[Query]]:
    """Queries about all pairs of the files, in their order.

    Args:
        options: which pairs.
        left_out: takes the number of pairs that cannot be asked about, by reason.

    Raises:
        DataError: a file is missing or broken, or too many of its rows are bad.
    """
    rows = iter(read_rows(list(options.files), PreferencePair, options=options.read))
    while pairs := list(itertools.islice(rows, options.batch)):
        yield list(_queries(pairs, options, left_out))


def _queries(pairs: list[PreferencePair], options: ItemOptions, left_out: Counter[str]) -> Iterator[Query]:
    inputs = Inputs(num_frames=options.question.num_frames)
    for pair in pairs:
        if pair.winner is None and not options.ties:
            left_out[TIE] += 1
            continue
        for shown in in_orders(pair, options.orders, options.seed):
            try:
                yield make_query(shown, options.question, inputs)
            except RowError as problem:
                left_out[problem.kind] += 1
            except ValidationError as error:
                left_out[row_error(error).kind] += 1


def share_line(name: str, part: int, whole: int) -> str:
    """A number with its share, such as ``kept: 30 (60.0%)``."""
    return f"{name}: {part:,} ({part / whole:.1%})" if whole else f"{name}: {part:,}"


def reason_lines(reasons: Mapping[str, int], whole: int) -> list[str]:
    """One indented line for each reason, the most frequent first."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return [f"  {share_line(name, number, whole)}" for name, number in ordered if number]
