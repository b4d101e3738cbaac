"""Evaluate a judge on labeled pairs: query each pair in both orders and keep the results as small records."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexgym.core.errors import ConfigError, check_names
from flexgym.data.media import load_sample
from flexgym.data.problems import RowError
from flexgym.data.schema import PreferencePair
from flexgym.data.shuffling import ORDERS, shuffle_sides
from flexgym.judge.protocol import Judge, JudgeFailure, Outcome, Pair
from flexgym.judge.verdict import Verdict
from flexgym.judge.vision_judge import VisionJudge
from flexgym.rm.evaluation_figures import PairResult, TieRule, Vote
from flexgym.types import Prompt, SampleGroup

Said = Sequence[tuple[tuple[int, int], Outcome]]
"""Outcomes of a pair, each with the order in which its candidates 0 and 1 were shown."""
OnPair = Callable[[PreferencePair, SampleGroup, Said], None]


@dataclass(frozen=True)
class EvaluationOptions:
    """Settings for judging pairs in an evaluation.

    Attributes:
        orders: orders in which each pair is judged, one of `flexgym.data.ORDERS`.
        ties: how tied labels are handled.
        batch: number of pairs that are in memory and judged at once.
        num_frames: number of frames shown per video.
        seed: seed of the coin for ``orders="shuffled"``.

    Raises:
        UnknownNameError: if there are no such orders; the message suggests the nearest name.
        ConfigError: if the batch or the number of frames is below 1.
    """

    orders: str = "both"
    ties: TieRule = "left_out"
    batch: int = 16
    num_frames: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_names("orders of an evaluation", [self.orders], ORDERS)
        for name in ("batch", "num_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of an evaluation: expected at least 1, got {getattr(self, name)}")


class Evaluation:
    """Judges labeled pairs in batches.

    Args:
        judge: the judge to evaluate.
        options: how pairs are judged.
        on_pair: called with each judged pair, its samples, and what the judge said in each order.

    Attributes:
        unusable: number of pairs that could not be shown, by kind of problem, see `flexgym.data.problems.KINDS`.
    """

    def __init__(
        self, judge: Judge, options: EvaluationOptions | None = None, *, on_pair: OnPair | None = None
    ) -> None:
        self._judge, self._options, self._on_pair = judge, options or EvaluationOptions(), on_pair
        self.unusable: Counter[str] = Counter()

    def results(self, rows: Iterable[PreferencePair]) -> Iterator[PairResult]:
        """Judge a stream of pairs.

        Args:
            rows: pairs whose media have paths that can be opened.

        Yields:
            One result per pair, in order; excluded ties have no votes. Pairs whose media cannot be loaded are counted
            in ``unusable`` and give no result.

        Raises:
            ConfigError: if candidates differ in size and the judge only compares samples of the same size.
        """
        remaining = iter(rows)
        while batch := list(itertools.islice(remaining, self._options.batch)):
            yield from self._judged([self._ordered(row) for row in batch])

    def _ordered(self, row: PreferencePair) -> PreferencePair:
        return shuffle_sides(row, self._options.seed) if self._options.orders == "shuffled" else row

    def _judged(self, rows: Sequence[PreferencePair]) -> Iterator[PairResult]:
        groups = [self._group(row) for row in rows]
        orders = ((0, 1), (1, 0)) if self._options.orders == "both" else ((0, 1),)
        pairs = [Pair(group, *order) for group in groups if isinstance(group, SampleGroup) for order in orders]
        outcomes = iter(self._judge.assess(pairs) if pairs else ())
        for row, group in zip(rows, groups, strict=True):
            if isinstance(group, RowError):
                self.unusable[group.kind] += 1
                continue
            said = [(order, next(outcomes)) for order in (orders if group else ())]
            votes = tuple(_vote(outcome, swapped=order[0] == 1) for order, outcome in said)
            if group and self._on_pair:
                self._on_pair(row, group, said)
            yield PairResult(row.id, row.category, row.winner, votes)

    def _group(self, row: PreferencePair) -> SampleGroup | RowError | None:
        """Load the samples for the judge; None for an excluded tie."""
        if row.winner is None and self._options.ties == "left_out":
            return None
        try:
            return as_group(row, self._options.num_frames, one_size=not isinstance(self._judge, VisionJudge))
        except RowError as problem:
            return problem


def as_group(row: PreferencePair, num_frames: int, *, one_size: bool = False) -> SampleGroup:
    """Load both candidates of a pair as a group of two samples.

    Args:
        row: the pair.
        num_frames: maximum number of frames per video.
        one_size: reject candidates that differ in size or length.

    Returns:
        The group. If the candidates differ in size, its samples are an array of two arrays, which `VisionJudge`
        supports.

    Raises:
        RowError: if a file cannot be read, or the frames of one video differ in size.
        ConfigError: if the sizes differ and ``one_size`` is set.
    """
    both = [load_sample(files, row.kind, num_frames=num_frames) for files in (row.first, row.second)]
    if both[0].shape == both[1].shape:
        return SampleGroup(Prompt(row.prompt), np.stack(both))
    if one_size:
        raise ConfigError(
            f"this judge needs samples of the same size, got {both[0].shape} and {both[1].shape}; use a model instead"
        )
    ragged: Any = np.empty(2, dtype=object)
    ragged[0], ragged[1] = both
    return SampleGroup(Prompt(row.prompt), ragged)


def _vote(outcome: Outcome, *, swapped: bool) -> Vote:
    if isinstance(outcome, JudgeFailure):
        return Vote(swapped, None, outcome.kind)
    dims = outcome.dims if isinstance(outcome, Verdict) else [dim for part in outcome.categories for dim in part.dims]
    return Vote(swapped, outcome.side, margin=sum(dim.score_1 - dim.score_2 for dim in dims))
